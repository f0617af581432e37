"""Evaluate a checkpoint on a COCO set: detections and metrics as files that are the same on every run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from models.errors import TrainingError
from models.files import write_json
from models.training import accuracy
from models.training.anchors import anchor_recall
from models.training.assemble import Assembled, assemble, pick_device, placed
from models.training.coco import CocoTable, load_coco, read_coco
from models.training.dataset import PlainImages
from models.training.detect import detect
from models.training.given import read_results
from models.training.images import UnreadableImageError
from models.training.mistakes import confusion, error_kinds, image_mistakes
from models.training.options import DetectionData, EvaluateOptions
from models.training.scores import (
    Engine,
    Kind,
    Result,
    accumulate,
    complete_truth,
    curves_of,
    hotcoco_evaluation,
    per_class,
    pick_engine,
    precision_recall,
    summary,
)
from models.training.voc_scores import voc_scores
from models.zoo import Detector, DetectorOptions


def evaluate(
    checkpoint: Path, data: DetectionData, folder: Path, *, options: EvaluateOptions | None = None
) -> dict[str, Any]:
    """Score a checkpoint and write ``detections.json`` and ``metrics.json`` into ``folder``.

    Args:
        checkpoint: one of ours; the averaged weights are used where it has them.
        data: the images and their truth.
        folder: where the two files go; made if absent.
        options: see :class:`EvaluateOptions`.

    Returns:
        The content of ``metrics.json`` and, not in the file, ``seconds``.

    Raises:
        WeightsError: not a checkpoint of ours, or one of other classes.
        TrainingError: an image cannot be read: a score on a part of the set would mislead.
    """
    options = options or EvaluateOptions()
    started = time.perf_counter()
    device = pick_device(options.device)
    assembled = assemble(checkpoint)
    table = table_of(data, assembled)
    dataset = PlainImages(table, data.images, assembled.size)
    try:
        results = detect(
            placed(assembled.model, device),
            dataset,
            device,
            batch_size=options.batch_size,
            workers=options.workers,
            min_score=options.min_score,
        )
    except UnreadableImageError as error:
        raise TrainingError(f"{error}. Repair it or take it out of {data.coco}") from error
    truth = complete_truth(load_coco(data.coco))
    if assembled.detector.task == "classification":
        metrics = accuracy.measure(truth, results)
    else:
        metrics = measure(truth, results, masks=assembled.detector.masks, options=options)
    recall = anchor_recall(table, DetectorOptions(**assembled.meta.options))
    metrics |= {} if recall is None else {"best_possible_recall": recall}
    _write(folder, results, metrics)
    return {**metrics, "seconds": time.perf_counter() - started}


def score(found: Path, truth: Path, folder: Path, *, options: EvaluateOptions | None = None) -> dict[str, Any]:
    """Score detections that are there already, whoever found them, as :func:`evaluate` scores those of a checkpoint.

    Args:
        found: COCO results; see :func:`models.training.given.read_results`.
        truth: the COCO file that has what is there.
        folder: where ``detections.json`` and ``metrics.json`` go; made if absent.
        options: see :class:`EvaluateOptions`; those about images and devices are not used.

    Returns:
        The content of ``metrics.json``.

    Raises:
        ValueError: not COCO results, or of other pictures or classes.
    """
    options = options or EvaluateOptions()
    whole = complete_truth(load_coco(truth))
    results = [row for row in read_results(found, whole) if row["score"] >= options.min_score]
    masks = bool(results) and all("segmentation" in row for row in results)
    metrics = measure(whole, results, masks=masks, options=options)
    _write(folder, results, metrics)
    return metrics


def _write(folder: Path, results: list[Result], metrics: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "detections.json", results)
    write_json(folder / "metrics.json", metrics)


def table_of(data: DetectionData, assembled: Assembled, *, masks: bool = False, skip_empty: bool = False) -> CocoTable:
    """A COCO file as the model learns from it: image by image, or for a classifier object by object."""
    table = read_coco(data.coco, assembled.meta.classes, masks=masks, skip_empty=skip_empty)
    return table.one_by_one() if assembled.detector.task == "classification" else table


def measure(truth: dict[str, Any], results: list[Result], *, masks: bool, options: EvaluateOptions) -> dict[str, Any]:
    """Everything that can be said of these detections; the same dict for the same input.

    Args:
        truth: from :func:`models.training.scores.complete_truth`.
        results: detections.
        masks: score the masks too.
        options: engine and thresholds.
    """
    engine = pick_engine(options.engine)
    evaluation = hotcoco_evaluation(truth, results, "bbox") if engine == "hotcoco" else None
    curves = curves_of(evaluation) if evaluation is not None else accumulate(truth, results, "bbox", engine)
    metrics: dict[str, Any] = {"bbox": summary(curves)}
    mask_curves = accumulate(truth, results, "segm", engine) if masks and has_outlines(truth) else None
    if mask_curves is not None:
        metrics["segm"] = summary(mask_curves)
    metrics["per_class"] = per_class(curves, truth, results, mask_curves)
    if options.voc:
        metrics |= add_voc(metrics["per_class"], voc_scores(truth, results))
    metrics["curves"] = precision_recall(curves, truth)
    metrics["images"] = len(truth["images"])
    if evaluation is not None:
        metrics["confusion"] = confusion(evaluation, options.confusion_score)
        metrics["errors"] = error_kinds(evaluation)
        metrics |= image_mistakes(truth, results, options.confusion_score, options.worst)
    return metrics


def add_voc(per_class: list[dict[str, Any]], scores: dict[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Put VOC's AP into the rows of the classes; its means over those that have objects come back as ``voc``."""
    for row in per_class:
        row["VOC_AP"], row["VOC_AP11"] = scores[row["name"]]
    counted = [pair for pair in scores.values() if pair[0] >= 0] or [(-1.0, -1.0)]
    area, points = (sum(column) / len(counted) for column in zip(*counted, strict=True))
    return {"voc": {"AP": area, "AP11": points}}


def has_outlines(truth: dict[str, Any]) -> bool:
    """Whether masks can be scored: every object has a segmentation."""
    return all(row.get("segmentation") for row in truth["annotations"])


def quick_scores(
    truth: dict[str, Any], results: list[Result], detector: Detector, engine: Engine = "auto"
) -> dict[str, float]:
    """COCO's summary as flat names (``bbox/AP``), or a classifier's accuracy, for the training log."""
    if detector.task == "classification":
        return accuracy.summary(accuracy.answers(truth, results))
    kinds: tuple[Kind, ...] = ("bbox", "segm") if detector.masks and has_outlines(truth) else ("bbox",)
    return {
        f"{kind}/{name}": value
        for kind in kinds
        for name, value in summary(accumulate(truth, results, kind, engine)).items()
    }
