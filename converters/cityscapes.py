"""Cityscapes: what is visible of every instance, from the painted PNG or from the polygons it was painted from."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from converters.cityscapes_labels import BY_NAME, BY_NUMBER, Classes, chosen_labels, cityscapes_categories
from converters.cityscapes_layout import Frame, find_frames, find_image_root
from converters.errors import AnnotationError, DatasetError
from converters.files import read_file
from converters.geometry import MAX_COORDINATE
from converters.json_files import read_json
from converters.masks import encode_instances, rle_areas, rle_boxes
from converters.pictures import picture_size
from converters.records import ConversionLog, ImageRecord, Instance, read_each
from converters.splits import take_shard

Source: TypeAlias = Literal["auto", "png", "json"]
Kind: TypeAlias = Literal["auto", "gtFine", "gtCoarse"]

_MAX_PIXELS = 2**28  # 65 megapixels are the largest camera frames; four times that

__all__ = ["cityscapes_categories", "find_image_root", "read_cityscapes", "read_frame"]


def read_cityscapes(
    root: Path,
    *,
    split: str | None = None,
    images: Path | None = None,
    categories: Sequence[str] | None = None,
    source: Source = "auto",
    annotations: Kind = "auto",
    classes: Classes = "things",
    verify: bool = False,
    shard: tuple[int, int] | None = None,
    log: ConversionLog | None = None,
) -> Iterator[ImageRecord]:
    """Yield one record per frame, in the order of their paths: the visible pixels of each instance as run lengths.

    Polygons are painted in the order of the list and later ones cover earlier ones, so that an instance hidden
    altogether is none; deleted polygons and those of class number -1 are not painted. A region of several objects
    that nobody could tell apart (``cargroup``) is one crowd per class.

    Args:
        root: the folder that holds ``gtFine`` or ``gtCoarse``, maybe one level down as the zip files have it
            (``gtFine_trainvaltest/gtFine``), or that folder itself.
        split: ``train``, ``val``, ``test``, ``train_extra``, or a city below (``val/lindau``); ``None``: all.
        images: the folder ``leftImg8bit`` that file names are relative to; found beside the annotations if ``None``.
        categories: the classes wanted, of those that ``classes`` gives. ``None``: all of them.
        source: ``png`` (``instanceIds.png``, the benchmark's truth), ``json`` (``polygons.json``, painted as
            cityscapesScripts paints it, and faster), or ``auto``: the PNG where there is one, else the polygons.
        annotations: ``gtFine`` or ``gtCoarse``; ``auto``: fine where it is there.
        classes: ``things`` (eight), ``instances`` (with caravan and trailer) or ``all`` (regions as crowds).
        verify: read both sources of every frame, and count the frames and pixels in which they differ.
        shard: ``(i, n)``: only the i-th of n slices of the frames, counted from 0.
        log: what was dropped, repaired and decided; with ``skip_bad`` set, unreadable files too.

    Raises:
        AnnotationError: a file cannot be read, unless ``log.skip_bad``.
        DatasetError: there is no such split or frame, or an option is out of its range.
    """
    for name, value, known in (
        ("source", source, Source),
        ("annotations", annotations, Kind),
        ("classes", classes, Classes),
    ):
        if value not in get_args(known):
            raise DatasetError(f"{name} is {value!r}, not one of {', '.join(get_args(known))}")
    log = log if log is not None else ConversionLog()
    wanted = frozenset(label.name for label in chosen_labels(classes))
    if categories is not None:
        wanted &= frozenset(categories)
    image_root = find_image_root(root, images)
    frames = {frame.name: frame for frame in find_frames(root, split, annotations, image_root)}

    def read(name: str) -> ImageRecord:
        return read_frame(frames[name], image_root, source, wanted, verify=verify, log=log)

    with _kept_canvas():
        yield from read_each(take_shard(list(frames), shard), read, log)


@contextmanager
def _kept_canvas() -> Iterator[None]:
    """Let Pillow keep the memory of a frame for the next one: to get fresh pages takes a third as long as decoding.

    That is its ``PILLOW_BLOCKS_MAX``, documented with its block allocator.
    """
    core: Any = Image.core  # type: ignore[attr-defined]
    before = core.get_blocks_max()
    core.set_blocks_max(max(before, 2))
    try:
        yield
    finally:
        core.set_blocks_max(before)


def read_frame(
    frame: Frame,
    image_root: Path,
    source: Source,
    wanted: Collection[str],
    *,
    verify: bool = False,
    log: ConversionLog | None = None,
) -> ImageRecord:
    """Return the record of one frame; a plain function of plain values, so that processes and clusters can map it.

    Args:
        frame: where its files are.
        image_root: ``leftImg8bit``, asked for the size of a frame without any annotation file.
        source: which file to read.
        wanted: names of the classes that make objects.
        verify: compare both sources.
        log: takes remarks.

    Raises:
        AnnotationError: the file cannot be read, or the frame has none of that source.
    """
    log = log if log is not None else ConversionLog()
    if frame.png is None and frame.polygons is None:
        log.note("image without annotation files: no objects", frame.image)
        width, height, _ = picture_size(image_root / frame.image)
        return ImageRecord(frame.image, width, height, source=frame.image)
    png, polygons = _sources(frame, source)
    if png is None and polygons is None:
        raise AnnotationError(frame.name, f"no {source} annotation", "Choose the other source, or restore the file")
    where = png or polygons or ""
    ids = read_instance_ids(png) if png else paint_polygons(where, log)
    if verify and frame.png and frame.polygons:
        other = paint_polygons(frame.polygons, log) if png else read_instance_ids(frame.png)
        _compare(ids, other, where, log)
    height, width = ids.shape
    return ImageRecord(frame.image, width, height, tuple(_instances(ids, wanted)), where)


def _sources(frame: Frame, source: Source) -> tuple[str | None, str | None]:
    """The one file to read, as PNG or as polygons."""
    if source == "json" or (source == "auto" and frame.png is None):
        return None, frame.polygons
    return frame.png, None


def _instances(ids: NDArray[Any], wanted: Collection[str]) -> Iterator[Instance]:
    """The instances in the order of their ids: the crowds before the instances."""
    values = _values(frozenset(BY_NAME[name].number for name in wanted))
    rles = encode_instances(ids, values)
    measures = zip(rles.items(), rle_boxes(list(rles.values())), rle_areas(list(rles.values())), strict=True)
    for (value, rle), box, area in measures:
        label = BY_NUMBER[value if value < 1000 else value // 1000]
        yield Instance(label.name, box, rle, float(area), iscrowd=value < 1000)


@lru_cache(maxsize=8)
def _values(numbers: frozenset[int]) -> frozenset[int]:
    """Every value that pixels of these classes can have."""
    return frozenset(v for number in numbers for v in (number, *range(number * 1000, number * 1000 + 1000)))


def _compare(first: NDArray[Any], second: NDArray[Any], where: str, log: ConversionLog) -> None:
    if first.shape != second.shape:
        log.note("verify: PNG and polygons differ in size", where)
    elif (count := int(np.count_nonzero(first != second))) > 0:
        log.note("verify: PNG and polygons differ", f"{where}, {count} pixels")
    else:
        log.note("verify: PNG and polygons agree", where)


def read_instance_ids(path: str) -> NDArray[Any]:
    """Return ``*_instanceIds.png`` as an array ``(H, W)``.

    Raises:
        AnnotationError: not a readable PNG of one channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(read_file(path, 2 * _MAX_PIXELS)), formats=["PNG"]) as image:
                ids = np.asarray(image)
    except (OSError, SyntaxError, ValueError, ArithmeticError, Image.DecompressionBombError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(path, f"not a readable PNG: {error}", "Restore the file") from error
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise AnnotationError(
            path, f"a PNG of mode {ids.dtype} {ids.shape}, not a map of ids", "Give *_instanceIds.png"
        )
    return ids


def paint_polygons(path: str, log: ConversionLog) -> NDArray[Any]:
    """Paint ``*_polygons.json`` to an array ``(H, W)``, the way ``json2instanceImg.py`` of cityscapesScripts does.

    Raises:
        AnnotationError: not a polygon file of Cityscapes.
    """
    data = read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("objects"), list):
        raise AnnotationError(path, "no list of objects", "Give *_polygons.json of Cityscapes")
    width, height = data.get("imgWidth"), data.get("imgHeight")
    if not (type(width) is int and type(height) is int):
        raise AnnotationError(path, f"imgWidth and imgHeight are {width!r} and {height!r}, not whole numbers")
    if not (width > 0 and height > 0 and width * height <= _MAX_PIXELS):
        raise AnnotationError(path, f"imgWidth and imgHeight are {width} and {height}: no size of an image")
    canvas = Image.new("I;16", (width, height))
    draw = ImageDraw.Draw(canvas)
    seen: dict[str, int] = {}
    for number, item in enumerate(data["objects"]):
        try:
            value, points = _polygon(item, seen)
        except ValueError as error:
            raise AnnotationError(path, f"objects[{number}]: {error}", "Correct or remove the object") from error
        if value is None:
            log.drop(f"class {item['label']!r} is none of Cityscapes", f"{path}, objects[{number}]")
        elif value >= 0 and len(points) > 1:
            draw.polygon(points, fill=value)
    return np.asarray(canvas)


