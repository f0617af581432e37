"""Run lengths (RLE): readable, of the image's size, with a pixel in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from converters.check.columns import numbers
from converters.check.draft import DROP, Draft, Floats
from converters.check.masks import box_iou, decode_counts, rle_size, runs_box
from converters.masks import encode_mask

Covered = tuple[float, tuple[float, float, float, float]]


def check_rle(draft: Draft, index: int, row: int, canvas: Floats) -> Covered | None:
    """Check the run lengths of one annotation; return the area and box of what they cover, None where unusable."""
    rle = draft.annotations[index]["segmentation"]
    if isinstance(rle.get("counts"), bytes):
        text = rle["counts"].decode("latin-1")
        action = draft.hit("rle-bytes", index, repair={"segmentation": {**rle, "counts": text}}, row=row)
        rle = {**rle, "counts": text}
        if action == "dropped":
            return None
    size = rle_size(rle)
    counts = rle.get("counts")
    runs = decode_counts(counts, size[0] * size[1]) if size and isinstance(counts, list | tuple | str) else None
    if size is None or runs is None:
        message = "size is not [height, width]" if size is None else "counts do not add up to height times width"
        draft.hit("rle-invalid", index, message, counts if size else rle.get("size", "missing"), DROP, row=row)
        return None
    if not np.isnan(canvas[0]) and size != (canvas[1], canvas[0]):
        turned = _put_right(draft, index, rle, size, runs, canvas)
        message = f"run lengths of {size[0]}x{size[1]} (h x w) in an image of {canvas[1]:.0f}x{canvas[0]:.0f}"
        action = draft.hit("rle-size", index, message, list(size), turned, row=row)
        return check_rle(draft, index, row, canvas) if action == "fixed" else None
    area = int(runs[1::2].sum())
    if not area:
        draft.hit("mask-empty", index, repair=DROP, row=row)
        return None
    return area, runs_box(runs, size[0])


def _put_right(
    draft: Draft, index: int, rle: dict[str, Any], size: tuple[int, int], runs: npt.NDArray[np.int64], canvas: Floats
) -> dict[str, Any] | None:
    """Repair exchanged height and width: of the size alone, or of the whole mask, whichever fits the box."""
    height, width = int(canvas[1]), int(canvas[0])
    if size != (width, height) or not runs[1::2].any():
        return None
    x, y, w, h = numbers([draft.annotations[index].get("bbox")], 4)[0].tolist()
    box = (x, y, x + w, y + h)
    if box_iou(box, runs_box(runs, height)) >= 0.5:
        return {"segmentation": {**rle, "size": [height, width]}}
    y0, x0, y1, x1 = runs_box(runs, size[0])
    if box_iou(box, (x0, y0, x1, y1)) < 0.5 or height * width > 2**28:
        return None
    # Column-major runs of the transposed mask are rows of the right one.
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return {"segmentation": encode_mask(mask)}
