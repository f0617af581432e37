"""A COCO file as flat arrays: forked loading processes share them instead of each copying a million dicts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.errors import WeightsError


@dataclass(frozen=True)
class CocoTable:
    """N images and M objects; the objects of image ``i`` are rows ``starts[i]`` to ``starts[i + 1]``.

    Attributes:
        image_ids: (N,) int64.
        names: (N,) file names as UTF-8 bytes, relative to the image folder.
        sizes: (N, 2) int64 width, height in pixels.
        starts: (N + 1,) int64.
        boxes: (M, 4) float32 pixel xyxy, inside the image.
        labels: (M,) int64 from 1, in the order of ``classes``.
        crowds: (M,) bool, regions that are not one object: neither truth nor background.
        segmentations: (M,) JSON of COCO polygons or run lengths, offsets into ``outlines``; empty without masks.
        outlines: the bytes they point into.
        category_of: (C + 1,) int64 category id of each label.
        annotation_ids: (M,) int64.
        left_out: how many boxes without area, or without outline where masks are wanted, the file has besides.
        cut: each "image" is one object, and what is inside its box is the picture; see :meth:`one_by_one`.
    """

    image_ids: NDArray[np.int64]
    names: NDArray[np.bytes_]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowds: NDArray[np.bool_]
    segmentations: NDArray[np.int64]
    outlines: bytes
    category_of: NDArray[np.int64]
    annotation_ids: NDArray[np.int64]
    left_out: int
    cut: bool = False

    def __len__(self) -> int:
        return len(self.image_ids)

    def name(self, index: int) -> str:
        """The file name of an image."""
        return bytes(self.names[index]).decode()

    def objects(self, index: int) -> slice:
        """The rows of an image's objects."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))

    def one_by_one(self) -> CocoTable:
        """The table with an "image" for each object that is no crowd: what a classifier learns from.

        A classification set has one object per image, whose box is the whole picture; for any other set the objects
        are cut out of their images.
        """
        (rows,) = np.nonzero(~self.crowds)
        images = np.searchsorted(self.starts, rows, side="right") - 1
        return replace(
            self,
            image_ids=self.image_ids[images],
            names=self.names[images],
            sizes=self.sizes[images],
            starts=np.arange(len(rows) + 1),
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowds=self.crowds[rows],
            annotation_ids=self.annotation_ids[rows],
            segmentations=np.zeros(1, np.int64),
            outlines=b"",
            cut=True,
        )

    def window(self, index: int) -> tuple[slice, slice]:
        """The rows and columns of pixels that an object's box touches, where objects are cut out."""
        left, top, right, bottom = self.boxes[index].tolist()
        return slice(int(top), math.ceil(bottom)), slice(int(left), math.ceil(right))

    def outline(self, row: int) -> Any:
        """The COCO segmentation of an object: rings, or run lengths."""
        return orjson.loads(self.outlines[self.segmentations[row] : self.segmentations[row + 1]])


def read_coco(path: Path, classes: tuple[str, ...], *, masks: bool = False, skip_empty: bool = False) -> CocoTable:
    """Read a COCO file for a detector of these classes, images in the order of their ids.

    Args:
        path: COCO instances JSON.
        classes: category names in label order; the file's categories are matched by name, not by id.
        masks: keep the segmentations too.
        skip_empty: leave out images without objects.

    Raises:
        ValueError: not COCO, a category the detector does not have, a file name that leaves the image folder.
    """
    content = load_coco(path)
    label_of, category_of = _labels(path, content["categories"], classes)
    objects: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
    images = sorted(content["images"], key=lambda image: int(image["id"]))
    kept = {image["id"]: _trainable(objects.get(image["id"], []), image, masks=masks) for image in images}
    if skip_empty:
        images = [image for image in images if kept[image["id"]]]
    rows = [row for image in images for row in kept[image["id"]]]
    outlines = [orjson.dumps(row["segmentation"]) for row, _ in rows] if masks else []
    return CocoTable(
        image_ids=np.array([image["id"] for image in images], np.int64),
        names=np.array([_inside(path, image["file_name"]).encode() for image in images], np.bytes_),
        sizes=np.array([(image["width"], image["height"]) for image in images], np.int64).reshape(-1, 2),
        starts=np.cumsum([0, *(len(kept[image["id"]]) for image in images)]).astype(np.int64),
        boxes=np.array([box for _, box in rows], np.float32).reshape(-1, 4),
        labels=np.array([label_of[row["category_id"]] for row, _ in rows], np.int64),
        crowds=np.array([bool(row.get("iscrowd")) for row, _ in rows], np.bool_),
        segmentations=np.cumsum([0, *map(len, outlines)]).astype(np.int64),
        outlines=b"".join(outlines),
        category_of=category_of,
        annotation_ids=np.array([row["id"] for row, _ in rows], np.int64),
        left_out=len(content["annotations"]) - sum(map(len, kept.values())),
    )


def load_coco(path: Path) -> dict[str, Any]:
    """A COCO instances file as it stands.

    Raises:
        ValueError: not JSON, without the three lists, or with a class name that two categories have.
    """
    try:
        content = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{path}: not a COCO instances file, it has no list {key!r}")
    names = Counter(category.get("name") for category in content["categories"])
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"{path}: two categories are called {twice[0]!r}. Merge them: scores go by the name")
    return content  # type: ignore[no-any-return]


def _labels(
    path: Path, categories: list[dict[str, Any]], classes: tuple[str, ...]
) -> tuple[dict[int, int], NDArray[np.int64]]:
    """Label of each category id, and category id of each label (0 where the file lacks the class)."""
    label_of: dict[int, int] = {}
    category_of = np.zeros(len(classes) + 1, np.int64)
    for category in categories:
        if category["name"] not in classes:
            raise WeightsError(
                f"{path}: category {category['name']!r} is not among the detector's classes {', '.join(classes)}",
                "Adapt the checkpoint to the categories of this file first",
            )
        label = classes.index(category["name"]) + 1
        label_of[category["id"]], category_of[label] = label, category["id"]
    return label_of, category_of


def _trainable(
    annotations: list[dict[str, Any]], image: dict[str, Any], *, masks: bool
) -> list[tuple[dict[str, Any], tuple[float, float, float, float]]]:
    """The annotations a detector can learn from, each with its xyxy box inside the image."""
    kept = []
    for annotation in sorted(annotations, key=lambda annotation: int(annotation["id"])):
        x, y, w, h = annotation["bbox"]
        box = (max(0.0, x), max(0.0, y), min(image["width"], x + w), min(image["height"], y + h))
        drawn = not masks or bool(annotation.get("segmentation"))
        if box[2] > box[0] and box[3] > box[1] and drawn:
            kept.append((annotation, box))
    return kept


def _inside(path: Path, name: str) -> str:
    """The file name, unless it would lead out of the image folder."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\0" in name:
        raise ValueError(f"{path}: file_name {name!r} leads out of the image folder")
    return name
