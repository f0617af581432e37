"""Boxes as pictures of their own: what a classifier learns from, out of a detection dataset."""

from __future__ import annotations

from typing import Any

from converters.coco import Coco
from converters.records import ConversionLog


def crop_boxes(coco: Coco, log: ConversionLog, *, padding: float = 0.0, min_size: float = 8.0) -> Coco:
    """Return the dataset with the windows that are to be cut out in the place of its boxes.

    No image is written: whoever trains cuts the windows out as it reads. Crowd regions, which are not one object, and
    small boxes are left out and counted. A box around the whole picture stays as it is.

    Args:
        coco: a dataset from :func:`converters.to_coco`; not changed.
        log: takes what was left out.
        padding: how much is added on each side, as a share of the box's own width and height; cut at the border.
        min_size: boxes narrower or lower than this are left out, pixels before padding.
    """
    sizes = {image["id"]: (image["width"], image["height"], image["file_name"]) for image in coco["images"]}
    kept: list[dict[str, Any]] = []
    for annotation in coco["annotations"]:
        width, height, name = sizes[annotation["image_id"]]
        if annotation["iscrowd"]:
            log.drop("crowd region, which is not one object", name)
            continue
        x, y, w, h = annotation["bbox"]
        if min(w, h) < min_size:
            log.drop(f"box of less than {min_size:g} pixels, too small to tell what it is", name)
            continue
        left, top = max(0.0, x - padding * w), max(0.0, y - padding * h)
        right, bottom = min(width, x + (1 + padding) * w), min(height, y + (1 + padding) * h)
        if right - left < 1 or bottom - top < 1:
            log.drop("box outside of its image", name)
            continue
        window = [left, top, right - left, bottom - top]
        kept.append({**annotation, "bbox": window, "area": window[2] * window[3], "segmentation": []})
    for number, annotation in enumerate(kept, 1):
        annotation["id"] = number
    return {**coco, "annotations": kept}
