"""Pascal VOC's average precision, for figures that stand beside published ones of VOC's and ChainerCV's."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.training.scores import Result

FOUND, WRONG, IGNORED = 1, 0, -1
Floats = NDArray[np.float64]


def voc_scores(truth: dict[str, Any], results: list[Result]) -> dict[str, tuple[float, float]]:
    """VOC's AP of each category at IoU 0.5: the area under the curve, and the eleven-point mean of VOC2007.

    The rules are those of the devkit's ``VOCevaldet.m`` (Everingham et al. 2010, section 4.2): a detection, best score
    first, belongs to the object of its class that it covers best, and a second one of that object is wrong. Objects
    marked ``difficult`` and crowd regions are neither found nor missed. Unlike COCO's AP it has no limit of detections
    per image and does not look for another object where the best one is taken. Boxes are continuous edges here, where
    the devkit counts whole pixels, both ends included: the same boxes.

    Args:
        truth: from :func:`models.training.scores.complete_truth`.
        results: detections in any order.

    Returns:
        By name (area, eleven points), 0..1; -1 where there is no object to find.
    """
    objects, detections = _by_place(truth["annotations"]), _by_place(results)
    scores = {}
    for category in truth["categories"]:
        key = category["id"]
        counted = sum(not _difficult(row) for rows in objects[key].values() for row in rows)
        judged = [pair for image, rows in detections[key].items() for pair in _judge(rows, objects[key].get(image, []))]
        scores[category["name"]] = _average_precision(judged, counted) if counted else (-1.0, -1.0)
    return scores


def _by_place(rows: list[dict[str, Any]]) -> dict[int, dict[int, list[dict[str, Any]]]]:
    """Annotations or detections by category and image."""
    places: dict[int, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        places[row["category_id"]][row["image_id"]].append(row)
    return places


def _difficult(row: dict[str, Any]) -> bool:
    return bool(row.get("difficult") or row["iscrowd"])


def _judge(found: list[Result], objects: list[dict[str, Any]]) -> list[tuple[float, int]]:
    """The score of each detection of one class in one image, and what becomes of it."""
    found = sorted(found, key=lambda result: -float(result["score"]))
    if not objects:
        return [(result["score"], WRONG) for result in found]
    overlaps = _overlaps(_edges(found), _edges(objects))
    taken: set[int] = set()
    judged = []
    for result, row, best in zip(found, overlaps, overlaps.argmax(1).tolist(), strict=True):
        verdict = WRONG
        if row[best] >= 0.5:
            verdict = IGNORED if _difficult(objects[best]) else WRONG if best in taken else FOUND
            taken.add(best)
        judged.append((result["score"], verdict))
    return judged


def _edges(rows: list[dict[str, Any]]) -> Floats:
    """Boxes (N, 4) pixel xyxy."""
    boxes = np.array([row["bbox"] for row in rows], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _overlaps(one: Floats, other: Floats) -> Floats:
    """IoU (N, M) of two sets of boxes; 0 where neither has an area."""
    sides = np.minimum(one[:, None, 2:], other[None, :, 2:]) - np.maximum(one[:, None, :2], other[None, :, :2])
    shared = sides.clip(0).prod(2)
    union = (one[:, 2:] - one[:, :2]).prod(1)[:, None] + (other[:, 2:] - other[:, :2]).prod(1)[None] - shared
    overlaps: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlaps


def _average_precision(judged: list[tuple[float, int]], counted: int) -> tuple[float, float]:
    """The area under precision over recall, made to fall, and its mean at recalls 0, 0.1 ... 1."""
    verdicts = np.array([verdict for _, verdict in sorted(judged, key=lambda pair: -pair[0]) if verdict != IGNORED])
    hits = np.cumsum(verdicts == FOUND)
    recall = hits / counted
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    area = float((np.diff(recall, prepend=0.0) * precision).sum())
    places = np.searchsorted(recall, np.arange(11) / 10 - 1e-12)  # a recall of 3/10 counts as one of 0.3
    return area, float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean())
