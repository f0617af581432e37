"""One seeded defect for every rule: how to break the clean dataset, and which rules then speak."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from helpers_check import HEIGHT, WIDTH, Coco, picture
from PIL import Image
from pycocotools import mask as coco_mask

Splits = dict[str, Any]


@dataclass(frozen=True)
class Seed:
    """A way to break the clean dataset, and the rules that report it besides the one it is for."""

    breaks: Callable[[Splits, Path], None]
    also: frozenset[str] = frozenset()


SEEDS: dict[str, Seed] = {}


def seed(rule: str, *also: str) -> Callable[[Callable[[Splits, Path], None]], Callable[[Splits, Path], None]]:
    def add(function: Callable[[Splits, Path], None]) -> Callable[[Splits, Path], None]:
        assert rule not in SEEDS
        SEEDS[rule] = Seed(function, frozenset(also))
        return function

    return add


def first(splits: Splits) -> Coco:
    return splits["train"]["annotations"][0]


def image(splits: Splits, split: str = "train", at: int = 0) -> Coco:
    return splits[split]["images"][at]


def put(rule: str, key: str, value: Any, *also: str, of: Callable[[Splits], Coco] = first) -> None:
    """A seed that gives one field of one entry a value; ... removes it."""

    @seed(rule, *also)
    def breaks(splits: Splits, folder: Path) -> None:
        entry = of(splits)
        if value is ...:
            del entry[key]
        else:
            entry[key] = copy.deepcopy(value)


def to_file(splits: Splits, folder: Path, data: bytes) -> None:
    splits["train"] = folder / "train.json"
    splits["train"].write_bytes(data)


# -- file ---------------------------------------------------------------------------------------------------------


@seed("json-unreadable", "category-few")
def _(splits: Splits, folder: Path) -> None:
    to_file(splits, folder, json.dumps(splits["train"]).encode()[:-20])


@seed("json-bom")
def _(splits: Splits, folder: Path) -> None:
    to_file(splits, folder, b"\xef\xbb\xbf" + json.dumps(splits["train"]).encode())


@seed("json-nan", "area-invalid")
def _(splits: Splits, folder: Path) -> None:
    first(splits)["area"] = float("nan")
    to_file(splits, folder, json.dumps(splits["train"]).encode())


@seed("structure-invalid", "split-empty", "image-unlisted", "orphan-image")
def _(splits: Splits, folder: Path) -> None:
    splits["train"]["images"] = {"0": {}}


put("annotations-missing", "annotations", ..., "split-no-objects", "image-empty", of=lambda s: s["val"])
put("info-missing", "info", ..., of=lambda s: s["val"])
put("unknown-key", "colour", "red")


@seed("entry-invalid")
def _(splits: Splits, folder: Path) -> None:
    splits["train"]["annotations"].append("box")


# -- ids and names ------------------------------------------------------------------------------------------------

put("id-type", "image_id", "1")
put("number-type", "width", float(WIDTH), of=image)
put("id-invalid", "id", None)
put("annotation-id-duplicate", "id", 12)
put("annotation-id-nonpositive", "id", 0)
put("orphan-image", "image_id", 77)
put("orphan-category", "category_id", 77)
put(
    "category-name-empty",
    "name",
    " ",
    "categories-differ",
    "category-not-in-train",
    of=lambda s: s["train"]["categories"][0],
)
put("supercategory-missing", "supercategory", ..., of=lambda s: s["train"]["categories"][0])
put("file-name-unsafe", "file_name", "C:\\data\\train_0.jpg", "image-unlisted", of=image)
put("file-name-style", "file_name", "sub\\x.jpg", "image-missing", "image-unlisted", of=image)


@seed("image-id-duplicate", "image-empty")
def _(splits: Splits, folder: Path) -> None:
    image(splits, at=1)["id"] = 1
    for annotation in splits["train"]["annotations"]:
        annotation["image_id"] = {2: 1}.get(annotation["image_id"], annotation["image_id"])
    for annotation in splits["train"]["annotations"][5:10]:
        annotation["bbox"][0] += 1
        annotation["segmentation"] = [[v + (at % 2 == 0) for at, v in enumerate(annotation["segmentation"][0])]]


def renumber(splits: Splits, ids: dict[int, int]) -> None:
    for coco in splits.values():
        for category in coco["categories"]:
            category["id"] = ids[category["id"]]
        for annotation in coco["annotations"]:
            annotation["category_id"] = ids[annotation["category_id"]]


@seed("category-id-duplicate", "category-unused")
def _(splits: Splits, folder: Path) -> None:
    renumber(splits, {1: 1, 2: 1})


@seed("category-id-gap")
def _(splits: Splits, folder: Path) -> None:
    renumber(splits, {1: 0, 2: 1})


@seed("category-name-duplicate", "category-name-similar", "category-few")
def _(splits: Splits, folder: Path) -> None:
    for coco in splits.values():
        coco["categories"] += [
            {"id": 3, "name": "cat", "supercategory": ""},
            {"id": 4, "name": " Cat", "supercategory": ""},
        ]
        for annotation in coco["annotations"][::3]:
            annotation["category_id"] = 3
        for annotation in coco["annotations"][1::3]:
            annotation["category_id"] = 4


@seed("category-name-similar")
def _(splits: Splits, folder: Path) -> None:
    for coco in splits.values():
        coco["categories"][0]["name"] = "Dog "


@seed("file-name-duplicate", "image-unlisted")
def _(splits: Splits, folder: Path) -> None:
    image(splits, at=1)["file_name"] = image(splits)["file_name"]


# -- categories ---------------------------------------------------------------------------------------------------


@seed("category-unused")
def _(splits: Splits, folder: Path) -> None:
    for coco in splits.values():
        coco["categories"].append({"id": 3, "name": "bird", "supercategory": ""})


@seed("category-few")
def _(splits: Splits, folder: Path) -> None:
    SEEDS["category-unused"].breaks(splits, folder)
    first(splits)["category_id"] = splits["val"]["annotations"][0]["category_id"] = 3


@seed("category-single")
def _(splits: Splits, folder: Path) -> None:
    for coco in splits.values():
        del coco["categories"][1]
        for annotation in coco["annotations"]:
            annotation["category_id"] = 1


@seed("category-imbalance", "category-few")
def _(splits: Splits, folder: Path) -> None:
    """74 boxes more, each in a place of its own."""
    SEEDS["category-few"].breaks(splits, folder)
    splits["val"]["annotations"][0]["category_id"] = 1
    for at in range(74):
        x, y = 3 * (at % 18), 30 + 3 * (at // 18)
        splits["train"]["annotations"].append(
            first(splits)
            | {"id": 5000 + at, "category_id": 1, "bbox": [x, y, 5, 5], "area": 25}
            | {"segmentation": [[x, y, x + 5, y, x + 5, y + 5, x, y + 5]]}
        )


@seed("category-not-in-train", "category-few")
def _(splits: Splits, folder: Path) -> None:
    SEEDS["category-unused"].breaks(splits, folder)
    splits["val"]["annotations"][0]["category_id"] = 3


@seed("category-share")
def _(splits: Splits, folder: Path) -> None:
    for at, annotation in enumerate(splits["train"]["annotations"]):
        annotation["category_id"] = 1 if at < 29 else 2
    for at, annotation in enumerate(splits["val"]["annotations"]):
        annotation["category_id"] = 2 if at < 14 else 1


@seed("categories-differ")
def _(splits: Splits, folder: Path) -> None:
    renumber({"val": splits["val"]}, {1: 2, 2: 1})
    for annotation in splits["val"]["annotations"][::5]:
        annotation["category_id"] = 1


@seed("categories-order")
def _(splits: Splits, folder: Path) -> None:
    splits["val"]["categories"].reverse()


# -- images -------------------------------------------------------------------------------------------------------


@seed("image-missing")
def _(splits: Splits, folder: Path) -> None:
    (folder / "train_0.jpg").unlink()


@seed("image-unreadable")
def _(splits: Splits, folder: Path) -> None:
    (folder / "train_0.jpg").write_bytes(b"")
    (folder / "train_1.jpg").write_bytes(b"<html>404</html>")


@seed("image-truncated")
def _(splits: Splits, folder: Path) -> None:
    data = (folder / "train_0.jpg").read_bytes()
    (folder / "train_0.jpg").write_bytes(data[: len(data) // 2])


put("image-size-invalid", "width", 0, of=image)


@seed("image-size-differs")
def _(splits: Splits, folder: Path) -> None:
    picture(folder / "train_0.jpg", 0, (WIDTH + 8, HEIGHT + 8))


@seed("image-exif")
def _(splits: Splits, folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    picture(folder / "train_0.jpg", 0, exif=exif)


@seed("image-extension")
def _(splits: Splits, folder: Path) -> None:
    picture(folder / "x.png", 0)
    shutil.move(folder / "x.png", folder / "train_0.jpg")


@seed("image-small", "image-empty")
def _(splits: Splits, folder: Path) -> None:
    image(splits).update(width=9, height=9)
    picture(folder / "train_0.jpg", 0, (9, 9))
    splits["train"]["annotations"] = [a for a in splits["train"]["annotations"] if a["image_id"] != 1]


@seed("image-mode")
def _(splits: Splits, folder: Path) -> None:
    with Image.open(folder / "train_0.jpg") as picture_:
        picture_.convert("CMYK").save(folder / "train_0.jpg")


@seed("image-huge", "bbox-below-stride")
def _(splits: Splits, folder: Path) -> None:
    image(splits).update(width=9500, height=9500)
    Image.new("1", (9500, 9500)).save(folder / "train_0.png")
    (folder / "train_0.jpg").unlink()
    image(splits)["file_name"] = "train_0.png"


@seed("image-aspect")
def _(splits: Splits, folder: Path) -> None:
    for at in range(5):
        splits["train"]["images"].append(image(splits) | {"id": 50 + at, "file_name": f"wide_{at}.jpg"})
        copied = [a | {"id": 10 * a["id"] + 5000 + at, "image_id": 50 + at} for a in splits["train"]["annotations"][:5]]
        splits["train"]["annotations"] += copied
        picture(folder / f"wide_{at}.jpg", 50 + at, (WIDTH, HEIGHT) if at else (WIDTH * 9, HEIGHT))
    splits["train"]["images"][-5]["width"] = WIDTH * 9


@seed("image-empty")
def _(splits: Splits, folder: Path) -> None:
    splits["train"]["images"].append(image(splits) | {"id": 50, "file_name": "empty.jpg"})
    picture(folder / "empty.jpg", 50)


def repaint(folder: Path, pixels: Any) -> None:
    Image.fromarray(np.asarray(pixels, np.uint8)).resize((WIDTH, HEIGHT)).save(folder / "train_0.jpg", quality=95)


@seed("image-dark")
def _(splits: Splits, folder: Path) -> None:
    repaint(folder, np.random.default_rng(0).integers(0, 60, (HEIGHT, WIDTH)))


@seed("image-bright", "image-flat")
def _(splits: Splits, folder: Path) -> None:
    repaint(
        folder,
        np.where(
            np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.02,
            0,
            252 + 3 * np.random.default_rng(1).random((HEIGHT, WIDTH)),
        ),
    )


@seed("image-blurred")
def _(splits: Splits, folder: Path) -> None:
    repaint(folder, np.add.outer(np.arange(HEIGHT) * 2, np.arange(WIDTH) * 2))


@seed("image-flat", "image-blurred")
def _(splits: Splits, folder: Path) -> None:
    repaint(folder, np.full((HEIGHT, WIDTH), 128))


@seed("image-unlisted")
def _(splits: Splits, folder: Path) -> None:
    picture(folder / "more" / "unlisted.jpg", 99)


# -- between images and splits ------------------------------------------------------------------------------------


@seed("split-shared-image", "image-unlisted")
def _(splits: Splits, folder: Path) -> None:
    image(splits, "val")["file_name"] = image(splits)["file_name"]


@seed("leak-bytes")
def _(splits: Splits, folder: Path) -> None:
    """The same picture with the same labels under two names, in two splits."""
    shutil.copy(folder / "train_0.jpg", folder / "val_0.jpg")


@seed("duplicate-bytes")
def _(splits: Splits, folder: Path) -> None:
    shutil.copy(folder / "train_0.jpg", folder / "train_3.jpg")


@seed("duplicate-labels", "duplicate-bytes")
def _(splits: Splits, folder: Path) -> None:
    shutil.copy(folder / "train_0.jpg", folder / "train_1.jpg")


@seed("leak-near")
def _(splits: Splits, folder: Path) -> None:
    picture(folder / "val_0.jpg", 0, quality=60)


@seed("near-duplicate")
def _(splits: Splits, folder: Path) -> None:
    picture(folder / "train_1.jpg", 0, quality=60)


@seed("split-empty")
def _(splits: Splits, folder: Path) -> None:
    splits["test"] = splits["val"] | {"images": [], "annotations": []}


@seed("split-no-objects", "image-empty")
def _(splits: Splits, folder: Path) -> None:
    splits["val"]["annotations"] = []


@seed("split-ids-overlap")
def _(splits: Splits, folder: Path) -> None:
    splits["val"]["annotations"][0]["id"] = 10


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


OPTIONS: dict[str, dict[str, Any]] = {
    "categories-unexpected": {"classes": ["cat", "bird"]},
    "drop-budget": {"policy": {"bbox-invalid": "drop"}},
}


@seed("categories-unexpected")
def _(splits: Splits, folder: Path) -> None:
    """Nothing is wrong but what is expected."""


@seed("drop-budget", "bbox-invalid")
def _(splits: Splits, folder: Path) -> None:
    for annotation in splits["train"]["annotations"][:3]:
        annotation["bbox"] = None
