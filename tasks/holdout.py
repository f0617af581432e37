"""Holdout: the split that champions are judged by, kept apart from everything that is trained on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson

from converters.coco import write_coco
from converters.errors import DatasetError
from tasks.stage import product
from tasks.store import Product

CARRIED = ("problems.json", "problems.html", "classes.json", "errors.txt")


@product("tasks.holdout")
def holdout(folder: Path, checked: Product, frozen: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Write ``train.json`` and ``val.json`` around a frozen split, and ``known.json`` for a model of fewer classes.

    Args:
        folder: of the product; what the check wrote is carried over.
        checked: product of the check.
        frozen: file names that are the validation split; what else the source's validation split holds waits, in
            neither file. Empty: the source's validation split as it is.
        known: ``known.json`` is ``val.json`` with these categories alone.

    Raises:
        DatasetError: an image of the frozen split is gone from the source.
    """
    train, val = (orjson.loads((checked.path / f"{name}.json").read_bytes()) for name in ("train", "val"))
    waiting = 0
    if frozen:
        names = set(frozen)
        _refuse_gaps(names, train, val)
        waiting = sum(image["file_name"] not in names for image in val["images"])
        train, val = _only(train, names, keep=False), _join(_only(train, names), _only(val, names))
    write_coco(train, folder / "train.json")
    write_coco(val, folder / "val.json")
    write_coco(_with_categories(val, set(known)), folder / "known.json")
    for name in CARRIED:
        if checked.has(name):
            shutil.copyfile(checked.path / name, folder / name)
    first = f"{len(train['images']):,} images to train on, {len(val['images']):,} to be judged by"
    (folder / "summary.md").write_text(first + (f"; {waiting} new ones wait" if waiting else "") + "\n")


def validation_names(split: Product) -> tuple[str, ...]:
    """File names of the images in ``val.json``, sorted."""
    return tuple(sorted(image["file_name"] for image in orjson.loads((split.path / "val.json").read_bytes())["images"]))


def _refuse_gaps(names: set[str], *splits: dict[str, Any]) -> None:
    gone = sorted(names - {image["file_name"] for split in splits for image in split["images"]})
    if gone:
        raise DatasetError(
            f"{len(gone)} of {len(names)} images of the frozen validation split are gone from the source, "
            f"{gone[0]} the first. Put them back, or freeze a new split (refreeze)"
        )


def _only(coco: dict[str, Any], names: set[str], *, keep: bool = True) -> dict[str, Any]:
    images = [image for image in coco["images"] if (image["file_name"] in names) is keep]
    return _of_images(coco, images)


def _of_images(coco: dict[str, Any], images: list[dict[str, Any]]) -> dict[str, Any]:
    ids = {image["id"] for image in images}
    return {**coco, "images": images, "annotations": [row for row in coco["annotations"] if row["image_id"] in ids]}


def _join(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Both, in the order of the file names, with ids from 1: those of two splits may be the same."""
    rows: dict[str, list[dict[str, Any]]] = {}
    images: dict[str, dict[str, Any]] = {}
    for coco in (one, two):
        name_of = {image["id"]: image["file_name"] for image in coco["images"]}
        images |= {image["file_name"]: image for image in coco["images"]}
        for row in coco["annotations"]:
            rows.setdefault(name_of[row["image_id"]], []).append(row)
    ordered = sorted(images)
    numbered = [{**images[name], "id": index} for index, name in enumerate(ordered, 1)]
    flat = [{**row, "image_id": index} for index, name in enumerate(ordered, 1) for row in rows.get(name, [])]
    annotations = [{**row, "id": index} for index, row in enumerate(flat, 1)]
    return {**two, "images": numbered, "annotations": annotations}


def _with_categories(coco: dict[str, Any], names: set[str]) -> dict[str, Any]:
    categories = [category for category in coco["categories"] if category["name"] in names]
    ids = {category["id"] for category in categories}
    annotations = [row for row in coco["annotations"] if row["category_id"] in ids]
    return {**coco, "categories": categories, "annotations": annotations}
