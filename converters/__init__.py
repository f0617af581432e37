"""Annotations in, COCO out: plain Python without torch or Prefect."""
