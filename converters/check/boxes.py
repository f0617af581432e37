"""Boxes: four numbers that make sense in their image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from converters.check.draft import DROP, Draft, Floats
from converters.check.limits import Limits

Rows = npt.NDArray[np.int64]
_EXACT = 1e-3  # pixels: below this a box touches the border, whatever the floats say
_BORDER = 0.01  # of the side: an object this near to the border may go on beyond it
_ENOUGH = 5  # boxes from which a convention can be told


def check_boxes(draft: Draft, limits: Limits) -> None:
    """All rules about single boxes and about the convention they are written in."""
    boxes = draft.boxes()
    rows = draft.image_rows()
    for index in np.flatnonzero(np.isnan(boxes[:, 0])).tolist():
        value = draft.annotations[index].get("bbox", "missing")
        draft.hit("bbox-invalid", index, value=value, repair=DROP, row=int(rows[index]))
    draft.settle()
    _check_convention(draft)
    if not draft.boxes_mean_something:
        return
    _check_degenerate(draft)
    draft.settle()
    turned = _check_swapped(draft)
    _check_place(draft, turned)
    draft.settle()
    _check_tiny(draft, limits)
    draft.settle()
    _check_shapes(draft, limits)


def _check_convention(draft: Draft) -> None:
    """Corners instead of sizes, fractions instead of pixels: then no other rule about boxes means a thing."""
    boxes, canvas = draft.boxes(), draft.canvas()
    good = ~np.isnan(boxes[:, 0]) & ~np.isnan(canvas[:, 0])
    if not good.any():
        return
    boxes, canvas, example = boxes[good], canvas[good], int(good.argmax())
    fractions = bool((np.abs(boxes) <= 1).all()) and bool((canvas > 1).all())
    if fractions and (len(boxes) >= _ENOUGH or bool((boxes % 1 != 0).any())):
        draft.boxes_mean_something = False
        message = f"all {len(boxes)} boxes lie between 0 and 1"
        draft.hit("bbox-normalised", message=message, value=boxes[0].tolist(), example=example)
        return
    beyond = (boxes[:, :2] + boxes[:, 2:] > canvas + 1).any(axis=1)
    corners = (boxes[:, 2:] <= canvas + 1).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    corners &= (boxes[:, :2] >= -1).all(axis=1)
    if len(boxes) >= _ENOUGH and corners.mean() >= 0.9 and (beyond & corners).mean() >= 0.25:
        draft.boxes_mean_something = False
        share = f"{(beyond & corners).mean():.0%} leave the image as [x, y, w, h], {corners.mean():.0%} fit as corners"
        message = f"the boxes look like [x1, y1, x2, y2]: {share}"
        draft.hit("bbox-xyxy", message=message, value=boxes[0].tolist(), example=example)


def _check_degenerate(draft: Draft) -> None:
    boxes, rows = draft.boxes(), draft.image_rows()
    canvas = draft.canvas()
    for index in np.flatnonzero((boxes[:, 2:] <= 0).any(axis=1)).tolist():
        x, y, w, h = boxes[index].tolist()
        turned = (min(x, x + w), min(y, y + h), abs(w), abs(h))
        right, bottom = turned[0] + turned[2], turned[1] + turned[3]
        inside = min(turned[:2]) >= -1 and right <= canvas[index, 0] + 1 and bottom <= canvas[index, 1] + 1
        repair = {"bbox": tidy(turned)} if min(turned[2:]) >= 1 and inside else DROP
        message = "a box with negative width or height" if min(w, h) < 0 else "a box without width or height"
        draft.hit("bbox-degenerate", index, message, tidy((x, y, w, h)), repair, row=int(rows[index]))


def _check_swapped(draft: Draft) -> Rows:
    """Images whose boxes only fit them lying on the side; their rows."""
    boxes, rows = draft.boxes(), draft.image_rows()
    canvas = draft.canvas()
    ends = boxes[:, :2] + boxes[:, 2:]
    far = (ends > canvas * 1.1 + 1).any(axis=1)
    fits = (ends <= canvas[:, ::-1] + 1).all(axis=1) | np.isnan(ends[:, 0])
    turned = np.setdiff1d(rows[far & fits], rows[~fits])
    turned = turned[turned >= 0]
    for row in turned.tolist():
        size = f"{draft.images[row]['width']}x{draft.images[row]['height']}"
        draft.hit("bbox-swapped", row, value=size)
    return turned


def _check_place(draft: Draft, turned: Rows) -> None:
    """Boxes beyond the image, by how much of them is."""
    boxes, rows = draft.boxes(), draft.image_rows()
    canvas = draft.canvas()
    with np.errstate(invalid="ignore"):
        low = np.clip(boxes[:, :2], 0, canvas)
        high = np.clip(boxes[:, :2] + boxes[:, 2:], 0, canvas)
        over = np.maximum(-boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - canvas).max(axis=1)
        positive = (boxes[:, 2:] > 0).all(axis=1)
    for index in np.flatnonzero((over > _EXACT) & positive & ~np.isin(rows, turned)).tolist():
        box, row = tidy(boxes[index].tolist()), int(rows[index])
        size = f"{canvas[index, 0]:g}x{canvas[index, 1]:g}"
        if (high[index] - low[index] <= 0).any():
            draft.hit("bbox-off-image", index, f"the box lies outside its {size} image", box, DROP, row=row)
            continue
        rule = "bbox-outside" if over[index] > 1 else "bbox-overhang"
        message = f"the box leaves its {size} image by {over[index]:.4g} pixels"
        clipped = tidy((*low[index].tolist(), *(high[index] - low[index]).tolist()))
        draft.hit(rule, index, message, box, _with_area(draft, index, clipped), row=row)


def _with_area(draft: Draft, index: int, box: list[float]) -> dict[str, Any]:
    """A new box; and a new area, where the area is the box's and not a mask's."""
    entry = draft.annotations[index]
    if entry.get("segmentation") or "area" not in entry:
        return {"bbox": box}
    return {"bbox": box, "area": box[2] * box[3]}


def _check_tiny(draft: Draft, limits: Limits) -> None:
    boxes, rows = draft.boxes(), draft.image_rows()
    small = (boxes[:, 2:] < limits.tiny - 1e-6).any(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    for index in np.flatnonzero(small).tolist():
        draft.hit("bbox-tiny", index, value=tidy(boxes[index].tolist()), repair=DROP, row=int(rows[index]))


def _check_shapes(draft: Draft, limits: Limits) -> None:
    """Odd but possible: long boxes, boxes far from their class, whole-image boxes, boxes lost in the resize."""
    boxes, rows = draft.boxes(), draft.image_rows()
    good = np.flatnonzero((boxes[:, 2:] > 0).all(axis=1))
    if not len(good):
        return
    sides = boxes[good, 2:]
    aspect = sides.max(axis=1) / sides.min(axis=1)
    for at in np.flatnonzero((aspect > limits.aspect) & (sides.min(axis=1) >= limits.tiny)).tolist():
        index = int(good[at])
        message = f"the box is {aspect[at]:.0f} times as long as it is wide"
        draft.hit("bbox-aspect", index, message, tidy(boxes[index].tolist()), row=int(rows[index]))
    _check_outliers(draft, good, limits)
    _check_against_images(draft, boxes, rows, limits)


def _check_outliers(draft: Draft, good: Rows, limits: Limits) -> None:
    """Sides more than ``limits.sigmas`` standard deviations from the mean of their class, in logarithms.

    Objects that the border of the image cuts off are small for a reason, and left out.
    """
    boxes, canvas, rows = draft.boxes(), draft.canvas(), draft.image_rows()
    near = (boxes[:, :2] < _BORDER * canvas) | (boxes[:, :2] + boxes[:, 2:] > (1 - _BORDER) * canvas)
    good = good[~near[good].any(axis=1)]
    logs = np.log(boxes[good, 2:])
    classes = np.array([-1 if c is None else c for c in draft.ids("annotations", "category_id")], np.int64)[good]
    known, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(inverse, logs[:, k], len(known)) for k in (0, 1)], axis=1)
    mean = sums / counts[:, None]
    away = (logs - mean[inverse]) ** 2
    spread = np.sqrt(np.stack([np.bincount(inverse, away[:, k], len(known)) for k in (0, 1)], axis=1) / counts[:, None])
    far = np.sqrt(away) > limits.sigmas * np.maximum(spread[inverse], 0.05)
    for at in np.flatnonzero(far.any(axis=1) & (counts[inverse] >= limits.outlier_samples)).tolist():
        index = int(good[at])
        usual = " x ".join(f"{side:.0f}" for side in np.exp(mean[inverse[at]]))
        message = f"the usual box of its class is {usual} pixels"
        draft.hit("bbox-outlier", index, message, tidy(boxes[index].tolist()), row=int(rows[index]))


def _check_against_images(draft: Draft, boxes: Floats, rows: Rows, limits: Limits) -> None:
    canvas = draft.canvas()
    with np.errstate(invalid="ignore"):
        whole = np.minimum(boxes[:, 2:], canvas).prod(axis=1) >= 0.99 * canvas.prod(axis=1)
        images = len(np.unique(rows[whole]))
        if images >= max(3, limits.whole_image_share * len(draft.images)):
            draft.hit(
                "bbox-whole-image",
                message=f"in {images} images a box covers 99 % and more",
                value=int(whole.sum()),
                example=int(whole.argmax()),
            )
        short, long = canvas.min(axis=1), canvas.max(axis=1)
        scale = np.minimum(limits.resize[0] / short, limits.resize[1] / long)
        lost = (boxes[:, 2:].min(axis=1) * scale < limits.stride) & (boxes[:, 2:] > 0).all(axis=1)
    if lost.any():
        message = (
            f"resized to {limits.resize[0]}x{limits.resize[1]}, boxes are under {limits.stride:g} pixels wide or high"
        )
        draft.hit(
            "bbox-below-stride", message=message, value=f"{int(lost.sum())} of {len(boxes)}", example=int(lost.argmax())
        )


def tidy(values: Any) -> list[float]:
    """Numbers as JSON likes them: whole ones as integers."""
    return [int(v) if float(v).is_integer() and abs(v) < 2**53 else float(v) for v in values]
