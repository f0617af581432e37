"""Evaluate: COCO metrics or accuracy, per class, with curves and errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.training.evaluation import evaluate as evaluate_checkpoint
from models.training.options import DetectionData, EvaluateOptions
from tasks.convert import Images
from tasks.stage import product
from tasks.store import FileRef


@product("models.training.evaluation")
def evaluate(folder: Path, checkpoint: FileRef, coco: FileRef, images: Images, options: EvaluateOptions) -> None:
    """Write ``metrics.json`` and ``detections.json`` for one checkpoint on one split."""
    metrics = evaluate_checkpoint(checkpoint.path, DetectionData(coco.path, images.root), folder, options=options)
    (folder / "summary.md").write_text(_summary(metrics))


def headline_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The scores to go by in a ``metrics.json``, 0..1: COCO's box metrics, or a classifier's accuracy."""
    scores = metrics.get("bbox") or metrics["accuracy"]
    return {name: value for name, value in scores.items() if value is not None}


def _summary(metrics: Mapping[str, Any]) -> str:
    of_all, of_class = (("top1", "top5"), ("recall", "precision")) if "accuracy" in metrics else (("AP", "AP50"),) * 2
    scores = headline_scores(metrics)
    lines = [f"{', '.join(f'{name} {scores[name]:.3f}' for name in of_all)}, {metrics['images']} images", ""]
    lines += [f"| class | {' | '.join(of_class)} | truths |", "|---|---:|---:|---:|"]
    for row in metrics["per_class"]:
        lines.append(f"| {row['name']} | {' | '.join(f'{row[name]:.3f}' for name in of_class)} | {row['truths']} |")
    return "\n".join(lines) + "\n"
