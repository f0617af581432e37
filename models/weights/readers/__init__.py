"""One module per family of containers; none of them runs what is in the file."""
