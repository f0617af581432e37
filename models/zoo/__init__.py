"""Detectors by name."""
