"""A small clean dataset with real image files, for the tests of the check to break in one place at a time."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Coco = dict[str, Any]
WIDTH, HEIGHT = 64, 48
CATEGORIES = [{"id": 1, "name": "cat", "supercategory": ""}, {"id": 2, "name": "dog", "supercategory": ""}]


def picture(path: Path, seed: int, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> Path:
    """Write a picture like no other: smooth noise of its own seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR).save(path, **options)
    return path


def split(name: str, images: int, first: int) -> Coco:
    """A clean COCO: five annotations an image, of both classes, with rings whose areas are true."""
    coco: Coco = {"info": {}, "licenses": [], "images": [], "annotations": [], "categories": copy.deepcopy(CATEGORIES)}
    for number in range(images):
        image_id = first + number
        file_name = f"{name}_{number}.jpg"
        coco["images"].append({"id": image_id, "file_name": file_name, "width": WIDTH, "height": HEIGHT})
        for place in range(5):
            x, y, w, h = 2 + 11 * place, 4 + 3 * place, 10 + (number % 3), 8 + place
            coco["annotations"].append(
                {
                    "id": 10 * image_id + place,
                    "image_id": image_id,
                    "category_id": 1 + (place % 2),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    return coco


def dataset(folder: Path) -> dict[str, Coco]:
    """Two clean splits, and their images below ``folder``."""
    splits = {"train": split("train", 6, 1), "val": split("val", 3, 101)}
    for at, image in enumerate(image for coco in splits.values() for image in coco["images"]):
        picture(folder / image["file_name"], at)
    return splits
