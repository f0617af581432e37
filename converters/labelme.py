"""labelme: one JSON per image, shapes of nine types, parts of one object joined by their group."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from converters.errors import AnnotationError, DatasetError
from converters.files import check_name
from converters.geometry import polygon_area, segmentation_area, segmentation_box
from converters.json_files import read_json
from converters.labelme_images import embedded_image, write_image
from converters.labelme_layout import ImageFinder, find_files, name_without_image
from converters.labelme_shapes import STROKES, Part, Ring, ShapeError, as_rle, cover, read_points
from converters.masks import check_size, unite
from converters.pictures import picture_size, record_without_objects
from converters.records import Box, ConversionLog, ImageRecord, Instance, other_class, read_each
from converters.splits import list_entries, read_list, take_shard

RectangleRule: TypeAlias = Literal["ring", "box"]

NO_OBJECTS = frozenset({"__ignore__", "_background_"})
"""Labels that mark no object; labelme's own ``labels.txt`` begins with them."""

_KINDS = frozenset({"polygon", "rectangle", "oriented_rectangle", "circle", "mask", *STROKES})
_NUMBERED = re.compile(r"(.+)-\d+")


@dataclass(frozen=True)
class _Rules:
    categories: Collection[str] | None
    rectangles: RectangleRule
    groups: bool
    numbered_labels: bool
    strokes: bool
    extract_images: Path | None


def read_labelme(
    root: Path,
    *,
    split: str | None = None,
    images: Path | None = None,
    categories: Sequence[str] | None = None,
    rectangles: RectangleRule = "ring",
    groups: bool = True,
    numbered_labels: bool = False,
    strokes: bool = False,
    allow_missing: bool = False,
    extract_images: Path | None = None,
    shard: tuple[int, int] | None = None,
    log: ConversionLog | None = None,
) -> Iterator[ImageRecord]:
    """Yield one record per labelme file, in the order of their paths.

    Polygons and rectangles keep their points, circles and bitmaps become the pixels that labelme itself paints.
    Everything is cut at the border of the image; what encloses nothing there is dropped and counted. Shapes of the
    same label and group are one instance.

    Args:
        root: a folder of JSON files, beside their images or not, in subfolders or not. JSON of other programs is
            passed over and counted.
        split: a subfolder, or a list file with one name per line; ``None`` takes every JSON file.
        images: the image root that file names are relative to; ``root`` if ``None``.
        categories: the classes wanted; objects of others are dropped and counted. ``None``: all.
        rectangles: whether a rectangle's outline is its segmentation (``ring``), or it has none (``box``).
        groups: join shapes of one label and ``group_id``; otherwise every shape is an instance.
        numbered_labels: read ``person-1`` and ``person-2`` as two instances of ``person``, the way of old files
            without ``group_id``.
        strokes: take lines (10 pixels wide) and points (discs of radius 5) as objects, as labelme paints them.
        allow_missing: an image without a JSON file is an image without objects.
        extract_images: where images that lie in the JSON only are written; the image root or a folder in it.
        shard: ``(i, n)``: only the i-th of n slices of the files, counted from 0.
        log: what was dropped, repaired and decided; with ``skip_bad`` set, unreadable files and objects too.

    Raises:
        AnnotationError: a file or a shape cannot be read, unless ``log.skip_bad``.
        DatasetError: no such split, no files, or an option out of its range.
    """
    image_root = images or root
    for folder in (root, image_root):
        if not folder.is_dir() and folder != extract_images:
            raise DatasetError(f"{folder} is not a folder")
    if rectangles not in get_args(RectangleRule):
        raise DatasetError(f"rectangles is {rectangles!r}, not one of {', '.join(get_args(RectangleRule))}")
    if extract_images is not None and not extract_images.resolve().is_relative_to(image_root.resolve()):
        raise DatasetError(f"{extract_images} is not in the image root {image_root}: give it as images, too")
    wanted = None if categories is None else frozenset(categories)
    rules = _Rules(wanted, rectangles, groups, numbered_labels, strokes, extract_images)
    files, missing = find_files(root, split)
    reader = _Reader(root, image_root, rules, log if log is not None else ConversionLog())
    yield from read_each(take_shard(files, shard), reader.read, reader.log)
    if shard is None or shard[0] == 0:
        bare = reader.without_file(files, missing, split, allow_missing)
        yield from read_each(bare, reader.read_bare, reader.log)


def labelme_categories(root: Path) -> list[str]:
    """Return the classes in the order of the ``labels.txt`` that labelme works with; none without one."""
    path = root / "labels.txt"
    names = read_list(path) if path.is_file() else []
    return [name for name in dict.fromkeys(names) if name not in NO_OBJECTS]


class _Drawn(NamedTuple):
    """A shape that counts."""

    number: int
    shape: dict[str, Any]
    kind: str
    ring: Ring  # its points
    box: Box  # around them


@dataclass
class _Parts:
    """The parts of one instance, and what was said about it."""

    label: str
    number: int  # of the first shape
    attributes: dict[str, Any]
    parts: list[Part] = field(default_factory=list)
    only_box: bool = False
    box: Box | None = None  # where it is that of the shape's points


