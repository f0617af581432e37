"""One seeded defect for every rule: how to break the clean dataset, and which rules then speak."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import helpers_seeds_boxes  # noqa: F401 - its seeds are among them
import numpy as np
from helpers_check import HEIGHT, WIDTH, picture
from helpers_seed import SEEDS, Splits, first, image, put, seed, to_file
from PIL import Image

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
