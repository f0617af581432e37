"""COCO: the only format that is written.

What :func:`to_coco` returns loads, shows and evaluates with pycocotools: every key it reads is there, ids start at 1
(an annotation with id 0 never counts as found in COCOeval), and ``area`` is that of the segmentation. Output depends
on the records alone: images in the order of their names, categories alphabetical unless given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import orjson

from converters.errors import AnnotationError, DatasetError
from converters.files import write_whole
from converters.records import ConversionLog, ImageRecord, Instance, Polygons, Rle

Coco = dict[str, Any]
"""A COCO dataset: info, licenses, categories, images, annotations."""

_IMAGE_KEYS = frozenset({"id", "file_name", "width", "height"})
_ANNOTATION_KEYS = frozenset({"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "ignore"})


def to_coco(
    records: Iterable[ImageRecord],
    categories: Sequence[str | Mapping[str, Any]] | None = None,
    log: ConversionLog | None = None,
) -> Coco:
    """Return the records as a COCO dataset.

    Args:
        records: images in any order; they come out sorted by file name.
        categories: the classes in the order of their ids, as names or as COCO categories (an ``id`` in each of them
            is kept, otherwise ids count from 1). ``None``: the classes that occur, alphabetically.
        log: with ``skip_bad`` set it takes images that are described a second time, which are left out.

    Returns:
        ``info, licenses, categories, images, annotations``; the lists may be empty but are there.

    Raises:
        DatasetError: two records have one file name, a name leaves the image root, a box is not one, or a class is
            not among ``categories``.
    """
    images: list[dict[str, Any]] = []
    grouped: list[list[dict[str, Any]]] = []  # annotations of each image
    labels: set[str] = set()
    sources: list[str] = []
    for record in records:
        images.append(_image(record))
        sources.append(record.source)
        grouped.append([_annotation(instance, record) for instance in record.instances])
        labels.update([instance.category for instance in record.instances])
    chosen = _categories(sorted(labels) if categories is None else categories)
    ids = {category["name"]: category["id"] for category in chosen}
    unknown = sorted(labels - ids.keys())
    if unknown:
        _refuse_label(unknown[0], list(ids), images, grouped)
    return _numbered(images, grouped, ids, chosen, _order(images, sources, log))


def _order(images: list[dict[str, Any]], sources: Sequence[str], log: ConversionLog | None) -> Sequence[int]:
    """Indices of the images by name, of several of one name the first; :class:`DatasetError` without ``skip_bad``."""
    names = [image["file_name"] for image in images]
    if all(first < second for first, second in pairwise(names)):
        return range(len(names))
    order: list[int] = []
    for index in sorted(range(len(names)), key=names.__getitem__):
        if not order or names[order[-1]] != names[index]:
            order.append(index)
        elif log is not None and log.skip_bad:
            problem = "a second annotation file describes this image"
            log.bad(AnnotationError(names[index], problem, "Keep one of them, or give each its folder"))
        else:
            who = f"{sources[order[-1]]} and {sources[index]}" if sources else "two annotation files"
            raise DatasetError(f"{who} describe the image {names[index]!r}. Keep one of them, or give each its folder")
    return order


def _numbered(
    images: list[dict[str, Any]],
    grouped: list[list[dict[str, Any]]],
    ids: Mapping[str, int],
    categories: list[Any],
    order: Sequence[int],
) -> Coco:
    """Put the images in order and give everything its id."""
    if not isinstance(order, range):
        images, grouped = [images[i] for i in order], [grouped[i] for i in order]
    annotations: list[dict[str, Any]] = []
    for number, (image, own) in enumerate(zip(images, grouped, strict=True), 1):
        image["id"] = number
        for annotation in own:
            annotation["image_id"] = number
            annotation["category_id"] = ids[annotation["category_id"]]
            annotations.append(annotation)
            annotation["id"] = len(annotations)
    return {"info": {}, "licenses": [], "categories": categories, "images": images, "annotations": annotations}


def _image(record: ImageRecord) -> dict[str, Any]:
    name, width, height = record.file_name, record.width, record.height
    if not name or name[0] == "/" or (".." in name and ".." in name.split("/")) or name[1:3] == ":\\":
        raise DatasetError(f"{record.source}: the image name {name!r} leaves the image root")
    if not (width > 0 and height > 0):
        raise DatasetError(f"{record.source}: the image {name!r} has the size {width}x{height}")
    image = {"id": 0, "file_name": name, "width": width, "height": height}
    if record.attributes:
        image.update(_without(record.attributes, _IMAGE_KEYS))
    return image


def _annotation(instance: Instance, record: ImageRecord) -> dict[str, Any]:
    """The annotation; the class's name stands in for ``category_id`` until all are known."""
    category, (left, top, right, bottom), segmentation, area, crowd, extra = instance
    if not (-1e9 < left < right < 1e9 and -1e9 < top < bottom < 1e9):
        raise DatasetError(f"{record.source}: the box {instance.box} of {category!r} is not one")
    width, height = right - left, bottom - top
    if area is None:
        area = _area(segmentation, record) if segmentation else width * height
    annotation = {
        "id": 0, "image_id": 0, "category_id": category, "bbox": [left, top, width, height], "area": area,
        "iscrowd": 1 if crowd else 0, "segmentation": _segmentation(segmentation) if segmentation else [],
    }  # fmt: skip
    if extra:
        annotation.update(extra if _ANNOTATION_KEYS.isdisjoint(extra) else _without(extra, _ANNOTATION_KEYS))
    return annotation


