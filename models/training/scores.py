"""COCO's numbers from truth and detections: hotcoco where it is installed, pycocotools where it is not.

Both engines give the same arrays; everything after them is shared. What pycocotools lacks (confusion, kinds of error,
single images) is left out there.
"""

# mypy: untyped-calls-exclude=pycocotools
from __future__ import annotations

import contextlib
import importlib.util
import io
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Engine = Literal["auto", "hotcoco", "pycocotools"]
Kind = Literal["bbox", "segm"]
Result = dict[str, Any]
"""One detection in COCO's results format: image_id, category_id, bbox xywh, score, perhaps segmentation."""

HALF = 0  # index of IoU 0.5 among the ten thresholds
ALL, SMALL, MEDIUM, LARGE = range(4)  # COCO's area ranges: split at 32 and 96 pixels squared
MOST = 2  # index of 100 detections per image among 1, 10, 100


@dataclass(frozen=True)
class Curves:
    """What COCO's evaluation accumulates; -1 where a class has no truth.

    Attributes:
        precision: (10 IoU thresholds, 101 recalls, K classes, 4 areas, 3 detection limits), 0..1.
        recall: (10, K, 4, 3), 0..1.
        scores: as ``precision``: the score at which that recall is reached.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    scores: NDArray[np.float64]


def complete_truth(content: dict[str, Any]) -> dict[str, Any]:
    """A COCO file with what COCO's evaluation insists on: ``area``, ``iscrowd``, categories in order of their ids."""
    annotations = [
        {**row, "area": row.get("area", row["bbox"][2] * row["bbox"][3]), "iscrowd": row.get("iscrowd", 0)}
        for row in content["annotations"]
    ]
    categories = sorted(content["categories"], key=lambda category: int(category["id"]))
    return {"info": {}, "images": content["images"], "annotations": annotations, "categories": categories}


def pick_engine(engine: Engine) -> Literal["hotcoco", "pycocotools"]:
    """The engine that ``auto`` means here."""
    if engine == "auto":
        return "hotcoco" if importlib.util.find_spec("hotcoco") else "pycocotools"
    return engine


def accumulate(truth: dict[str, Any], results: list[Result], kind: Kind, engine: Engine = "auto") -> Curves:
    """Match detections to truth and accumulate COCO's curves.

    Args:
        truth: from :func:`complete_truth`.
        results: detections, any order; may be empty.
        kind: boxes or masks.
        engine: who computes it; the numbers are the same.
    """
    if pick_engine(engine) == "hotcoco":
        return curves_of(hotcoco_evaluation(truth, results, kind))
    if not results or not truth["annotations"]:
        return _nothing_found(truth)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        # loadRes writes into the detections it is given
        evaluation = COCOeval(coco, coco.loadRes([dict(result) for result in results]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
    return curves_of(evaluation)


def curves_of(evaluation: Any) -> Curves:
    """The curves of either engine's ``COCOeval``, once it has accumulated."""
    found = evaluation.eval
    return Curves(np.asarray(found["precision"]), np.asarray(found["recall"]), np.asarray(found["scores"]))


def hotcoco_evaluation(truth: dict[str, Any], results: list[Result], kind: Kind) -> Any:
    """An accumulated hotcoco ``COCOeval``."""
    import hotcoco  # noqa: PLC0415 - the fast engine is optional

    coco = hotcoco.COCO(truth)
    evaluation = hotcoco.COCOeval(coco, coco.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _nothing_found(truth: dict[str, Any]) -> Curves:
    """The curves without a single detection or a single object: zero where there is truth, -1 elsewhere."""
    has = np.full((len(truth["categories"]), 4), -1.0)
    column = {category["id"]: index for index, category in enumerate(truth["categories"])}
    for row in truth["annotations"]:
        if not row["iscrowd"]:
            area = SMALL if row["area"] < 32**2 else MEDIUM if row["area"] < 96**2 else LARGE
            has[column[row["category_id"]], [ALL, area]] = 0.0
    recall = np.repeat(np.repeat(has[None, :, :, None], 10, 0), 3, 3)
    precision = np.repeat(recall[:, None], 101, 1)
    return Curves(precision, recall, precision.copy())


def summary(curves: Curves) -> dict[str, float]:
    """COCO's summary, 0..1, or -1 where there is no truth to speak of."""
    precision, recall = curves.precision, curves.recall
    return {
        "AP": _mean(precision[:, :, :, ALL, MOST]),
        "AP50": _mean(precision[HALF, :, :, ALL, MOST]),
        "AP75": _mean(precision[5, :, :, ALL, MOST]),
        "APs": _mean(precision[:, :, :, SMALL, MOST]),
        "APm": _mean(precision[:, :, :, MEDIUM, MOST]),
        "APl": _mean(precision[:, :, :, LARGE, MOST]),
        "AR1": _mean(recall[:, :, ALL, 0]),
        "AR10": _mean(recall[:, :, ALL, 1]),
        "AR100": _mean(recall[:, :, ALL, MOST]),
    }


def per_class(
    curves: Curves, truth: dict[str, Any], results: list[Result], masks: Curves | None = None
) -> list[dict[str, Any]]:
    """AP and AR of each category, of its masks too, with how many objects and detections they rest on."""
    truths = Counter(row["category_id"] for row in truth["annotations"] if not row["iscrowd"])
    found = Counter(result["category_id"] for result in results)
    return [
        {
            "name": category["name"],
            "AP": _mean(curves.precision[:, :, index, ALL, MOST]),
            "AP50": _mean(curves.precision[HALF, :, index, ALL, MOST]),
            "AR": _mean(curves.recall[:, index, ALL, MOST]),
            **({} if masks is None else _of_masks(masks, index)),
            "truths": truths[category["id"]],
            "detections": found[category["id"]],
        }
        for index, category in enumerate(truth["categories"])
    ]


def _of_masks(curves: Curves, index: int) -> dict[str, float]:
    return {
        "mask_AP": _mean(curves.precision[:, :, index, ALL, MOST]),
        "mask_AR": _mean(curves.recall[:, index, ALL, MOST]),
    }


def precision_recall(curves: Curves, truth: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """For each category with truth: precision and score at 101 recalls, at IoU 0.5."""
    recalls = np.linspace(0, 1, 101).round(2).tolist()
    return {
        category["name"]: {
            "recall": recalls,
            "precision": curves.precision[HALF, :, index, ALL, MOST].tolist(),
            "scores": curves.scores[HALF, :, index, ALL, MOST].tolist(),
        }
        for index, category in enumerate(truth["categories"])
        if curves.precision[HALF, 0, index, ALL, MOST] > -1
    }


def _mean(values: NDArray[np.float64]) -> float:
    """COCO's mean: over what is not -1, and -1 of nothing."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0
