"""Evaluate: COCO metrics or accuracy, per class, with curves and errors; of the best checkpoint and of the last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from models.training.evaluation import evaluate as evaluate_checkpoint
from models.training.folder import read_summary
from models.training.options import DetectionData, EvaluateOptions
from tasks.convert import Images
from tasks.stage import as_text, product
from tasks.store import FileRef, Product

LAST_METRICS = "last/metrics.json"  # what the last checkpoint reached, beside what the best did
MEASURES = {
    "AP": "AP", "AP50": "AP50", "AR": "AR", "mask_AP": "mask AP", "mask_AR": "mask AR",
    "VOC_AP": "VOC AP", "VOC_AP11": "VOC AP11",
}  # fmt: skip
CLASSIFIER_MEASURES = {"recall": "recall", "precision": "precision"}


@product("models.training.evaluation")
def evaluate(
    folder: Path,
    checkpoint: FileRef,
    coco: FileRef,
    images: Images,
    options: EvaluateOptions,
    last: FileRef | None = None,
) -> None:
    """Write ``metrics.json`` and ``detections.json`` for a checkpoint on one split.

    Where ``last`` is given, the checkpoint that its run ended with, ``last/`` holds the same of that one.
    """
    data = DetectionData(coco.path, images.root)
    metrics = evaluate_checkpoint(checkpoint.path, data, folder, options=options)
    ended = evaluate_checkpoint(last.path, data, (folder / LAST_METRICS).parent, options=options) if last else None
    (folder / "summary.md").write_text(metrics_text(metrics, ended))


def last_of(trained: Product) -> FileRef | None:
    """The checkpoint that a run ended with; None where that is its best one, and there is nothing to compare."""
    summary = read_summary(trained.path)
    return trained.file("last.pt") if summary and summary.best_step != summary.steps else None


def last_metrics(evaluated: Product) -> Path | None:
    """What the last checkpoint reached, where it was scored beside the best."""
    return evaluated.path / LAST_METRICS if evaluated.has(LAST_METRICS) else None


def headline_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The scores to go by in a ``metrics.json``, 0..1: COCO's box metrics, or a classifier's accuracy."""
    scores = metrics.get("bbox") or metrics["accuracy"]
    return {name: value for name, value in scores.items() if value is not None}


def read_headline(path: Path) -> dict[str, float]:
    """:func:`headline_scores` of a file."""
    return headline_scores(orjson.loads(path.read_bytes()))


def metrics_text(metrics: Mapping[str, Any], last: Mapping[str, Any] | None = None) -> str:
    """One line, and a table of the classes; the last checkpoint's figures beside those of the best."""
    versions = {"": metrics} | ({", last": last} if last else {})
    named = CLASSIFIER_MEASURES if "accuracy" in metrics else MEASURES
    shown = [key for key in named if all(key in row for row in metrics["per_class"])]
    heads = [named[key] + when for key in shown for when in versions]
    ended = f"; last checkpoint {_reached(last)}" if last else ""
    lines = [f"{_reached(metrics)}, {_seen(metrics)}{ended}", ""]
    lines += [f"| class | {' | '.join(heads)} | truths |", f"|---{'|---:' * (len(heads) + 1)}|"]
    for number, row in enumerate(metrics["per_class"]):
        values = [_shown(version["per_class"][number][key]) for key in shown for version in versions.values()]
        lines.append(f"| {as_text(row['name'])} | {' | '.join(values)} | {row['truths']} |")
    return "\n".join(lines) + "\n"


def _reached(metrics: Mapping[str, Any]) -> str:
    """The two measures that come first, in a line; of masks the first."""
    scores, names = headline_scores(metrics), ("top1", "top5") if "accuracy" in metrics else ("AP", "AP50")
    text = ", ".join(f"{name} {_shown(scores[name])}" for name in names)
    text += f", mask AP {_shown(metrics['segm']['AP'])}" if "segm" in metrics else ""
    return f"{text}, VOC mAP {_shown(metrics['voc']['AP'])}" if "voc" in metrics else text


def _seen(metrics: Mapping[str, Any]) -> str:
    """How much was looked at; of objects that were cut out of their images each is a picture."""
    return f"{metrics['objects']} pictures" if "accuracy" in metrics else f"{metrics['images']} images"


def _shown(score: float) -> str:
    """A score; a dash for COCO's -1, where there was nothing to measure."""
    return f"{score:.3f}" if score >= 0 else "-"