class _Reader:
    """What the files of one run share: where images lie, which shapes count, what was noted."""

    def __init__(self, root: Path, images: Path, rules: _Rules, log: ConversionLog) -> None:
        self.root, self.images, self.rules, self.log = root, images, rules, log
        self.finder = ImageFinder(images, root)

    def read(self, path: str) -> ImageRecord | None:
        data = read_json(path)
        if _is_labelme(data):
            return self._record(data, path)
        self.log.note("JSON of another program passed over", path)
        return None

    def read_bare(self, image: str) -> ImageRecord:
        return record_without_objects(self.images, image, self.log)

    def without_file(
        self, files: Sequence[str], missing: Sequence[str], split: str | None, allow: bool
    ) -> Iterator[str]:
        """Images that no JSON describes; the listed ones are errors unless allowed."""
        for entry in missing:
            image = self.finder.find(f"{self.root}/{list_entries(entry)[0]}.json", "") if allow else None
            if image:
                yield image
            else:
                self.log.bad(
                    AnnotationError(f"{entry}.json", "listed, but there is no such file", "Take it off the list")
                )
        if allow and (split is None or (self.root / split).is_dir()):
            described = {self.finder.find(path, _image_path(path)) for path in files}
            folder = self.images / split if split and (self.images / split).is_dir() else self.images
            yield from (image for image in self.finder.every_image(folder) if image not in described)

    def _record(self, data: dict[str, Any], path: str) -> ImageRecord:
        shapes = data["shapes"]
        if not isinstance(shapes, list):
            raise AnnotationError(path, f"shapes is {type(shapes).__name__}, not a list", "Restore the file")
        said = data.get("imagePath")
        said = said if isinstance(said, str) else ""
        found = self.finder.find(path, said)
        name = found if found is not None else self._name(data, said, path)
        check_name(name, path)
        stem = posixpath.basename(said.replace("\\", "/")).rpartition(".")[0]
        if stem and found is not None and stem != posixpath.basename(found).rpartition(".")[0]:
            self.log.note("imagePath names another image than the one beside the file, which was taken", path)
        drawn = list(self._drawn(shapes, path))
        width, height = self._size(data, found, drawn, path)
        flags = data.get("flags")
        attributes = {"flags": flags} if flags and isinstance(flags, dict) else {}
        return ImageRecord(name, width, height, tuple(self._instances(drawn, path, width, height)), path, attributes)

    def _name(self, data: dict[str, Any], said: str, path: str) -> str:
        """The name of an image that is not there, written out of the JSON where that is wanted."""
        relative = path[len(str(self.root)) + 1 :]
        if not data.get("imageData"):
            self.log.note("image not found: its name is that in imagePath", path)
            return name_without_image(relative, said)
        if self.rules.extract_images is None:
            self.log.note("image lies in the JSON only: extract_images writes it out", path)
            return name_without_image(relative, said)
        image = embedded_image(path, data["imageData"])
        assert image is not None
        target = self.rules.extract_images / name_without_image(relative, said, image.suffix)
        check_name(str(target), path)
        write_image(image, target, path)
        self.log.note("image written out of the JSON", path)
        return Path(os.path.relpath(target, self.images)).as_posix()

    def _drawn(self, shapes: list[Any], path: str) -> Iterator[_Drawn]:
        """The shapes that count."""
        for number, shape in enumerate(shapes):
            try:
                kind = self._kind(shape)
                label = shape["label"]
                reason = self._unwanted(label, kind)
                if reason:
                    self.log.drop(reason, f"{path}, shapes[{number}]")
                else:
                    yield _Drawn(number, shape, kind, *read_points(shape, kind))
            except ShapeError as error:
                self._bad_shape(path, number, error)

    def _kind(self, shape: Any) -> str:
        if not isinstance(shape, dict):
            raise ShapeError(f"is {type(shape).__name__}, not an object")
        if not isinstance(shape.get("label"), str) or not shape["label"]:
            raise ShapeError(f"label is {shape.get('label')!r}, not a name")
        kind = shape.get("shape_type") or "polygon"  # absent before 2018-11, and null in files of other programs
        if not isinstance(kind, str):
            raise ShapeError(f"shape_type is {kind!r}, not a name")
        return kind

    def _unwanted(self, label: str, kind: str) -> str:
        """Why a shape is left out; empty if it is not."""
        if label in NO_OBJECTS:
            return f"label {label}"
        if kind not in _KINDS:
            return f"shape type {kind!r} is not known"
        if kind in STROKES and not self.rules.strokes:
            return f"a {kind} is no object (strokes takes it as one)"
        name = self._split_label(label)[0]
        if self.rules.categories is not None and name not in self.rules.categories:
            return other_class(name)
        return ""

    def _split_label(self, label: str) -> tuple[str, str | None]:
        match = _NUMBERED.fullmatch(label) if self.rules.numbered_labels else None
        return (match[1], label) if match else (label, None)

    def _bad_shape(self, path: str, number: int, problem: ValueError) -> None:
        error = AnnotationError(path, f"shapes[{number}]: {problem}", "Correct or remove the shape")
        if not self.log.skip_bad:
            raise error from problem
        self.log.drop("shape that cannot be read", str(error))

    def _size(self, data: dict[str, Any], image: str | None, drawn: Sequence[_Drawn], path: str) -> tuple[int, int]:
        """The size the file states, unless it is absent or a point does not fit: then the image's header decides.

        Both are sizes as shown, after the EXIF orientation; labelme writes them so since 2019-03.
        """
        width, height = _side(data.get("imageWidth")), _side(data.get("imageHeight"))
        stated = width > 0 and height > 0
        if not stated or any(one.box[2] > width or one.box[3] > height for one in drawn):
            width, height = self._measured(data, image, (width, height) if stated else None, path)
        try:
            check_size(width, height)
        except ValueError as error:
            raise AnnotationError(path, str(error), "Correct imageWidth and imageHeight") from error
        return width, height

    def _measured(
        self, data: dict[str, Any], image: str | None, stated: tuple[int, int] | None, path: str
    ) -> tuple[int, int]:
        if image is not None:
            width, height, turned = picture_size(self.images / image)
            if turned and stated == (height, width):
                self.log.note("annotated without the EXIF rotation: size kept as annotated", path)
                return stated
        elif (embedded := embedded_image(path, data.get("imageData"))) is not None:
            width, height = embedded.width, embedded.height
        elif stated:
            return stated
        else:
            raise AnnotationError(
                path, "no imageWidth and imageHeight, and no image to measure", "Give the image folder"
            )
        if stated and stated != (width, height):
            self.log.note("imageWidth and imageHeight differ from the image: the image's size was taken", path)
        return width, height

    def _instances(self, drawn: Sequence[_Drawn], path: str, width: int, height: int) -> Iterator[Instance]:
        grouped: dict[tuple[str, Any], _Parts] = {}
        for number, shape, kind, ring, box in drawn:
            try:
                key = self._key(shape, number)
                part = cover(kind, ring, box, shape, width, height)
            except ValueError as error:
                self._bad_shape(path, number, error)
                continue
            if part is None:
                self.log.drop("covers nothing inside the image", f"{path}, shapes[{number}]")
                continue
            if part is not ring and kind == "polygon":
                self.log.note("polygon cut at the border of the image", f"{path}, shapes[{number}]")
            own = grouped.get(key)
            if own is None:
                own = grouped[key] = _Parts(key[0], number, _attributes(shape), box=box if part is ring else None)
            else:
                own.box = None
            own.parts.append(part)
            own.only_box = kind == "rectangle" and self.rules.rectangles == "box" and len(own.parts) == 1
        for own in grouped.values():
            try:
                instance = self._instance(own, path, width, height)
            except ValueError as error:
                self._bad_shape(path, own.number, error)
                continue
            if instance is not None:
                yield instance

    def _key(self, shape: dict[str, Any], number: int) -> tuple[str, Any]:
        """What shapes of one instance have in common: class and group, or class and the shape's number."""
        label, numbered = self._split_label(shape["label"])
        group = shape.get("group_id") if self.rules.groups else None
        if group is not None and (isinstance(group, bool) or not isinstance(group, int | str)):
            raise ShapeError(f"group_id is {group!r}, not a number")
        if group is None and numbered is None:
            return label, ("shape", number)
        return label, (numbered, group)

    def _instance(self, own: _Parts, path: str, width: int, height: int) -> Instance | None:
        rings = tuple(part for part in own.parts if isinstance(part, tuple))
        if len(rings) == len(own.parts):
            area = polygon_area(rings[0], width, height) if len(rings) == 1 else segmentation_area(rings, width, height)
            box = own.box or segmentation_box(rings)
            if area > 0 and box[0] < box[2] and box[1] < box[3]:
                return Instance(own.label, box, None if own.only_box else rings, area, False, own.attributes)
            self.log.drop("encloses no area", f"{path}, shapes[{own.number}]")
            return None
        rle = unite([as_rle(part, width, height) for part in own.parts])
        return Instance(
            own.label, segmentation_box(rle), rle, segmentation_area(rle, width, height), False, own.attributes
        )


def _is_labelme(data: Any) -> bool:
    return isinstance(data, dict) and "shapes" in data and ("imagePath" in data or "imageData" in data)


def _image_path(path: str) -> str:
    """``imagePath`` of a file, empty where that cannot be read."""
    try:
        data = read_json(path)
    except AnnotationError:
        return ""
    said = data.get("imagePath") if isinstance(data, dict) else None
    return said if isinstance(said, str) else ""


def _side(value: Any) -> int:
    """Width or height as the file states it; 0 if it does not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        return 0
    return int(value)


def _attributes(shape: dict[str, Any]) -> dict[str, Any]:
    """What people say about an object beside its outline."""
    return {
        key: shape[key] for key in ("flags", "description") if shape.get(key) and isinstance(shape[key], dict | str)
    }