def _area(segmentation: Polygons | Rle, record: ImageRecord) -> float:
    from converters.geometry import segmentation_area  # noqa: PLC0415 (boxes alone do not wait for NumPy)

    return segmentation_area(segmentation, record.width, record.height)


def _without(attributes: Mapping[str, Any], keys: Set[str]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if key not in keys}


def _segmentation(segmentation: Polygons | Rle) -> Any:
    return dict(segmentation) if isinstance(segmentation, Mapping) else [list(ring) for ring in segmentation]


def _categories(given: Sequence[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """COCO categories with ids and the keys that pycocotools reads."""
    entries = [{"name": entry} if isinstance(entry, str) else dict(entry) for entry in given]
    names = [entry.get("name") for entry in entries]
    for name in names:
        if not isinstance(name, str) or not name or names.count(name) > 1:
            raise DatasetError(f"the categories {names} are not distinct names: {name!r}")
    kept = [entry.get("id") for entry in entries]
    if any(not isinstance(number, int) for number in kept) or len(set(kept)) < len(kept):
        kept = list(range(1, len(entries) + 1))
    return [
        {"id": number, "name": entry["name"], "supercategory": entry.get("supercategory", ""), **entry} | {"id": number}
        for number, entry in zip(kept, entries, strict=True)
    ]


def _refuse_label(
    label: str, known: list[str], images: list[dict[str, Any]], grouped: list[list[dict[str, Any]]]
) -> NoReturn:
    where = next(
        image["file_name"]
        for image, own in zip(images, grouped, strict=True)
        if any(annotation["category_id"] == label for annotation in own)
    )
    near = get_close_matches(label, known, 1)
    raise DatasetError(
        f"the class {label!r} of {where} is not among the categories {', '.join(known[:20])}"
        + (f". Is it {near[0]!r}?" if near else "")
    )


def merge_coco(
    parts: Iterable[Coco],
    categories: Sequence[str | Mapping[str, Any]] | None = None,
    log: ConversionLog | None = None,
) -> Coco:
    """Return the one dataset that the parts make, with the ids one big run would have given.

    The parts are taken apart: their images and annotations move into the result.

    Args:
        parts: results of :func:`to_coco` over disjoint sets of images, in any order.
        categories: as for :func:`to_coco`; ``None``: the classes of all parts, alphabetically.
        log: as for :func:`to_coco`.

    Raises:
        DatasetError: an image is in two parts, or a class is not among ``categories``.
    """
    parts = list(parts)
    chosen = _categories(_labels(parts) if categories is None else categories)
    if len(parts) == 1 and parts[0]["categories"] == chosen:
        return parts[0]
    images: list[dict[str, Any]] = []
    grouped: list[list[dict[str, Any]]] = []
    used: set[str] = set()
    for part in parts:
        names = {category["id"]: category["name"] for category in part["categories"]}
        own: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in part["images"]}
        for annotation in part["annotations"]:
            name = annotation["category_id"] = names[annotation["category_id"]]
            used.add(name)
            own[annotation["image_id"]].append(annotation)
        images += part["images"]
        grouped += own.values()
    ids = {category["name"]: category["id"] for category in chosen}
    if used - ids.keys():
        _refuse_label(min(used - ids.keys()), list(ids), images, grouped)
    return _numbered(images, grouped, ids, chosen, _order(images, (), log))


def _labels(parts: Sequence[Coco]) -> list[Any]:
    """The parts' own list where they agree on one, else all their classes, alphabetically."""
    if all(part["categories"] == parts[0]["categories"] for part in parts[1:]):
        return list(parts[0]["categories"]) if parts else []
    return sorted({category["name"] for part in parts for category in part["categories"]})


def write_coco(coco: Coco, path: Path) -> None:
    """Write a COCO dataset as JSON: the same bytes for the same dataset, and a whole file or none.

    Raises:
        DatasetError: a value is not JSON.
    """
    try:
        write_whole(path, lambda file: dump_coco(coco, file))
    except TypeError as error:  # orjson.JSONEncodeError is one
        raise DatasetError(f"{path}: cannot be written as JSON: {error}") from error


def dump_coco(coco: Coco, file: BinaryIO, chunk: int = 20_000) -> None:
    """Write a COCO dataset into an open file: long lists in chunks, so that its text is never in memory as a whole."""
    for number, (key, value) in enumerate(coco.items()):
        file.write((b",\n" if number else b"{") + orjson.dumps(key) + b":")
        if not isinstance(value, list):
            file.write(orjson.dumps(value))
            continue
        file.write(b"[")
        for start in range(0, len(value), chunk):
            file.write(b",\n" if start else b"")
            file.write(memoryview(orjson.dumps(value[start : start + chunk]))[1:-1])
        file.write(b"]")
    file.write(b"}\n")
