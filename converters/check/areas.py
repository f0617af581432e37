"""area, iscrowd and ignore."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np

from converters.check.columns import as_integer, numbers, scalars
from converters.check.draft import ABSENT, Draft
from converters.check.limits import Limits
from converters.check.masks import Masks, raster


def check_areas(draft: Draft, masks: Masks, limits: Limits) -> None:
    """Rules about area: present, positive, and that of the mask or else of the box."""
    boxes, rows = draft.boxes(), draft.image_rows()
    column = draft.column("annotations", "area")
    areas = scalars(column)
    box_area = boxes[:, 2] * boxes[:, 3] if draft.boxes_mean_something else np.full(len(boxes), np.nan)
    box_area[~(boxes[:, 2:] > 0).all(axis=1)] = np.nan
    true = np.where(masks.present, masks.areas, box_area)
    with np.errstate(invalid="ignore"):
        bad = ~(np.isfinite(areas) & (areas > 0))
        off = np.abs(areas - true)
        wrong = ~bad & (off > limits.area_error * true) & (off > 1)
        above = ~bad & ~wrong & (areas > box_area * 1.01 + 1)
    for index in np.flatnonzero(bad | wrong | above).tolist():
        repair = {"area": plain(true[index])} if 0 < true[index] < np.inf else None
        rule = "area-wrong" if wrong[index] else "area-exceeds-box" if above[index] else "area-invalid"
        rule = "area-missing" if column[index] is None else rule
        of = "mask" if masks.present[index] else "box"
        message = f"area is {areas[index]:.6g}, that of the {of} is {true[index]:.6g}" if wrong[index] else ""
        value = column[index] if column[index] is not None else "missing"
        draft.hit(rule, index, message, value, None if above[index] else repair, row=int(rows[index]))


def check_crowds(draft: Draft, masks: Masks, limits: Limits) -> None:
    """Rules about iscrowd and ignore; crowds become run lengths where they are repaired."""
    rows = draft.image_rows()
    for index, value in enumerate(draft.column("annotations", "ignore")):
        if value:
            repair = {"iscrowd": 1, "ignore": ABSENT}
            draft.hit("ignore-set", index, value=value, repair=repair, row=int(rows[index]))
    flags = draft.column("annotations", "iscrowd")
    for index, value in enumerate(flags):
        if value is None:
            draft.hit("iscrowd-missing", index, repair={"iscrowd": 0}, row=int(rows[index]))
        elif as_integer(value) not in {0, 1}:
            draft.hit("iscrowd-invalid", index, value=value, repair={"iscrowd": 0}, row=int(rows[index]))
    crowds = [index for index, value in enumerate(flags) if as_integer(value) == 1]
    _check_crowd_polygons(draft, masks, crowds)
    _check_crowd_number(draft, crowds, limits)


def _check_crowd_number(draft: Draft, crowds: list[int], limits: Limits) -> None:
    """Crowds are rare, and one a class in an image; more are objects of several parts that an export misread."""
    total = len(draft.annotations)
    if total >= 10 and len(crowds) > limits.crowd_share * total:
        draft.hit("crowd-many", value=f"{len(crowds)} of {total}", example=crowds[0])
        return
    rows, classes = draft.image_rows(), draft.ids("annotations", "category_id")
    counts = Counter((int(rows[index]), classes[index]) for index in crowds)
    images = {row for (row, _), count in counts.items() if count > 1 and row >= 0}
    if len(images) >= limits.crowd_images:
        message = f"in {len(images)} images there are several crowds of one class"
        draft.hit("crowd-many", message=message, value=f"{len(crowds)} crowds", example=crowds[0])


def _check_crowd_polygons(draft: Draft, masks: Masks, crowds: list[int]) -> None:
    rows = draft.image_rows()
    canvas = draft.canvas()
    for index in crowds:
        if masks.present[index] and isinstance(draft.annotations[index]["segmentation"], list | tuple):
            rings = draft.annotations[index]["segmentation"]
            width, height = canvas[index].tolist()

            repair = partial(_as_runs, draft, index, width, height)
            draft.hit("crowd-polygons", index, value=f"{len(rings)} rings", repair=repair, row=int(rows[index]))


def _as_runs(draft: Draft, index: int, width: float, height: float) -> dict[str, Any] | None:
    """Run lengths for the polygons of a crowd; none where it covers no pixel, and then the area is the box's."""
    rle, area = raster(draft.annotations[index]["segmentation"], width, height)
    if rle is None:
        return None
    if area:
        return {"segmentation": rle, "area": area}
    box = numbers([draft.annotations[index].get("bbox")], 4)[0]
    return {"segmentation": [], "area": plain(box[2] * box[3])} if (box[2:] > 0).all() else {"segmentation": []}


def plain(value: float) -> float:
    """A number as JSON likes it: a whole one as integer."""
    return int(value) if float(value).is_integer() else float(value)
