"""Detections against truth, image by image, at IoU 0.5: for the pictures and for the choice of a score to cut at.

The measures of the page come from the evaluation; this is only to say which drawn box is right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_DETECTIONS = 100  # of one image


@dataclass(frozen=True)
class Truth:
    """One annotated box ``(x, y, width, height)`` in pixels, and the score of the detection that found it."""

    name: str
    box: tuple[float, float, float, float]
    crowd: bool
    found: float | None
    segmentation: Any = None  # as COCO has it


@dataclass(frozen=True)
class Found:
    """One detection; ``right`` is None where it lies in a crowd and counts neither way."""

    name: str
    box: tuple[float, float, float, float]
    score: float
    right: bool | None
    segmentation: Any = None


@dataclass(frozen=True)
class Matched:
    """One image with its truths and detections, best score first."""

    image: Mapping[str, Any]
    truths: Sequence[Truth]
    found: Sequence[Found]

    def mistakes(self, score: float) -> int:
        """Wrong and missed boxes when detections below ``score`` are left out."""
        return sum(f.right is False and f.score >= score for f in self.found) + self.missed(score)

    def missed(self, score: float) -> int:
        """Objects that no detection of at least ``score`` found."""
        return sum(not t.crowd and (t.found is None or t.found < score) for t in self.truths)

    def f1(self, score: float) -> float:
        """Harmonic mean of precision and recall in this image, 1 where there is nothing to find and nothing found."""
        hits = sum(f.right is True and f.score >= score for f in self.found)
        total = 2 * hits + self.mistakes(score)
        return 2 * hits / total if total else 1.0


@dataclass(frozen=True)
class Operation:
    """What a score to cut at buys, over the scores above which there are detections; ``best`` has the highest F1."""

    scores: Sequence[float]
    precision: Sequence[float]
    recall: Sequence[float]
    best: int

    @property
    def useful(self) -> bool:
        """Whether the best score is worth recommending: its F1 is at least 0.2."""
        precision, recall = self.precision[self.best], self.recall[self.best]
        return 2 * precision * recall >= 0.2 * (precision + recall) > 0


def match_images(coco: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> list[Matched]:
    """Match every image of a COCO file, in the order of the file."""
    names = {category.get("id"): str(category.get("name", "")) for category in coco["categories"]}
    truths, found = defaultdict(list), defaultdict(list)
    for annotation in coco["annotations"]:
        if len(annotation.get("bbox") or ()) == 4:
            truths[annotation.get("image_id")].append(annotation)
    for detection in detections:
        if len(detection.get("bbox") or ()) == 4:
            found[detection.get("image_id")].append(detection)
    return [_match(image, truths[image.get("id")], found[image.get("id")], names) for image in coco["images"]]


def operation(matched: Sequence[Matched]) -> Operation | None:
    """Precision and recall over all classes for scores of 0.05 to 0.95; None where there is nothing to count."""
    truths = sum(not truth.crowd for image in matched for truth in image.truths)
    judged = [(f.score, f.right) for image in matched for f in image.found if f.right is not None]
    highest = max((score for score, _ in judged), default=0.0)
    scores = [score for score in (round(0.05 * step, 2) for step in range(1, 20)) if score <= highest]
    if not truths or not scores:
        return None
    precision, recall, f1 = [], [], []
    for score in scores:
        kept = [right for value, right in judged if value >= score]
        hits = sum(kept)
        precision.append(hits / len(kept))
        recall.append(hits / truths)
        f1.append(2 * hits / (len(kept) + truths))
    return Operation(scores, precision, recall, max(range(len(scores)), key=lambda i: (f1[i], scores[i])))


def overlaps(first: NDArray[np.float64], second: NDArray[np.float64], crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of boxes ``(N, 4)`` with boxes ``(M, 4)``, both xywh: ``(N, M)``.

    Of a crowd, COCO's way: the share of the first box that lies inside.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, :2] + first[:, None, 2:], second[None, :, :2] + second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    own, other = np.prod(first[:, 2:], axis=1)[:, None], np.prod(second[:, 2:], axis=1)[None]
    whole = np.where(crowd[None], own, own + other - shared)
    return np.asarray(np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0), dtype=np.float64)


def _match(
    image: Mapping[str, Any],
    truths: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    names: Mapping[Any, str],
) -> Matched:
    """Greedy, best score first; each truth is found once, by a detection of its own class."""
    ranked = sorted(detections, key=lambda d: -float(d.get("score") or 0))[:MOST_DETECTIONS]
    boxes = np.array([d["bbox"] for d in ranked], dtype=np.float64).reshape(-1, 4)
    goals = np.array([t["bbox"] for t in truths], dtype=np.float64).reshape(-1, 4)
    crowd = np.array([bool(t.get("iscrowd")) for t in truths], dtype=np.bool_)
    same = np.array([[d.get("category_id") == t.get("category_id") for t in truths] for d in ranked], dtype=np.bool_)
    close = np.where(same.reshape(len(ranked), len(truths)), overlaps(boxes, goals, crowd), 0.0)
    by: dict[int, float] = {}
    found = []
    for row, detection in enumerate(ranked):
        score, right = float(detection.get("score") or 0), False
        free = [column for column in range(len(truths)) if not crowd[column] and column not in by]
        best = max(free, key=lambda column: close[row, column], default=None)
        if best is not None and close[row, best] >= 0.5:
            by[best], right = score, True
        in_crowd = not right and bool((close[row] * crowd >= 0.5).any())
        judged = None if in_crowd else right
        found.append(Found(_name(names, detection), _box(detection), score, judged, detection.get("segmentation")))
    placed = [
        Truth(_name(names, truth), _box(truth), bool(truth.get("iscrowd")), by.get(index), truth.get("segmentation"))
        for index, truth in enumerate(truths)
    ]
    return Matched(image, placed, found)


def _name(names: Mapping[Any, str], entry: Mapping[str, Any]) -> str:
    return names.get(entry.get("category_id"), "unknown category")


def _box(entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
    x, y, width, height = (float(value) for value in entry["bbox"])
    return x, y, width, height
