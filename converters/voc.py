"""Pascal VOC: one XML per image, boxes by their corners, and lists of image names as splits."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from converters.boxes import fit_box
from converters.errors import AnnotationError, DatasetError
from converters.files import read_file
from converters.geometry import clip_ring, ring_box
from converters.pictures import IMAGE_SUFFIXES, picture_size
from converters.records import Box, ConversionLog, ImageRecord, Instance, Polygons
from converters.splits import take_shard
from converters.voc_layout import ImageFinder, VocLayout, find_layout, find_xml
from converters.voc_masks import add_masks
from converters.voc_xml import VocFile, VocObject, parse_voc

CornerRule: TypeAlias = Literal["auto", "devkit", "edges"]
DifficultRule: TypeAlias = Literal["keep", "crowd", "drop"]
Ring: TypeAlias = tuple[float, ...]


@dataclass(frozen=True)
class _Rules:
    corners: CornerRule
    difficult: DifficultRule
    categories: Collection[str] | None
    min_visibility: float
    parts: bool
    masks: bool
    allow_missing: bool


def read_voc(
    root: Path,
    *,
    split: str | None = None,
    images: Path | None = None,
    corners: CornerRule = "auto",
    difficult: DifficultRule = "keep",
    categories: Sequence[str] | None = None,
    min_visibility: float = 0.0,
    parts: bool = False,
    masks: bool = False,
    allow_missing: bool = False,
    shard: tuple[int, int] | None = None,
    log: ConversionLog | None = None,
) -> Iterator[ImageRecord]:
    """Yield one record per XML file, in the order of their paths.

    Devkit corners are 1-based pixel indices, both ends inclusive: ``xmin=1, xmax=W`` is a box of width ``W`` at
    ``x=0`` (VOC2012 devkit, section 2.5). LabelImg, CVAT and Roboflow write the edges of the box instead. Boxes are
    clipped to the image; what has no area left is dropped and counted.

    Args:
        root: a devkit (``Annotations``, ``JPEGImages``, ``ImageSets/Main``), a folder with the XML files beside their
            images, in subfolders or not, or a folder of XML files.
        split: name of an image set (``train`` is ``ImageSets/Main/train.txt``), a list file or a subfolder, both
            relative to ``root``; ``None`` takes every XML file.
        images: the image root that file names are relative to; found beside the annotations if ``None``.
        corners: ``devkit``, ``edges``, or ``auto``: devkit where ``<source><database>`` begins with "The VOC20".
        difficult: keep objects marked difficult like others, mark them as crowd (neither found nor missed in COCO's
            evaluation), or drop them. Kept ones carry ``"difficult": 1``.
        categories: the classes wanted; objects of others are dropped and counted by class. ``None``: all.
        min_visibility: the share of a box, 0..1, that must lie inside the image.
        parts: take person-layout ``<part>`` boxes as instances of their own.
        masks: take the outlines in ``SegmentationObject`` as run lengths, their boxes and areas with them.
        allow_missing: a listed image without an XML file, or one beside the XML files, is an image without objects.
        shard: ``(i, n)``: only the i-th of n slices of the files, counted from 0.
        log: what was dropped, repaired and decided; with ``skip_bad`` set, unreadable files and objects too.

    Raises:
        AnnotationError: a file or an object cannot be read, unless ``log.skip_bad``.
        DatasetError: no such split, no files, or an option out of its range.
    """
    for name, value, known in (("corners", corners, CornerRule), ("difficult", difficult, DifficultRule)):
        if value not in get_args(known):
            raise DatasetError(f"{name} is {value!r}, not one of {', '.join(get_args(known))}")
    chosen = None if categories is None else frozenset(categories)
    rules = _Rules(corners, difficult, chosen, min_visibility, parts, masks, allow_missing)
    layout = find_layout(root, images)
    files, missing = find_xml(layout, split)
    reader = _Reader(layout, rules, log or ConversionLog())
    yield from reader.read(take_shard(files, shard))
    if shard is None or shard[0] == 0:
        yield from reader.negatives(files, missing, everything=split is None)


class _Reader:
    """What the files of one run share: where images lie, how corners count, what was noted."""

    def __init__(self, layout: VocLayout, rules: _Rules, log: ConversionLog) -> None:
        self.layout, self.rules, self.log = layout, rules, log
        self.find_image = ImageFinder(layout.images, layout.annotations)
        self._folders: dict[str, str] = {}  # folder of XML files to its name within the annotations

    def read(self, files: Sequence[str]) -> Iterator[ImageRecord]:
        for path in files:
            try:
                record = self._record(path, parse_voc(read_file(path), path))
            except AnnotationError as error:
                self.log.bad(error)
                continue
            yield record

    def negatives(self, files: Sequence[str], missing: Sequence[str], everything: bool) -> Iterator[ImageRecord]:
        """Images that no XML file describes; the listed ones among them are errors unless allowed."""
        for entry in missing:
            image = self.find_image(f"{self.layout.annotations}/{entry}.xml", "", "")
            if self.rules.allow_missing and image:
                yield from self._negative(image)
                continue
            remedy = "Take it off the list" + (", or allow missing annotations" if image else "")
            self.log.bad(AnnotationError(f"{entry}.xml", f"listed, but not in {self.layout.annotations}", remedy))
        if everything and self.rules.allow_missing:
            described = {self.find_image(path, "", "") for path in files}
            for image in self.find_image.every_image():
                if image not in described:
                    yield from self._negative(image)

    def _negative(self, image: str) -> Iterator[ImageRecord]:
        path = self.layout.images / image
        try:
            width, height, _ = picture_size(path)
        except AnnotationError as error:
            self.log.bad(error)
            return
        self.log.note("image without annotation file: no objects", image)
        yield ImageRecord(image, width, height, source=str(path))

    def _record(self, path: str, voc: VocFile) -> ImageRecord:
        for remark in voc.remarks:
            self.log.note(remark, path)
        image = self.find_image(path, voc.filename, voc.path)
        if image is None:
            name, image = None, self._name_without_image(path, voc.filename)
            self.log.note("image not found: its name is that of the XML file", path)
        else:
            name = image
        _check_utf8(image, path)
        width, height = self._size(voc, name, path)
        devkit = self._is_devkit(voc, path)
        instances = tuple(self._instances(voc.objects, path, width, height, devkit))
        record = ImageRecord(image, width, height, instances, path)
        complete = len(instances) == len(voc.objects)
        return add_masks(record, path, complete, self.log) if self.rules.masks else record

    def _name_without_image(self, path: str, filename: str) -> str:
        """The XML file's name within the annotations, which is unique, with the suffix that ``<filename>`` has."""
        parent, _, name = path.rpartition("/")
        folder = self._folders.get(parent)
        if folder is None:
            relative = Path(os.path.relpath(parent, self.layout.annotations)).as_posix()
            folder = self._folders[parent] = "" if relative == "." else f"{relative}/"
        suffix = filename[filename.rfind(".") :] if "." in filename else ""
        return folder + name[:-4] + (suffix if suffix.lower() in IMAGE_SUFFIXES else ".jpg")

    def _is_devkit(self, voc: VocFile, path: str) -> bool:
        rule = self.rules.corners
        devkit = voc.database.startswith("The VOC20") if rule == "auto" else rule == "devkit"
        self.log.note(
            "corners read as devkit: 1-based, both ends inclusive" if devkit else "corners read as edges", path
        )
        if devkit and any(min(obj.corners) < 1 for obj in voc.objects if obj.corners):
            self.log.note("a corner below 1 in a devkit file: if the set counts from 0, say corners=edges", path)
        return devkit

    def _size(self, voc: VocFile, image: str | None, path: str) -> tuple[int, int]:
        """The size the XML gives, unless it is absent or a box does not fit: then the image's header decides."""
        width, height = voc.width, voc.height
        stated = width > 0 and height > 0
        if stated and not any(
            obj.corners and (obj.corners[2] > width or obj.corners[3] > height) for obj in voc.objects
        ):
            return width, height
        if image is None:
            if stated:
                return width, height
            raise AnnotationError(path, "no <size>, and no image to measure", "Give the folder of the images")
        shown = picture_size(self.layout.images / image)
        if stated and (width, height) != (shown.width, shown.height):
            if shown.turned and (width, height) == (shown.height, shown.width):
                self.log.note("annotated without the EXIF rotation: sizes kept as annotated", path)
                return width, height
            self.log.note("<size> differs from the image: the image's size was taken", path)
        return shown.width, shown.height

    def _instances(
        self, objects: Sequence[VocObject], path: str, width: int, height: int, devkit: bool
    ) -> list[Instance]:
        wanted, difficult = self.rules.categories, self.rules.difficult
        found: list[Instance] = []
        for number, obj in enumerate(objects, 1):
            name, corners, attributes, ring, *unusual = obj
            if any(unusual) and not self._judge(obj, number, path):
                continue
            if self.rules.parts and obj.parts:
                found += self._instances(obj.parts, path, width, height, devkit)
            if wanted is not None and name not in wanted:
                self.log.drop(f"class {name!r} is not among the categories", f"{path}, object {number}")
                continue
            crowd = False
            if difficult != "keep" and "difficult" in attributes:
                if difficult == "drop":
                    self.log.drop("difficult", f"{path}, object {number}")
                    continue
                crowd = True
            if devkit or corners is None:
                corners, ring = _edges(corners, ring, devkit)
            if corners is None:
                self.log.drop("a point, not a box", f"{path}, object {number}")
                continue
            left, top, right, bottom = corners
            box: Box | None = corners
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                where = f"{path}, object {number}"
                box = fit_box(corners, width, height, self.log, where, self.rules.min_visibility)
            if box is not None:
                segmentation = None if ring is None else _inside(ring, width, height)
                found.append(Instance(name, box, segmentation, None, crowd, attributes))
        return found

    def _judge(self, obj: VocObject, number: int, path: str) -> bool:
        """Whether an object can be used; what was repaired in it is noted."""
        if obj.remark:
            self.log.note(obj.remark, f"{path}:{obj.line}")
        if obj.problem:
            named = f" ({obj.name})" if obj.name else ""
            error = AnnotationError(
                path, f"object {number}{named}: {obj.problem}", "Correct or remove the object", obj.line or None
            )
            if not self.log.skip_bad:
                raise error
            self.log.drop("object that cannot be read", str(error))
        return not obj.problem


def _edges(corners: Box | None, ring: Ring | None, devkit: bool) -> tuple[Box | None, Ring | None]:
    """Corners and ring as continuous edges; corners from the ring where the object has no box."""
    if devkit and ring is not None:
        ring = tuple(value - 1 for value in ring)
    if corners is None:
        return (None if ring is None else ring_box(ring)), ring
    left, top, right, bottom = corners
    return ((left - 1, top - 1, right, bottom) if devkit else corners), ring


def _inside(ring: Ring, width: int, height: int) -> Polygons | None:
    """The ring, or the part of it inside the image."""
    left, top, right, bottom = ring_box(ring)
    if left < 0 or top < 0 or right > width or bottom > height:
        ring = clip_ring(ring, width, height)
    return (ring,) if ring else None


def _check_utf8(name: str, path: str) -> None:
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise AnnotationError(
                path.encode("utf-8", "replace").decode(), "the image's name is not UTF-8", "Rename the file"
            ) from error
