"""KITTI's object labels: one text file per image, a line per object, of which the 2D box is taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from converters.boxes import fit_box
from converters.decoding import decode_text
from converters.errors import AnnotationError, DatasetError
from converters.files import read_file
from converters.pictures import IMAGE_SUFFIXES, picture_size
from converters.records import ConversionLog, ImageRecord, Instance, read_each
from converters.splits import list_entries, read_list, take_shard


def read_kitti(
    root: Path,
    *,
    split: str | None = None,
    images: Path | None = None,
    dont_care: bool = False,
    shard: tuple[int, int] | None = None,
    log: ConversionLog | None = None,
) -> Iterator[ImageRecord]:
    """Yield one record per label file, in the order of their names.

    A line is ``type truncated occluded alpha left top right bottom`` and the 3D box, which is left out. Corners are
    pixels from 0, and the devkit measures them as ``right - left`` (``evaluate_object.cpp``).

    Args:
        root: the folder with ``label_2`` and ``image_2``, or the one above it with ``training``.
        split: a list file of names, relative to ``root`` or in its ``ImageSets``; ``None`` takes every label file.
        images: the folder of the images, if it is not ``image_2``.
        dont_care: keep ``DontCare`` regions as crowds of a class of that name; they are dropped otherwise.
        shard: ``(i, n)``: only the i-th of n slices of the files, counted from 0.
        log: what was dropped; with ``skip_bad`` set, unreadable files and lines too.

    Raises:
        AnnotationError: a file or a line cannot be read, unless ``log.skip_bad``.
        DatasetError: no such folder or split.
    """
    log = log if log is not None else ConversionLog()
    base = next((folder for folder in (root, root / "training") if (folder / "label_2").is_dir()), None)
    if base is None:
        raise DatasetError(f"no folder label_2 in {root} or {root / 'training'}")
    labels, pictures = base / "label_2", kitti_images(root, images)
    names = sorted(path.stem for path in labels.glob("*.txt")) if split is None else _listed(root, labels, split)
    if not names:
        raise DatasetError(f"no label files in {labels}")

    def read(name: str) -> ImageRecord:
        return _record(labels / f"{name}.txt", pictures, dont_care, log)

    yield from read_each(take_shard(names, shard), read, log)


def kitti_images(root: Path, images: Path | None = None) -> Path:
    """The image root of a KITTI dataset."""
    base = root if (root / "label_2").is_dir() else root / "training"
    return images or base / "image_2"


def _listed(root: Path, labels: Path, split: str) -> list[str]:
    candidates = (root / split, root / "ImageSets" / f"{split}.txt", root / f"{split}.txt")
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DatasetError(f"{root} has no list for split {split!r}: neither {split} nor ImageSets/{split}.txt")
    known = {file.stem for file in labels.glob("*.txt")}
    return sorted(
        {next((name for name in list_entries(line) if name in known), Path(line).stem) for line in read_list(path)}
    )


def _record(path: Path, pictures: Path, dont_care: bool, log: ConversionLog) -> ImageRecord:
    data = read_file(str(path))
    lines = decode_text(data, str(path))[0].splitlines() if data.strip() else []  # nobody on the road: an empty file
    image = next(
        (
            name
            for suffix in (".png", ".jpg", *sorted(IMAGE_SUFFIXES))
            if (name := pictures / f"{path.stem}{suffix}").is_file()
        ),
        None,
    )
    if image is None:
        raise AnnotationError(path, f"no image {path.stem}.png in {pictures}", "Give the folder of the images")
    width, height, _ = picture_size(image)
    found = (
        _instance(line, path, number, width, height, dont_care, log)
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    kept = tuple(instance for instance in found if instance is not None)
    return ImageRecord(image.name, width, height, kept, str(path))


def _instance(
    line: str, path: Path, number: int, width: int, height: int, dont_care: bool, log: ConversionLog
) -> Instance | None:
    where = f"{path}:{number}"
    fields = line.split()
    try:
        truncated, occluded, left, top, right, bottom = (float(fields[i]) for i in (1, 2, 4, 5, 6, 7))
        if not all(abs(value) < 1e9 for value in (truncated, occluded, left, top, right, bottom)):
            raise ValueError
    except (ValueError, IndexError):
        error = AnnotationError(path, f"{line[:60]!r} is not an object", "15 columns are expected", number)
        if not log.skip_bad:
            raise error from None
        log.drop("line that cannot be read", str(error))
        return None
    ignored = fields[0] == "DontCare"
    if ignored and not dont_care:
        log.drop("DontCare", where)
        return None
    box = fit_box((left, top, right, bottom), width, height, log, where)
    if box is None:
        return None
    attributes: dict[str, Any] = {}
    if truncated > 0:
        attributes["truncated"] = truncated
    if occluded > 0:
        attributes["occluded"] = int(occluded)
    return Instance(fields[0], box, iscrowd=ignored, attributes=attributes)
