"""COCO and a checkpoint in, a fine-tuned checkpoint and its metrics out: torch, but no Prefect."""
