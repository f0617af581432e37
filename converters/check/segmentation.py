"""Segmentations: rings and run lengths that can be drawn, and that belong to their boxes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from converters.check.boxes import tidy
from converters.check.columns import as_integer, is_number
from converters.check.draft import DROP, Draft, Floats, flatten
from converters.check.limits import Limits
from converters.check.masks import Bools, Indices, Masks, Ring, crossings, measure, raster
from converters.check.runs import check_rle
from converters.geometry import clip_ring

Found = dict[int, tuple[float, tuple[float, float, float, float]]]
Remake = Callable[[list[Ring]], list[Ring]]


@dataclass(frozen=True)
class _Rings:
    """The rings of a split, one after another."""

    version: int  # of the annotations they were collected from
    owners: Indices  # (R,) index of the annotation
    rings: list[Ring]
    areas: Floats  # (R,) signed
    boxes: Floats  # (R, 4) pixel xyxy


def check_segmentations(draft: Draft, limits: Limits) -> Masks:
    """All rules about segmentations; returns what the usable ones cover."""
    # By id() of the entry, which stays the same when entries before it are dropped and is not replaced below.
    masks: Found = {}
    unusable: set[int] = set()
    rows = draft.image_rows()
    canvas = draft.canvas()
    for index, value in enumerate(draft.column("annotations", "segmentation")):
        if isinstance(value, dict):
            covered = check_rle(draft, index, int(rows[index]), canvas[index])
            if covered is not None:
                masks[id(draft.annotations[index])] = covered
        elif value is not None and value != [] and not is_drawable(value, limits.coordinate):
            _check_form(draft, index, value, limits, int(rows[index]))
            if not is_drawable(draft.annotations[index].get("segmentation"), limits.coordinate):
                unusable.add(id(draft.annotations[index]))
    draft.settle()
    result = _cover(draft, _check_rings(draft, unusable, limits), masks)
    _check_mixed(draft)
    _check_against_boxes(draft, result, limits)
    _check_keypoints(draft)
    return result


def is_drawable(value: Any, limit: float) -> bool:
    """Whether a segmentation is a list of rings that can be measured, no coordinate beyond ``limit`` pixels."""
    if not isinstance(value, list | tuple) or not set(map(type, value)) <= {list, tuple}:
        return False
    if not all(len(ring) >= 6 and len(ring) % 2 == 0 for ring in value):
        return False
    if not set(map(type, flatten(value))) <= {int, float} and not all(map(is_number, flatten(value))):
        return False
    numbers = list(flatten(value))
    if not numbers:
        return True
    # NaN hides from max() and min() unless it comes first, and then it fails here; otherwise it shows in the sum.
    return -limit <= min(numbers) and max(numbers) <= limit and math.isfinite(sum(numbers))


def _check_form(draft: Draft, index: int, value: Any, limits: Limits, row: int) -> None:
    """Name what keeps a segmentation from being a list of rings of finite points."""
    flat = isinstance(value, list | tuple) and bool(value) and all(map(is_number, value))
    rings = [value] if flat else value
    if not isinstance(rings, list | tuple) or not all(
        isinstance(ring, list | tuple) and all(map(is_number, ring)) for ring in rings
    ):
        draft.hit("segm-invalid", index, value=value, repair={"segmentation": []}, row=row)
        return
    if any(not -limits.coordinate <= number <= limits.coordinate for number in flatten(rings)):
        draft.hit("segm-nan", index, value=value, repair=DROP, row=row)
        return
    kept = [list(ring) for ring in rings if len(ring) >= 6 and len(ring) % 2 == 0]
    short = [ring for ring in rings if len(ring) < 6 or len(ring) % 2]
    if flat:
        draft.hit("segm-invalid", index, "the ring is not in a list", value, {"segmentation": kept}, row=row)
    elif short:
        message = f"a ring of {len(short[0])} numbers"
        draft.hit("segm-ring-short", index, message, short[0], {"segmentation": kept}, row=row)


def _collect(draft: Draft, unusable: set[int], known: _Rings | None = None) -> _Rings:
    """The usable rings as they stand; the known ones where nothing has changed."""
    if known is not None and known.version == draft.versions["annotations"]:
        return known
    owners: list[int] = []
    rings: list[Ring] = []
    for index, entry in enumerate(draft.annotations):
        parts = entry.get("segmentation")
        if isinstance(parts, list | tuple) and parts and id(entry) not in unusable:
            owners.extend([index] * len(parts))
            rings.extend(parts)
    return _Rings(draft.versions["annotations"], np.array(owners, np.int64), rings, *measure(rings))


def _check_rings(draft: Draft, unusable: set[int], limits: Limits) -> _Rings:
    """Rules about single rings. Each repair leaves rings that the next rule can measure."""
    rows, canvas = draft.image_rows(), draft.canvas()
    found = _collect(draft, unusable)
    over = np.maximum(-found.boxes[:, :2], found.boxes[:, 2:] - canvas[found.owners])
    for index in np.unique(found.owners[(over > 1).any(axis=1)]).tolist():
        width, height = canvas[index].tolist()
        _remake(draft, "segm-outside", index, partial(_clipped, width=width, height=height))
    found = _collect(draft, unusable, found)
    small = np.flatnonzero(np.abs(found.areas) < 0.01)
    crossed = crossings([found.rings[at] for at in small.tolist()])
    for index in np.unique(found.owners[small[~crossed]]).tolist():
        _remake(draft, "segm-degenerate", index, _without_empty)
    found = _collect(draft, unusable, found)
    closed = [owner for owner, ring in zip(found.owners.tolist(), found.rings, strict=True) if _closed(ring)]
    for index in sorted(set(closed)):
        _remake(draft, "segm-closing-point", index, _all_opened)
    for owner, ring in zip(found.owners.tolist(), found.rings, strict=True):
        if len(ring) > 2 * limits.points:
            draft.hit("segm-many-points", owner, value=f"{len(ring) // 2} points", row=int(rows[owner]))
    return _collect(draft, unusable, found)


def _remake(draft: Draft, rule: str, index: int, remake: Remake) -> None:
    rings = list(draft.annotations[index]["segmentation"])
    if draft.ledger.policy[rule] == "fix":
        rings = remake(rings)
    draft.hit(rule, index, value=draft.annotations[index]["segmentation"], repair={"segmentation": rings})


def _without_empty(rings: list[Ring]) -> list[Ring]:
    areas, _ = measure(rings)
    keep = (np.abs(areas) >= 0.01) | crossings(rings)
    return [ring for ring, good in zip(rings, keep.tolist(), strict=True) if good]


def _clipped(rings: list[Ring], width: float, height: float) -> list[Ring]:
    inside = (clip_ring(ring, width, height) for ring in rings)
    return [tidy(ring) for ring in inside if ring]


def _all_opened(rings: list[Ring]) -> list[Ring]:
    return [_opened(ring) for ring in rings]


def _opened(ring: Ring) -> Ring:
    """A ring without its first point standing again at the end."""
    while len(ring) > 6 and _closed(ring):
        ring = ring[:-2]
    return ring


def _closed(ring: Ring) -> bool:
    return ring[0] == ring[-2] and ring[1] == ring[-1]


def _cover(draft: Draft, found: _Rings, masks: Found) -> Masks:
    """Areas and boxes of all usable segmentations: shoelace for one simple ring, pixels for anything else."""
    count = len(draft.annotations)
    result = Masks(np.zeros(count, bool), np.full(count, np.nan), np.full((count, 4), np.nan))
    for index, entry in enumerate(draft.annotations) if masks else ():
        if id(entry) in masks:
            result.present[index] = True
            result.areas[index], result.boxes[index] = masks[id(entry)]
    if not found.rings:
        return result
    crossed = _report_crossings(draft, found)
    single, first, rings = np.unique(found.owners, return_index=True, return_counts=True)
    result.present[single] = True
    result.areas[single] = np.abs(found.areas[first])
    result.boxes[single, :2] = np.minimum.reduceat(found.boxes[:, :2], first)
    result.boxes[single, 2:] = np.maximum.reduceat(found.boxes[:, 2:], first)
    canvas = draft.canvas()
    for index in np.union1d(single[rings > 1], found.owners[crossed]).tolist():
        _, pixels = raster(draft.annotations[index]["segmentation"], *canvas[index].tolist())
        result.areas[index] = pixels
    result.areas[result.areas < 0.01] = np.nan
    return result


def _report_crossings(draft: Draft, found: _Rings) -> Bools:
    """Which rings cross themselves; not looked for where neither rule that needs it is on."""
    if not draft.ledger.active("segm-self-crossing", "area-wrong"):
        return np.zeros(len(found.rings), bool)
    crossed = crossings(found.rings)
    rows = draft.image_rows()
    for index in np.unique(found.owners[crossed]).tolist():
        draft.hit("segm-self-crossing", index, value=draft.annotations[index]["segmentation"], row=int(rows[index]))
    return crossed


def _check_mixed(draft: Draft) -> None:
    column = draft.column("annotations", "segmentation")
    having = sum(1 for value in column if value)
    if 0 < having < len(column):
        draft.hit("segm-mixed", value=f"{having} of {len(column)} have one")


def _check_against_boxes(draft: Draft, masks: Masks, limits: Limits) -> None:
    """The mask's box and the annotated one."""
    if not draft.boxes_mean_something:
        return
    boxes, rows = draft.boxes(), draft.image_rows()
    canvas = draft.canvas()
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    sides = np.minimum(corners[:, 2:], masks.boxes[:, 2:]) - np.maximum(corners[:, :2], masks.boxes[:, :2])
    shared = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0)
    total = boxes[:, 2:].prod(axis=1) + (masks.boxes[:, 2:] - masks.boxes[:, :2]).prod(axis=1) - shared
    apart = shared < limits.mask_iou * total
    over = np.maximum(corners[:, :2] - masks.boxes[:, :2], masks.boxes[:, 2:] - corners[:, 2:])
    leaves = (over > np.maximum(2, 0.05 * boxes[:, 2:])).any(axis=1)
    usable = masks.present & (boxes[:, 2:] > 0).all(axis=1)
    for index in np.flatnonzero(usable & (apart | leaves)).tolist():
        low = np.clip(masks.boxes[index, :2], 0, canvas[index])
        size = np.clip(masks.boxes[index, 2:], 0, canvas[index]) - low
        whole = tidy((*low.tolist(), *size.tolist())) if (size >= limits.tiny).all() else None
        rule = "mask-box-mismatch" if apart[index] else "mask-outside-box"
        repair = {"bbox": whole} if whole else None
        value = f"box {tidy(boxes[index].tolist())}, mask {whole}"
        draft.hit(rule, index, value=value, repair=repair, row=int(rows[index]))


def _check_keypoints(draft: Draft) -> None:
    column = draft.column("annotations", "keypoints")
    if not any(value is not None for value in column):
        return
    wanted = {
        known: len(names) if isinstance(names, list) else 0
        for known, names in zip(draft.ids("categories"), draft.column("categories", "keypoints"), strict=True)
    }
    categories = draft.ids("annotations", "category_id")
    for index, value in enumerate(column):
        if value is None:
            continue
        number = wanted.get(categories[index], 0)
        problem = _keypoint_problem(value, draft.annotations[index].get("num_keypoints"), number)
        if problem:
            draft.hit("keypoints-invalid", index, problem, value)


def _keypoint_problem(value: Any, stated: Any, wanted: int) -> str:
    if not isinstance(value, list | tuple) or len(value) % 3 or not all(map(is_number, value)):
        return "keypoints are not triples of numbers"
    if wanted and len(value) != 3 * wanted:
        return f"{len(value) // 3} keypoints where the category names {wanted}"
    visible = sum(1 for flag in value[2::3] if flag > 0)
    if stated is not None and as_integer(stated) != visible:
        return f"num_keypoints is {stated}, {visible} are marked"
    return ""
