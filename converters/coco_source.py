"""COCO as an input: to pick classes, merge files, renumber or split anew."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import orjson
from pycocotools import mask as coco_mask

from converters.errors import AnnotationError, DatasetError
from converters.geometry import check_ring, segmentation_box
from converters.masks import check_size, read_counts
from converters.records import Box, ConversionLog, ImageRecord, Instance, Polygons, Rle

_IMAGE_KEYS = frozenset({"id", "file_name", "width", "height"})
_ANNOTATION_KEYS = frozenset({"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "ignore"})


def read_coco(
    root: Path, *, split: str | None = None, images: Path | None = None, log: ConversionLog | None = None
) -> Iterator[ImageRecord]:
    """Yield one record per image of a COCO file, or of all COCO files of a folder, one file after the other.

    Args:
        root: a COCO JSON file, or a folder of them. Known are COCO's own layout (``annotations/instances_NAME.json``
            with the images in ``NAME`` or ``images/NAME``) and Roboflow's, with a file beside its images.
        split: in a folder, the file to read: its path, its stem, ``instances_<split>``, or the subfolder it lies in.
        images: the image root, if the images do not lie beside the file.
        log: what was dropped and repaired.

    Raises:
        DatasetError: no such file, not JSON, or not COCO.
        AnnotationError: an image or an annotation cannot be read, unless ``log.skip_bad``.
    """
    log = log if log is not None else ConversionLog()
    for path in find_coco(root, split):
        source = _Source(path, log)
        source.prefix = "" if root.is_file() else source.find_images(root, images)
        yield from source.records()


def coco_images(root: Path, images: Path | None) -> Path:
    """What file names of a COCO file are relative to."""
    return images or (root.parent if root.is_file() else root)


def coco_categories(root: Path) -> list[dict[str, Any]]:
    """Categories of the COCO files under ``root`` in their order, without the ids."""
    found: dict[str, dict[str, Any]] = {}
    for path in find_coco(root, None):
        with suppress(DatasetError):  # other JSON lies beside, such as labelme's; what is to be read tells by itself
            for category in _Source(path, ConversionLog()).categories():
                found.setdefault(category["name"], {key: value for key, value in category.items() if key != "id"})
    return list(found.values())


def find_coco(root: Path, split: str | None) -> list[Path]:
    """COCO files under ``root``; DatasetError if there is none."""
    if root.is_file():
        return [root]
    if split is None:
        found = _json_files(root)
    else:
        names = (split, f"{split}.json", f"annotations/{split}.json", f"annotations/instances_{split}.json")
        found = next(([root / name] for name in names if (root / name).is_file()), sorted(root.glob(f"{split}/*.json")))
    if not found:
        there = ", ".join(path.relative_to(root).as_posix() for path in _json_files(root)[:20])
        what = f"for split {split!r} " if split else ""
        raise DatasetError(f"no COCO file {what}in {root}" + (f". There are {there}" if there else ""))
    return found


def _json_files(root: Path) -> list[Path]:
    patterns = ("*.json", "annotations/*.json", "*/*.json")
    return next((paths for pattern in patterns if (paths := sorted(root.glob(pattern)))), [])


def read_json(path: Path) -> dict[str, Any]:
    """The three lists of a COCO file and what else is in it; DatasetError if it is no such file."""
    try:
        data: dict[str, Any] = orjson.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise DatasetError(f"{path}: not JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise DatasetError(f"{path}: not a COCO dataset: it has no list {key!r}")
    return data


class _Source:
    """One COCO file."""

    prefix = ""  # folder of the images below the image root

    def __init__(self, path: Path, log: ConversionLog) -> None:
        self.path, self.log = path, log
        self.data = read_json(path)

    def find_images(self, root: Path, images: Path | None) -> str:
        """The folder below the image root that the file names are relative to: the one that has the first image."""
        folder = self.path.parent
        if images is None and folder.name != "annotations":
            return folder.relative_to(root).as_posix() if root in folder.parents else ""
        try:
            first = _safe_name(self.data["images"][0]["file_name"])
        except (LookupError, TypeError, ValueError):  # told of when the images are read
            return ""
        split = self.path.stem.removeprefix("instances_")
        places = ("", split, f"images/{split}", "images")
        return next((place for place in places if os.path.isfile(f"{images or root}/{place}/{first}")), "")  # noqa: PTH113

    def categories(self) -> list[dict[str, Any]]:
        for category in self.data["categories"]:
            if not isinstance(category, dict) or not isinstance(category.get("name"), str) or "id" not in category:
                raise DatasetError(f"{self.path}: the category {category!r} has no name or no id")
        return list(self.data["categories"])

    def records(self) -> Iterator[ImageRecord]:
        names = {_id(category, "id"): category["name"] for category in self.categories()}
        own: dict[Any, list[tuple[int, dict[str, Any]]]] = {_id(image, "id"): [] for image in self.data["images"]}
        for number, annotation in enumerate(self.data["annotations"]):
            place = own.get(_id(annotation, "image_id"))
            if place is None:
                self.log.drop("annotation of an image that is not in the file", f"{self.path}, annotations[{number}]")
            else:
                place.append((number, annotation))
        for number, image in enumerate(self.data["images"]):
            try:
                record = self._record(image, own, names)
            except AnnotationError as error:
                self.log.bad(error)
            except (KeyError, TypeError, ValueError) as error:
                problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
                self.log.bad(AnnotationError(self.path, f"images[{number}]: {problem}", "Run the check on this file"))
            else:
                yield record

    def _record(self, image: dict[str, Any], own: Mapping[Any, Any], names: Mapping[Any, str]) -> ImageRecord:
        width, height = (_whole(image, side) for side in ("width", "height"))
        name = _safe_name(image["file_name"])
        instances = tuple(
            instance
            for number, annotation in own[_id(image, "id")]
            if (instance := self._instance(annotation, number, names, width, height)) is not None
        )
        attributes = {key: value for key, value in image.items() if key not in _IMAGE_KEYS}
        file_name = f"{self.prefix}/{name}" if self.prefix else name
        return ImageRecord(file_name, width, height, instances, str(self.path), attributes)

    def _instance(
        self, annotation: dict[str, Any], number: int, names: Mapping[Any, str], width: int, height: int
    ) -> Instance | None:
        where = f"{self.path}, annotations[{number}]"
        category = names.get(_id(annotation, "category_id"))
        if category is None:
            self.log.drop("annotation of a category that is not in the file", where)
            return None
        try:
            segmentation = self._segmentation(annotation.get("segmentation"), where, width, height)
            box = _box(annotation.get("bbox"), segmentation)
        except (TypeError, ValueError) as error:
            bad = AnnotationError(self.path, f"annotations[{number}]: {error}", "Correct or remove the annotation")
            if not self.log.skip_bad:
                raise bad from error
            self.log.drop("annotation that cannot be read", str(bad))
            return None
        if box[0] >= box[2] or box[1] >= box[3]:
            self.log.drop("no width or no height", where)
            return None
        if annotation.get("ignore"):
            self.log.note("ignore was set: made a crowd, which evaluation ignores", where)
        area = annotation.get("area")
        known = area if isinstance(area, int | float) and 0 < area < math.inf else None
        crowd = bool(annotation.get("iscrowd")) or bool(annotation.get("ignore"))
        extra = {key: value for key, value in annotation.items() if key not in _ANNOTATION_KEYS}
        return Instance(category, box, segmentation, known, crowd, extra)

    def _segmentation(self, value: Any, where: str, width: int, height: int) -> Polygons | Rle | None:
        if not value:
            return None
        if isinstance(value, dict):
            return _rle(value, width, height)
        rings = [tuple(map(float, ring)) for ring in value]
        kept = tuple(ring for ring in rings if len(ring) >= 6 and len(ring) % 2 == 0)
        if len(kept) < len(rings):
            self.log.note("ring of fewer than three points left out", where)
        for ring in kept:
            check_ring(ring)
        return kept or None


def _id(entry: Any, key: str) -> int | str | None:
    """An id that can be looked up; ``None`` for what is none."""
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, int | str) else None


def _rle(value: Mapping[str, Any], width: int, height: int) -> Rle:
    """Run lengths, compressed; pycocotools decodes too short ones into whatever memory holds, so they are counted."""
    check_size(width, height)
    if list(value.get("size", ())) != [height, width]:
        raise ValueError(f"the size of the run lengths is {value.get('size')!r}, the image's [{height}, {width}]")
    counts = value.get("counts")
    runs = read_counts(counts).tolist() if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise ValueError("the counts are not run lengths")
    if sum(runs) != width * height:
        raise ValueError(f"the run lengths add up to {sum(runs)}, not to {width} x {height}")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts}
    packed = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}


def _box(value: Any, segmentation: Polygons | Rle | None) -> Box:
    if value is None and segmentation is not None:
        return segmentation_box(segmentation)
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError(f"bbox is {value!r}, not four numbers")
    left, top, width, height = map(float, value)
    if not all(abs(number) < 1e9 for number in (left, top, width, height)):
        raise ValueError(f"bbox is {value!r}, not four finite numbers")
    return left, top, left + width, top + height


def _whole(image: dict[str, Any], side: str) -> int:
    value = image[side]
    if not isinstance(value, int | float) or not 0 < value < 1e9 or int(value) != value:
        raise ValueError(f"{side} is {value!r}, not a number of pixels")
    return int(value)


def _safe_name(name: Any) -> str:
    """The file name with forward slashes; ValueError if it leaves the image root."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"file_name is {name!r}")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive:
        raise ValueError(f"file_name {name!r} leaves the image root")
    return path.as_posix()
