"""Seeded defects of boxes, segmentations, areas and crowds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from helpers_check import HEIGHT, WIDTH, Coco, picture
from helpers_seed import Splits, first, image, put, seed
from pycocotools import mask as coco_mask

# -- boxes --------------------------------------------------------------------------------------------------------


def box(rule: str, value: list[float], *also: str) -> None:
    """A seed that gives the first annotation this box, with the ring and the area that fit it."""

    @seed(rule, *also)
    def breaks(splits: Splits, folder: Path) -> None:
        reshape(first(splits), value)


def reshape(annotation: Coco, value: list[float]) -> None:
    x, y, w, h = value
    x0, x1, y0, y1 = min(x, x + w), max(x, x + w), min(y, y + h), max(y, y + h)
    annotation.update(bbox=value, area=abs(w * h), segmentation=[[x0, y0, x1, y0, x1, y1, x0, y1]])


put("bbox-invalid", "bbox", [1, 2, 3])
box("bbox-degenerate", [12, 12, -10, -8])
box("bbox-off-image", [70, 4, 10, 8], "segm-outside")
box("bbox-outside", [-5, 4, 10, 8], "segm-outside")
box("bbox-overhang", [-0.5, 4, 10, 8])
box("bbox-tiny", [2, 4, 0.9, 8])
box("bbox-aspect", [2, 40, 42, 2])


@seed("bbox-outlier")
def _(splits: Splits, folder: Path) -> None:
    for at in range(70):
        annotation = copy.deepcopy(first(splits)) | {"id": 2000 + at}
        reshape(annotation, [3 + at % 40, 3 + 5 * (at % 7), 10, 8] if at else [3, 30, 3, 3])
        splits["train"]["annotations"].append(annotation)


@seed("bbox-duplicate")
def _(splits: Splits, folder: Path) -> None:
    splits["train"]["annotations"].append(first(splits) | {"id": 2000})


@seed("bbox-near-duplicate")
def _(splits: Splits, folder: Path) -> None:
    twin = copy.deepcopy(first(splits)) | {"id": 2000}
    reshape(twin, [2, 4, 10, 8.2])
    splits["train"]["annotations"].append(twin)


@seed("bbox-two-classes")
def _(splits: Splits, folder: Path) -> None:
    splits["train"]["annotations"].append(first(splits) | {"id": 2000, "category_id": 2})


@seed("bbox-swapped")
def _(splits: Splits, folder: Path) -> None:
    for at, annotation in enumerate(splits["train"]["annotations"][:5]):
        reshape(annotation, [2, 10 * at + 4, 10, 12])
        annotation["segmentation"] = []
    for coco in splits.values():
        for annotation in coco["annotations"]:
            annotation["segmentation"] = []


@seed("bbox-crowded")
def _(splits: Splits, folder: Path) -> None:
    for at in range(101):
        annotation = copy.deepcopy(first(splits)) | {"id": 2000 + at}
        reshape(annotation, [(at % 13) * 4, at // 13 * 4, 10, 8])
        splits["train"]["annotations"].append(annotation)


@seed("bbox-xyxy")
def _(splits: Splits, folder: Path) -> None:
    for annotation in splits["train"]["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]


@seed("bbox-normalised")
def _(splits: Splits, folder: Path) -> None:
    for annotation in splits["train"]["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]


@seed("bbox-whole-image")
def _(splits: Splits, folder: Path) -> None:
    for annotation in splits["train"]["annotations"][::5]:
        reshape(annotation, [0, 0, WIDTH, HEIGHT])


@seed("bbox-below-stride")
def _(splits: Splits, folder: Path) -> None:
    image(splits).update(width=1333, height=400)
    picture(folder / "train_0.jpg", 0, (1333, 400))
    reshape(first(splits), [2, 4, 3, 3])


# -- segmentation -------------------------------------------------------------------------------------------------

put("segm-invalid", "segmentation", [2, 4, 12, 4, 12, 12, 2, 12])
put("segm-ring-short", "segmentation", [[2, 4, 12, 12], [2, 4, 12, 4, 12, 12, 2, 12]])
put("segm-nan", "segmentation", [[2, 4, 1e9, 4, 12, 12, 2, 12]])
put("segm-outside", "segmentation", [[-5, 4, 12, 4, 12, 12, -5, 12]], "mask-outside-box", "area-wrong")
put("segm-degenerate", "segmentation", [[2, 4, 12, 4, 12, 12, 2, 12], [3, 3, 5, 5, 7, 7]])
put("segm-self-crossing", "segmentation", [[2, 4, 12, 12, 12, 4, 2, 12]], "area-wrong")
put("segm-closing-point", "segmentation", [[2, 4, 12, 4, 12, 12, 2, 12, 2, 4]])
put("rle-invalid", "segmentation", {"size": [HEIGHT, WIDTH], "counts": [5, 5]})
put("mask-box-mismatch", "bbox", [30, 35, 10, 8])
put("mask-outside-box", "bbox", [2, 4, 10, 5], "area-exceeds-box")
put("segm-mixed", "segmentation", [])
put("keypoints-invalid", "keypoints", [1, 2])


@seed("segm-many-points")
def _(splits: Splits, folder: Path) -> None:
    turn = np.linspace(0, 2 * np.pi, 1100, endpoint=False)
    ring = np.stack([7 + 5 * np.cos(turn), 8 + 4 * np.sin(turn)], axis=1)
    first(splits).update(segmentation=[ring.ravel().tolist()], area=float(np.pi * 20))


def as_rle(splits: Splits, height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    rle = coco_mask.frPyObjects(first(splits)["segmentation"], height, width)[0]
    return {"size": [height, width], "counts": rle["counts"].decode()}


@seed("rle-size")
def _(splits: Splits, folder: Path) -> None:
    first(splits)["segmentation"] = as_rle(splits) | {"size": [WIDTH, HEIGHT]}


@seed("rle-bytes")
def _(splits: Splits, folder: Path) -> None:
    rle = as_rle(splits)
    first(splits)["segmentation"] = rle | {"counts": rle["counts"].encode()}


@seed("mask-empty")
def _(splits: Splits, folder: Path) -> None:
    first(splits)["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}


# -- area and iscrowd ---------------------------------------------------------------------------------------------

put("area-missing", "area", ...)
put("area-invalid", "area", 0)
put("area-wrong", "area", 160)
put("iscrowd-missing", "iscrowd", ...)
put("iscrowd-invalid", "iscrowd", 2)
put("crowd-polygons", "iscrowd", 1)
put("ignore-set", "ignore", 1)


@seed("area-exceeds-box")
def _(splits: Splits, folder: Path) -> None:
    """A mask one pixel larger on each side than its box."""
    reshape(first(splits), [2, 2, 14, 14])
    first(splits)["bbox"] = [3, 3, 12, 12]


@seed("crowd-many", "segm-mixed")
def _(splits: Splits, folder: Path) -> None:
    for annotation in splits["train"]["annotations"][:8]:
        annotation.update(iscrowd=1, segmentation=[])
