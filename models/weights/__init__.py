"""Pretrained weights: fetch, read, plan, apply."""