def _polygon(item: Any, seen: dict[str, int]) -> tuple[int | None, list[tuple[float, float]]]:
    """The value an object is painted with (-1: not at all, ``None``: class unknown) and its points."""
    if not isinstance(item, Mapping) or not isinstance(item.get("label"), str):
        raise ValueError("no label")
    if item.get("deleted"):
        return -1, []
    name = item["label"]
    group = name not in BY_NAME and name.endswith("group")
    label = BY_NAME.get(name.removesuffix("group") if group else name)
    if label is None:
        return None, []
    points = _points(item.get("polygon"))
    if not label.has_instances or group:
        return label.number, points
    count = seen[label.name] = seen.get(label.name, -1) + 1
    if count > 999:
        raise ValueError(f"more than a thousand times {label.name}: the ids have no place for more")
    return label.number * 1000 + count, points


def _points(polygon: Any) -> list[tuple[float, float]]:
    try:
        points = [(x, y) for x, y in polygon]
    except (TypeError, ValueError) as error:
        raise ValueError(f"polygon is {str(polygon)[:60]!r}, not a list of [x, y]") from error
    for value in (value for point in points for value in point):
        if type(value) not in {int, float} or not -MAX_COORDINATE <= value <= MAX_COORDINATE:
            raise ValueError(f"polygon holds {value!r}, which is no number of pixels")
    return points
