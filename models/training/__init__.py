"""Data, the loop, evaluation, prediction."""
