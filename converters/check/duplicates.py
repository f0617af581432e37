"""The same object twice in an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from converters.check.boxes import Rows, tidy
from converters.check.columns import as_integer
from converters.check.draft import DROP, Draft, Floats
from converters.check.limits import Limits

_BLOCK = 512  # rows of an IoU matrix made at once


def check_duplicates(draft: Draft, limits: Limits) -> None:
    """Equal boxes, nearly equal boxes, boxes with two classes, images with too many objects of one class."""
    if draft.boxes_mean_something:
        _check_equal(draft)
        draft.settle()
        _check_near(draft, limits)
    _check_crowded(draft, limits)


def _table(draft: Draft) -> tuple[Floats, Rows, Rows, Rows]:
    """Boxes, image rows and classes of the annotations with a usable box, and their indices."""
    boxes, rows = draft.boxes(), draft.image_rows()
    classes = np.array([-1 if c is None else c for c in draft.ids("annotations", "category_id")], np.int64)
    good = np.flatnonzero((boxes[:, 2:] > 0).all(axis=1) & (rows >= 0))
    return boxes[good], rows[good], classes[good], good


def _check_equal(draft: Draft) -> None:
    boxes, rows, classes, index = _table(draft)
    if not len(boxes):
        return
    order = np.lexsort((index, *boxes.T, rows))
    same = (np.diff(boxes[order], axis=0) == 0).all(axis=1) & (np.diff(rows[order]) == 0)
    for group in _runs(same):
        members = order[group]
        seen: dict[tuple[int, int | None], list[int]] = {}
        for at in members.tolist():
            here, entry = int(index[at]), draft.annotations[index[at]]
            twins = seen.setdefault((int(classes[at]), as_integer(entry.get("iscrowd"))), [])
            if any(_same_shape(entry, draft.annotations[twin]) for twin in twins):
                draft.hit("bbox-duplicate", here, value=tidy(boxes[at]), repair=DROP, row=int(rows[at]))
            else:
                twins.append(here)
        if len({int(classes[at]) for at in members.tolist()}) > 1:
            at = int(members[-1])
            value = f"{tidy(boxes[at])} has classes {sorted(set(classes[members].tolist()))}"
            draft.hit("bbox-two-classes", int(index[at]), value=value, row=int(rows[at]))


def _runs(same: Any) -> Iterator[slice]:
    """Slices of neighbours that are the same."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2).tolist():
        yield slice(start, stop + 1)


def _same_shape(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two annotations with one box are one object: unless both have masks, and different ones."""
    mine, other = a.get("segmentation"), b.get("segmentation")
    return not mine or not other or mine == other


def _check_near(draft: Draft, limits: Limits) -> None:
    if not draft.ledger.active("bbox-near-duplicate"):
        return
    boxes, rows, classes, index = _table(draft)
    order = np.lexsort((boxes[:, 0], classes, rows))
    key = np.diff(rows[order]) != 0, np.diff(classes[order]) != 0
    starts = np.concatenate(([0], np.flatnonzero(key[0] | key[1]) + 1, [len(order)]))
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        members = order[start:stop]
        for at, iou in _near(boxes[members], limits.near_iou) if len(members) > 1 else ():
            here = int(index[members[at]])
            message = f"two boxes of a class with an IoU of {iou:.3f}"
            draft.hit("bbox-near-duplicate", here, message, tidy(boxes[members[at]]), row=int(rows[members[at]]))


def _near(boxes: Floats, least: float) -> Iterator[tuple[int, float]]:
    """Positions of boxes (M, 4) xywh that nearly cover one before them, equal ones left out."""
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    area = boxes[:, 2:].prod(axis=1)
    for start in range(0, len(boxes), _BLOCK):
        block = corners[start : start + _BLOCK, None]
        sides = np.minimum(block[..., 2:], corners[:, 2:]) - np.maximum(block[..., :2], corners[:, :2])
        shared = np.clip(sides, 0, None).prod(axis=2)
        iou = shared / (area[start : start + _BLOCK, None] + area - shared)
        iou[(block == corners).all(axis=2)] = 0
        before = np.arange(start, start + len(block))[:, None] > np.arange(len(boxes))
        best = np.where(before, iou, 0).max(axis=1)
        for at in np.flatnonzero(best > least).tolist():
            yield start + at, float(best[at])


def _check_crowded(draft: Draft, limits: Limits) -> None:
    rows = draft.image_rows()
    classes = np.array([-1 if c is None else c for c in draft.ids("annotations", "category_id")], np.int64)
    pairs, counts = np.unique(np.stack([rows, classes], axis=1), axis=0, return_counts=True)
    for (row, known), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        if count > limits.crowded and row >= 0:
            draft.hit("bbox-crowded", row, f"{count} objects of category {known}", count)
