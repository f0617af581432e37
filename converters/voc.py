"""Pascal VOC: one XML per image, boxes by their corners, and lists of image names as splits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from converters.boxes import fit_box
from converters.errors import AnnotationError, DatasetError
from converters.files import check_name, read_file
from converters.pictures import IMAGE_SUFFIXES, picture_size, record_without_objects
from converters.records import Box, ConversionLog, ImageRecord, Instance, other_class, read_each
from converters.splits import take_shard
from converters.voc_layout import ImageFinder, VocLayout, find_layout, find_xml
from converters.voc_xml import RegularFile, VocFile, VocObject, parse_fully, parse_regular

CornerRule: TypeAlias = Literal["auto", "devkit", "edges"]
DifficultRule: TypeAlias = Literal["keep", "crowd", "drop"]
_DEVKIT = "corners read as devkit: 1-based, both ends inclusive"
_EDGES = "corners read as edges"
_NONE, _FALSE = repeat(None), repeat(False)


@dataclass(frozen=True)
class _Rules:
    corners: CornerRule
    difficult: DifficultRule
    categories: frozenset[str] | None
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
    yield from read_each(take_shard(files, shard), reader.read, reader.log)
    if shard is None or shard[0] == 0:
        bare = reader.without_file(files, missing, everything=split is None)
        yield from read_each(bare, reader.read_bare, reader.log)


def voc_images(root: Path, images: Path | None) -> Path:
    """What file names of a VOC dataset are relative to."""
    return find_layout(root, images).images


class _Reader:
    """What the files of one run share: where images lie, how corners count, what was noted."""

    def __init__(self, layout: VocLayout, rules: _Rules, log: ConversionLog) -> None:
        self.layout, self.rules, self.log = layout, rules, log
        self.find_image = ImageFinder(layout.images, layout.annotations)
        self._folders: dict[str, str] = {}  # folder of XML files to its name within the annotations

    def read_bare(self, image: str) -> ImageRecord:
        return record_without_objects(self.layout.images, image, self.log)

    def without_file(self, files: Sequence[str], missing: Sequence[str], everything: bool) -> Iterator[str]:
        """Images that no XML file describes; the listed ones among them are errors unless allowed."""
        for entry in missing:
            image = self.find_image(f"{self.layout.annotations}/{entry}.xml", "", "")
            if self.rules.allow_missing and image:
                yield image
                continue
            remedy = "Take it off the list" + (", or allow missing annotations" if image else "")
            self.log.bad(AnnotationError(f"{entry}.xml", f"listed, but not in {self.layout.annotations}", remedy))
        if everything and self.rules.allow_missing:
            described = {self.find_image(path, "", "") for path in files}
            yield from (image for image in self.find_image.every_image() if image not in described)

    def read(self, path: str) -> ImageRecord:
        data = read_file(path)
        regular = parse_regular(data)
        if regular is not None and self._is_plain(regular):
            image, _ = self._image(regular, path)
            self.log.note(_EDGES, path)
            instances = tuple(map(Instance, regular.labels, regular.corners, _NONE, _NONE, _FALSE, regular.attributes))
            return ImageRecord(image, regular.width, regular.height, instances, path)
        return self._any_record(path, parse_fully(data, path) if regular is None else regular.to_file())

    def _is_plain(self, regular: RegularFile) -> bool:
        """Whether the objects can be taken as they stand: nothing is wished for, and every box lies in the image."""
        rules, width, height = self.rules, regular.width, regular.height
        if self.devkit(regular.database) or rules.difficult != "keep" or rules.masks:
            return False
        if rules.categories is not None and not rules.categories.issuperset(regular.labels):
            return False
        for left, top, right, bottom in regular.corners:
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                return False
        return width > 0 and height > 0

    def _any_record(self, path: str, voc: VocFile) -> ImageRecord:
        for remark in voc.remarks:
            self.log.note(remark, path)
        image, found = self._image(voc, path)
        width, height = self._size(voc, image if found else None, path)
        devkit = self.devkit(voc.database)
        self.log.note(_DEVKIT if devkit else _EDGES, path)
        if devkit and any(min(obj.corners) < 1 for obj in voc.objects if obj.corners):
            self.log.note("a corner below 1 in a devkit file: if the set counts from 0, say corners=edges", path)
        instances = tuple(self._instances(voc.objects, path, width, height, devkit))
        record = ImageRecord(image, width, height, instances, path)
        if not self.rules.masks:
            return record
        from converters.voc_outlines import add_masks  # noqa: PLC0415 (boxes alone do not wait for NumPy)

        return add_masks(record, path, len(instances) == len(voc.objects), self.log)

    def devkit(self, database: str) -> bool:
        """Whether corners are 1-based and inclusive."""
        rule = self.rules.corners
        return database.startswith("The VOC20") if rule == "auto" else rule == "devkit"

    def _image(self, voc: VocFile | RegularFile, path: str) -> tuple[str, bool]:
        """Name of the image within the image root, and whether it is there."""
        image = self.find_image(path, voc.filename, voc.path)
        found = image is not None
        if image is None:
            image = self._name_without_image(path, voc.filename)
            self.log.note("image not found: its name is that of the XML file", path)
        check_name(image, path)
        return image, found

    def _name_without_image(self, path: str, filename: str) -> str:
        """The XML file's name within the annotations, which is unique, with the suffix that ``<filename>`` has."""
        parent, _, name = path.rpartition("/")
        folder = self._folders.get(parent)
        if folder is None:
            relative = Path(os.path.relpath(parent, self.layout.annotations)).as_posix()
            folder = self._folders[parent] = "" if relative == "." else f"{relative}/"
        suffix = filename[filename.rfind(".") :] if "." in filename else ""
        return folder + name[:-4] + (suffix if suffix.lower() in IMAGE_SUFFIXES else ".jpg")

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
                self.log.drop(other_class(name), f"{path}, object {number}")
                continue
            crowd = False
            if difficult != "keep" and "difficult" in attributes:
                if difficult == "drop":
                    self.log.drop("difficult", f"{path}, object {number}")
                    continue
                crowd = True
            segmentation = area = None
            if ring is not None:
                from converters.voc_outlines import ring_edges  # noqa: PLC0415 (boxes alone do not wait for NumPy)

                box, segmentation, area = ring_edges(ring, devkit, width, height)
                if area == 0 and not self._judge_empty(corners, f"{path}, object {number}"):
                    continue
                corners = box if corners is None else _edges(corners, devkit)
            elif corners is not None:
                corners = _edges(corners, devkit)
            if corners is None:
                self.log.drop("a point, not a box", f"{path}, object {number}")
                continue
            fitting = fit_box(corners, width, height, self.log, f"{path}, object {number}", self.rules.min_visibility)
            if fitting is not None:
                found.append(Instance(name, fitting, segmentation, area or None, crowd, attributes))
        return found

    def _judge_empty(self, box: Box | None, where: str) -> bool:
        """Whether an object whose outline encloses nothing can be used, by the box beside it."""
        if box is None:
            self.log.drop("an outline that encloses nothing", where)
        else:
            self.log.note("an outline that encloses nothing: its box was taken", where)
        return box is not None

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


def _edges(corners: Box, devkit: bool) -> Box:
    left, top, right, bottom = corners
    return (left - 1, top - 1, right, bottom) if devkit else corners
