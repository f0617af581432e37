"""Folders of pictures, a folder for each class: what torchvision's ``ImageFolder`` reads.

A picture that shows one thing becomes a record with one instance whose box is the whole picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from converters.errors import AnnotationError, DatasetError
from converters.pictures import IMAGE_SUFFIXES, picture_size
from converters.records import ConversionLog, ImageRecord, Instance, read_each
from converters.splits import take_shard

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def read_imagefolder(
    root: Path,
    *,
    split: str | None = None,
    shard: tuple[int, int] | None = None,
    log: ConversionLog | None = None,
) -> Iterator[ImageRecord]:
    """Yield one record per picture, in the order of their names; its class is the folder right below the split's.

    Deeper folders belong to the class they lie in. Linked folders are entered once, so that loops end; names that
    begin with a dot are passed over, and files that are no pictures by their suffix are counted.

    Args:
        root: the folder with a folder for each class, or with ``train`` and ``val`` that hold these.
        split: a folder below ``root``; ``None`` takes ``root`` itself.
        shard: ``(i, n)``: only the i-th of n slices of the pictures, counted from 0.
        log: what was passed over; with ``skip_bad`` set, pictures that cannot be read too.

    Raises:
        AnnotationError: a picture cannot be read, unless ``log.skip_bad``.
        DatasetError: no such folder, no class in it, or a split's folder taken for a class.
    """
    log = log if log is not None else ConversionLog()
    base = _base(root, split)
    classes = sorted(entry.name for entry in os.scandir(base) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise DatasetError(f"{base} has no folders. Each class needs a folder with its pictures")
    if set(map(str.lower, classes)) <= _SPLITS and any(entry.is_dir() for entry in list((base / classes[0]).iterdir())):
        raise DatasetError(f"{base} holds splits, not classes. Name them: splits: {{train: {classes[0]}, val: ...}}")
    found = {name: label for label in classes for name in _pictures(base, label, log)}
    prefix = "" if base == root else base.relative_to(root).as_posix() + "/"
    names = take_shard(sorted(found), shard)
    yield from read_each(names, lambda name: whole_picture(root, prefix + name, found[name]), log)


def whole_picture(root: Path, name: str, label: str, source: str = "") -> ImageRecord:
    """The record of a picture that shows one thing.

    Args:
        root: what ``name`` is relative to.
        name: POSIX path of the picture.
        label: its class.
        source: where it is listed, for messages; the picture itself without one.

    Raises:
        AnnotationError: the picture cannot be read, or its name is not UTF-8.
    """
    path = root / name
    try:
        f"{name}/{label}".encode()
    except UnicodeEncodeError:
        raise AnnotationError(ascii(str(path)), "the name is not UTF-8, which COCO needs", "Rename it") from None
    width, height, _ = picture_size(path)
    box = (0.0, 0.0, float(width), float(height))
    return ImageRecord(name, width, height, (Instance(label, box),), source or str(path))


def _base(root: Path, split: str | None) -> Path:
    """The folder that holds the classes."""
    base = root if split is None else Path(os.path.normpath(root / split))
    if not base.is_relative_to(root):
        raise DatasetError(f"split {split!r} leads out of {root}. Name a folder in it")
    if not base.is_dir():
        there = sorted(entry.name for entry in os.scandir(root) if entry.is_dir()) if root.is_dir() else []
        raise DatasetError(f"{base} is no folder" + (f". {root} has {', '.join(there[:20])}" if there else ""))
    return base


def _pictures(base: Path, label: str, log: ConversionLog) -> list[str]:
    """The pictures of a class as POSIX names below ``base``."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [label]
    while waiting:
        folder = waiting.pop()
        info = (base / folder).stat()
        if (info.st_dev, info.st_ino) in seen:
            continue
        seen.add((info.st_dev, info.st_ino))
        for entry in sorted(os.scandir(base / folder), key=lambda entry: entry.name):
            name = f"{folder}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                waiting.append(name)
            elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
                found.append(name)
            else:
                log.note("a file that is no picture by its suffix was passed over", name)
    if not found:
        log.note("a class folder without pictures was left out", label)
    return found
