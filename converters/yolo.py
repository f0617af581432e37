"""YOLO: one text file per image, a line per object, coordinates as shares of the image's sides."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from converters.boxes import fit_box
from converters.decoding import decode_text
from converters.errors import AnnotationError, DatasetError
from converters.files import read_file
from converters.geometry import clip_ring, ring_area, ring_box
from converters.pictures import IMAGE_SUFFIXES, picture_size
from converters.records import Box, ConversionLog, ImageRecord, Instance, read_each
from converters.splits import read_list, take_shard
from converters.yolo_config import YoloConfig, read_config

_ROUNDING = 0.01  # pixels: six decimals of a share are this much of an image of 10,000
_NO_LABELS = frozenset({"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "README.txt", "notes.txt"})


def read_yolo(
    root: Path,
    *,
    split: str | None = None,
    images: Path | None = None,
    names: Path | None = None,
    shard: tuple[int, int] | None = None,
    log: ConversionLog | None = None,
) -> Iterator[ImageRecord]:
    """Yield one record per image, in the order of their paths; an image without a label file has no objects.

    A row is ``class x y width height`` (centre and size), or ``class x1 y1 x2 y2 x3 y3 ...``, a polygon: four corners
    of an oriented box and segments alike. Labels lie where Ultralytics looks for them: in ``labels`` where the image's
    path says ``images``, else beside the image.

    Args:
        root: the dataset: ``data.yaml`` or ``classes.txt``, and the images and labels below.
        split: a key of ``data.yaml`` (``train``), a folder, or a list file of images; ``None`` takes every image.
        images: the image root, if the images are not under ``root``.
        names: file with the class names, if it is neither ``data.yaml`` nor ``classes.txt`` in ``root``.
        shard: ``(i, n)``: only the i-th of n slices of the images, counted from 0.
        log: what was dropped; with ``skip_bad`` set, unreadable files and rows too.

    Raises:
        AnnotationError: an image or a row cannot be read, or a label file has no image, unless ``log.skip_bad``.
        DatasetError: no class names, no such split, or no images.
    """
    log = log if log is not None else ConversionLog()
    config = read_config(root, names)
    layout = _Layout(root, images or root, config, log)
    found = layout.find(split)
    if not found:
        raise DatasetError(f"no images in {images or root}")
    yield from read_each(take_shard(found, shard), layout.record, log)
    if split is None and (shard is None or shard[0] == 0):
        layout.tell_orphans(found)


def yolo_categories(root: Path, names: Path | None = None) -> list[str]:
    """The class names of a dataset in the order of their numbers."""
    return list(read_config(root, names).names)


@dataclass(frozen=True)
class _Layout:
    root: Path
    images: Path
    config: YoloConfig
    log: ConversionLog

    def find(self, split: str | None) -> list[str]:
        """Images of a split, by their sorted paths relative to the image root."""
        if split is None:
            return _images_under(self.images, self.images)
        named = self.config.splits.get(split)
        places = [self._place((text,)) for text in named] if named else [self._place(_usual_names(split))]
        if None in places:
            raise DatasetError(
                f"{self.root} has no split {split!r}: no such key in data.yaml, folder or list file"
                + (f". It has {', '.join(self.config.splits)}" if self.config.splits else "")
            )
        found: set[str] = set()
        for place in filter(None, places):
            found.update(_images_under(place, self.images) if place.is_dir() else self._listed(place))
        return sorted(found)

    def _place(self, names: Sequence[str]) -> Path | None:
        """The first of these folders or lists that is there, under the images or the root."""
        within = (_within(base, name) for base in dict.fromkeys((self.images, self.root)) for name in names)
        return next((path for path in within if path is not None), None)

    def _listed(self, path: Path) -> list[str]:
        found = []
        for line in read_list(path):
            image = _within(self.images, line)
            if image is None or not image.is_file():
                self.log.bad(AnnotationError(path, f"lists {line!r}, which is not in {self.images}"))
            else:
                found.append(image.relative_to(self.images).as_posix())
        return found

    def record(self, image: str) -> ImageRecord:
        try:
            image.encode()
        except UnicodeEncodeError as error:
            raise AnnotationError(repr(image), "the image's name is not UTF-8", "Rename the file") from error
        width, height, _ = picture_size(self.images / image)
        path = self._label_file(image)
        instances: list[Instance] = []
        if path is not None:
            data = read_file(path)
            lines = decode_text(data, path)[0].splitlines() if data.strip() else []
            for number, line in enumerate(lines, 1):
                if line.strip() and (instance := self._instance(line, path, number, width, height)):
                    instances.append(instance)
        return ImageRecord(image, width, height, tuple(instances), path or str(self.images / image))

    def _label_file(self, image: str) -> str | None:
        return next((path for path in self._label_paths(image) if os.path.isfile(path)), None)  # noqa: PTH113 (hot)

    def _label_paths(self, image: str) -> list[str]:
        stem = image.rpartition(".")[0]
        parts = stem.split("/")
        swapped = list(parts)
        for index in range(len(parts) - 2, -1, -1):
            if parts[index] == "images":
                swapped[index] = "labels"
                break
        names = dict.fromkeys(("/".join(swapped), stem, f"labels/{stem}"))
        return [f"{self.root}/{name}.txt" for name in names]

    def _instance(self, line: str, path: str, number: int, width: int, height: int) -> Instance | None:
        try:
            category, shares = self._row(line)
        except ValueError as error:
            bad = AnnotationError(path, f"{line[:60]!r}: {error}", "Correct or remove the line", number)
            if not self.log.skip_bad:
                raise bad from None
            self.log.drop("line that cannot be read", str(bad))
            return None
        where = f"{path}:{number}"
        if len(shares) == 4:
            x, y, w, h = shares
            edges = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            box = fit_box(_snapped(edges, width, height), width, height, self.log, where)
            return None if box is None else Instance(category, box)
        ring = clip_ring(
            [share * side for share, side in zip(shares, (width, height) * len(shares), strict=False)], width, height
        )
        if not ring or ring_area(ring) < 1:
            self.log.drop("polygon without area", where)
            return None
        return Instance(category, ring_box(ring), (ring,))

    def _row(self, line: str) -> tuple[str, tuple[float, ...]]:
        """Class name and coordinates of a row; ValueError if it is none."""
        first, *rest = line.split()
        if not (first.isascii() and first.isdigit()):
            raise ValueError(f"the class {first!r} is not a number")
        if int(first) >= len(self.config.names):
            raise ValueError(f"there is no class {first}: the names are {len(self.config.names)}, from 0")
        shares = tuple(map(float, rest))
        if self.config.keypoints:
            shares = shares[:4]
        if len(shares) == 5:
            shares = shares[:4]  # a prediction: the fifth is its confidence
        if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
            raise ValueError(f"{len(shares)} numbers are neither a box (4) nor a polygon (6, 8, ...)")
        if not all(-0.01 <= share <= 1.01 for share in shares):
            raise ValueError("a coordinate is not a share of the image, 0 to 1")
        return self.config.names[int(first)], shares

    def tell_orphans(self, found: Sequence[str]) -> None:
        """Label files in the folders that were read for which there is no image."""
        paths = {self._label_paths(image)[0] for image in found}
        for folder in sorted({path.rpartition("/")[0] for path in paths}):
            if not os.path.isdir(folder):  # noqa: PTH112 (text, as everything here)
                continue
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if entry.name.endswith(".txt") and entry.name not in _NO_LABELS and entry.path not in paths:
                    remedy = "Restore the image or remove the labels"
                    self.log.bad(AnnotationError(entry.path, "labels without an image of that name", remedy))


def _usual_names(split: str) -> list[str]:
    """Where a split lies by custom; nowhere if it is no name within the dataset."""
    path = PurePosixPath(split)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        return []
    other = {"val": "valid", "valid": "val"}.get(split, split)
    keys = dict.fromkeys((split, other))
    return [name for key in keys for name in (f"images/{key}", f"{key}/images", key, f"{key}.txt")]


def _snapped(box: tuple[float, ...], width: int, height: int) -> Box:
    """The box with edges that rounding has pushed over the border put back on it."""
    sides = (width, height, width, height)
    left, top, right, bottom = (
        0.0 if -_ROUNDING < edge < 0 else float(side) if side < edge < side + _ROUNDING else edge
        for edge, side in zip(box, sides, strict=True)
    )
    return left, top, right, bottom


def _images_under(folder: Path, root: Path) -> list[str]:
    """Images by their paths relative to ``root``, sorted; linked folders are not entered."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        relative = PurePosixPath(Path(parent).relative_to(root).as_posix())
        found += [str(relative / name) for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    return sorted(found)


def _within(root: Path, text: str) -> Path | None:
    """The existing path under ``root`` that a path from another machine means: its longest ending that is there."""
    parts = [part for part in PurePosixPath(text.replace("\\", "/")).parts if part not in {"..", ".", "/"}]
    candidates = (root.joinpath(*parts[start:]) for start in range(len(parts)))
    return next((path for path in candidates if path.exists()), None)
