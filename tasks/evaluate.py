"""Evaluate: COCO metrics, per class, with curves and errors."""

from __future__ import annotations

from pathlib import Path

from models.training.evaluation import evaluate as evaluate_checkpoint
from models.training.options import DetectionData, EvaluateOptions
from tasks.convert import Images
from tasks.stage import product
from tasks.store import FileRef


@product("models.training.evaluation")
def evaluate(folder: Path, checkpoint: FileRef, coco: FileRef, images: Images, options: EvaluateOptions) -> None:
    """Write ``metrics.json`` and ``detections.json`` for one checkpoint on one split."""
    metrics = evaluate_checkpoint(checkpoint.path, DetectionData(coco.path, images.root), folder, options=options)
    lines = [f"AP {metrics['bbox']['AP']:.3f}, AP50 {metrics['bbox']['AP50']:.3f}, {metrics['images']} images", ""]
    lines += ["| class | AP | AP50 | truths |", "|---|---:|---:|---:|"]
    lines += [f"| {c['name']} | {c['AP']:.3f} | {c['AP50']:.3f} | {c['truths']} |" for c in metrics["per_class"]]
    (folder / "summary.md").write_text("\n".join(lines) + "\n")
