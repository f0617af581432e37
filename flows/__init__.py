"""Composition, configuration and the command line."""
