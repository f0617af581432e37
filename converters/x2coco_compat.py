"""PaddleDetection's numbers, where they are not the right ones: ``x2coco --compat``.

Observed on its develop branch of 2025. Images are taken in the order the file system lists them, classes in the order
they are first met, the area of a polygon is that of its box, and boxes end at their last pixel.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from converters.coco import Coco
from converters.errors import AnnotationError, DatasetError
from converters.files import read_file
from converters.pictures import picture_size
from converters.voc_xml import VocObject, parse_voc

_IMAGES = ("bmp", "jpg", "jpeg", "png", "JPEG", "JPG", "PNG")
_FACE_FLAGS = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")


def voc(folder: Path, listed: Path, labels: Path) -> Coco:
    """VOC by its list: image ids from 0, float sizes, boxes as edges, classes split at every blank."""
    names = labels.read_text("utf-8-sig").split()
    ids = {name: number for number, name in enumerate(names, 1)}
    coco: Coco = {"images": [], "type": "instances", "annotations": [], "categories": []}
    for line in listed.read_text("utf-8-sig").splitlines():
        name = line.strip().split(" ")[-1]
        path = str(folder / (name if name.endswith("xml") else f"{name}.xml"))
        parsed = parse_voc(read_file(path), path)
        number = len(coco["images"])
        size = {"height": float(parsed.height), "width": float(parsed.width)}
        coco["images"].append({"file_name": parsed.filename, **size, "id": number})
        for obj in parsed.objects:
            annotation = _voc_annotation(obj, ids, path)
            coco["annotations"].append({**annotation, "image_id": number, "id": len(coco["annotations"]) + 1})
    coco["categories"] = [{"supercategory": "none", "id": number, "name": name} for name, number in ids.items()]
    return coco


def _voc_annotation(obj: VocObject, ids: Mapping[str, int], path: str) -> dict[str, Any]:
    if obj.name not in ids:
        raise AnnotationError(path, f"the class {obj.name!r} is not in the label list", "Add it, or drop --compat")
    if obj.corners is None:
        raise AnnotationError(path, obj.problem or "an object without <bndbox>", "Correct it, or drop --compat")
    left, top, right, bottom = obj.corners
    if obj.remark or left >= right or top >= bottom:
        raise AnnotationError(path, f"the box {obj.corners} is not one", "Correct it, or drop --compat")
    width, height = right - left, bottom - top
    box = [left, top, width, height]
    return {"area": width * height, "iscrowd": 0, "bbox": box, "category_id": ids[obj.name], "ignore": 0}


def widerface(root: Path, split: str) -> Coco:
    """WIDER FACE: image ids from 0 that go on over missing images, boxes as listed, category 0."""
    path = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    folder = root / f"WIDER_{split}" / "images"
    category = {"supercategory": "none", "id": 0, "name": "human_face"}
    coco: Coco = {"images": [], "type": "instances", "annotations": [], "categories": [category]}
    lines = path.read_text("utf-8").splitlines()
    position = number = 0
    while position < len(lines):
        name = lines[position].strip()
        try:
            count = int(lines[position + 1])
            rows = [[int(text) for text in line.split()] for line in lines[position + 2 : position + 2 + count]]
            faces = [_face(row) for row in rows]
        except (ValueError, IndexError) as error:
            raise AnnotationError(path, f"cannot read the faces of {name!r}", line=position + 1) from error
        if (folder / name).is_file():
            width, height, _ = picture_size(folder / name)
            file_name = f"WIDER_{split}/images/{name}"
            coco["images"].append({"file_name": file_name, "height": height, "width": width, "id": number})
            for face in faces:
                coco["annotations"].append({**face, "image_id": number, "id": len(coco["annotations"]) + 1})
        position += 2 + max(count, 1)
        number += 1
    return coco


def _face(row: Sequence[int]) -> dict[str, Any]:
    left, top, width, height, *flags = row
    own = dict(zip(_FACE_FLAGS, flags, strict=True))
    return {
        "area": width * height,
        "iscrowd": 0,
        "bbox": [left, top, width, height],
        "category_id": 0,
        "ignore": 0,
        **own,
    }


def copy_images(images: Path, annotations: Path, output: Path, shares: Mapping[str, float]) -> None:
    """Copy the files of a folder in the order it lists them: as many to train and val as there are JSON for.

    The rest goes to test, if it has a share; images beyond the number of JSON files, and whatever truncation of the
    shares leaves over, are in no split otherwise.
    """
    total = len(list(annotations.glob("*.json")))
    train = int(total * shares["train"])
    val = int(total * shares["val"])
    for name, share in shares.items():
        if share:
            (output / name).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(os.listdir(images)):  # noqa: PTH208 (its order is the point)
        split = "train" if number < train else "val" if number < train + val else "test"
        if (output / split).is_dir():
            shutil.copyfile(images / name, output / split / name)


class Polygons:
    """labelme and Cityscapes polygons; classes are numbered as they are met, over all splits."""

    def __init__(self, kind: str, annotations: Path) -> None:
        self.kind, self.annotations = kind, annotations
        self.categories: list[dict[str, Any]] = []
        self.ids: dict[str, int] = {}

    def convert(self, folder: Path) -> Coco:
        """The images in a folder with the classes met so far."""
        coco: Coco = {"images": [], "categories": [], "annotations": []}
        count = 0
        for name in os.listdir(folder):  # noqa: PTH208 (its order is the point)
            if name.split(".")[-1] not in _IMAGES:
                continue
            path = self.annotations / f"{os.path.splitext(name)[0]}.json"  # noqa: PTH122
            number = len(coco["images"]) + 1
            try:
                data = orjson.loads(read_file(str(path)))
                size, image, shapes = self._image(data, name)
                coco["images"].append({"height": size[1], "width": size[0], "id": number, "file_name": image})
                for label, points, kind in shapes:
                    count += 1
                    category = self._id(label)
                    annotation = _annotation(points, kind, size)
                    if annotation:
                        ids = {"image_id": number, "category_id": category, "id": count}
                        coco["annotations"].append({**annotation, "iscrowd": 0, **ids})
            except (KeyError, TypeError, ValueError, IndexError) as error:
                if isinstance(error, AnnotationError):
                    raise
                raise AnnotationError(path, f"cannot be converted: {type(error).__name__} {error}") from error
        coco["categories"] = list(self.categories)
        return coco

    def _image(self, data: dict[str, Any], name: str) -> tuple[tuple[int, int], str, list[tuple[str, Any, str]]]:
        if self.kind == "labelme":
            shapes = [(shape["label"], shape["points"], shape["shape_type"]) for shape in data["shapes"]]
            file_name = data["imagePath"].split("\\" if "\\" in data["imagePath"] else "/")[-1]
            return (data["imageWidth"], data["imageHeight"]), file_name, shapes
        shapes = [(shape["label"], shape["polygon"], "polygon") for shape in data["objects"]]
        return (data["imgWidth"], data["imgHeight"]), name, shapes

    def _id(self, label: str) -> int:
        if label not in self.ids:
            self.ids[label] = len(self.ids) + 1
            self.categories.append({"supercategory": "component", "id": self.ids[label], "name": label})
        return self.ids[label]


def _annotation(points: Any, kind: str, size: tuple[int, int]) -> dict[str, Any] | None:
    """Segmentation, box and area of a polygon or a rectangle; ``None`` for any other shape."""
    box: list[Any]
    if kind == "polygon":
        ring = [value for point in points for value in point]
        left, top, right, bottom = _painted(points, size)
        box = [left, top, right - 1 - left, bottom - 1 - top]
    elif kind == "rectangle":
        (x1, y1), (x2, y2) = points
        (left, right), (top, bottom) = sorted((x1, x2)), sorted((y1, y2))
        ring = [left, top, left, bottom, right, bottom, right, top]
        box = [left, top, right - left, bottom - top]
    else:
        return None
    width, height = float(box[2]), float(box[3])
    return {"segmentation": [ring], "bbox": [float(box[0]), float(box[1]), width, height], "area": width * height}


def _painted(points: Any, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Bounds of the pixels that Pillow paints for a polygon, the last one exclusive."""
    from PIL import Image, ImageDraw  # noqa: PLC0415 (voc does not wait for it)

    mask = Image.new("1", size)
    ImageDraw.Draw(mask).polygon([tuple(point) for point in points], outline=1, fill=1)
    bounds = mask.getbbox()
    if bounds is None:
        raise DatasetError("a polygon lies outside its image")
    return bounds
