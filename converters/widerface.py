"""WIDER FACE: faces listed in one text file per split, every image's name and number of faces before its boxes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from converters.boxes import fit_box
from converters.errors import AnnotationError, DatasetError
from converters.pictures import IMAGE_SUFFIXES, picture_size
from converters.records import ConversionLog, ImageRecord, Instance, read_each

InvalidRule: TypeAlias = Literal["crowd", "keep", "drop"]

_SPLITS = ("train", "val")
_FLAGS = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")


def read_widerface(
    root: Path,
    *,
    split: str | None = None,
    images: Path | None = None,
    invalid: InvalidRule = "crowd",
    category: str = "face",
    log: ConversionLog | None = None,
) -> Iterator[ImageRecord]:
    """Yield one record per image of the lists, in their order; every instance is a face.

    Rows are ``x y width height`` in pixels from 0, and six flags, which are kept as attributes.

    Args:
        root: the folder with ``wider_face_split``, ``WIDER_train`` and ``WIDER_val``.
        split: ``train`` or ``val``; ``None`` reads both.
        images: where ``WIDER_train`` and ``WIDER_val`` lie, if not in ``root``.
        invalid: make faces marked invalid crowds, which evaluation ignores; keep them like others; or drop them.
        category: the name of the one class.
        log: what was dropped and repaired; with ``skip_bad`` set, unreadable images and rows too.

    Raises:
        AnnotationError: an image or a row cannot be read, unless ``log.skip_bad``.
        DatasetError: no such split, or no list for it.
    """
    if invalid not in get_args(InvalidRule):
        raise DatasetError(f"invalid is {invalid!r}, not one of {', '.join(get_args(InvalidRule))}")
    if split is not None and split not in _SPLITS:
        raise DatasetError(f"WIDER FACE has no split {split!r}, only {' and '.join(_SPLITS)} (test has no boxes)")
    log = log if log is not None else ConversionLog()
    lists = {name: root / "wider_face_split" / f"wider_face_{name}_bbx_gt.txt" for name in _SPLITS}
    chosen = [split] if split else [name for name in _SPLITS if lists[name].is_file()]
    if not chosen:
        raise DatasetError(f"no wider_face_split/wider_face_train_bbx_gt.txt in {root}")
    for name in chosen:
        yield from _List(lists[name], images or root, f"WIDER_{name}/images", invalid, category, log).records()


class _List:
    """One list of faces, line by line."""

    def __init__(self, path: Path, root: Path, folder: str, invalid: str, category: str, log: ConversionLog) -> None:
        self.path, self.root, self.folder, self.invalid, self.category, self.log = (
            path, root, folder, invalid, category, log,
        )  # fmt: skip
        try:
            self.lines = path.read_text("utf-8-sig", "replace").splitlines()
        except OSError as error:
            raise DatasetError(f"{path}: cannot read the list: {error.strerror}") from error

    def records(self) -> Iterator[ImageRecord]:
        """Images by their names; whatever the count says, rows end where the next name begins."""
        names = [number for number, line in enumerate(self.lines) if _is_name(line)]
        return read_each(pairwise([*names, len(self.lines)]), self._record, self.log)

    def _record(self, span: tuple[int, int]) -> ImageRecord:
        number, end = span
        name = self.lines[number].strip()
        if name.startswith("/") or ".." in name.split("/"):
            raise AnnotationError(self.path, f"the name {name!r} leaves the image root", line=number + 1)
        count = self._count(number + 1)
        rows = [row for row in range(number + 2, end) if self.lines[row].strip()]
        if len(rows) != max(count, 1) and (count or rows):  # an image without faces still has one row, of zeros
            problem = f"{name} has {len(rows)} rows, its count says {count}"
            raise AnnotationError(self.path, problem, "Correct the count", number + 2)
        file_name = f"{self.folder}/{name}"
        width, height, _ = picture_size(self.root / file_name)
        instances = (self._instance(row, width, height) for row in rows[:count])
        kept = tuple(instance for instance in instances if instance is not None)
        return ImageRecord(file_name, width, height, kept, f"{self.path}:{number + 1}")

    def _count(self, number: int) -> int:
        text = self.lines[number].strip() if number < len(self.lines) else ""
        if not (text.isascii() and text.isdigit()):
            raise AnnotationError(self.path, f"{text[:40]!r} is not a number of faces", line=number + 1)
        return int(text)

    def _instance(self, number: int, width: int, height: int) -> Instance | None:
        where = f"{self.path}:{number + 1}"
        try:
            values = [float(text) for text in self.lines[number].split()]
            if len(values) < 4 or not all(abs(value) < 1e9 for value in values):
                raise ValueError
        except ValueError:
            error = AnnotationError(self.path, f"{self.lines[number][:60]!r} is not a face", line=number + 1)
            if not self.log.skip_bad:
                raise error from None
            self.log.drop("row that cannot be read", str(error))
            return None
        left, top, box_width, box_height, *flags = values
        attributes: dict[str, Any] = dict(zip(_FLAGS, map(int, flags), strict=False))
        if attributes.get("invalid") and self.invalid == "drop":
            self.log.drop("invalid", where)
            return None
        box = fit_box((left, top, left + box_width, top + box_height), width, height, self.log, where)
        if box is None:
            return None
        crowd = bool(attributes.get("invalid")) and self.invalid == "crowd"
        return Instance(self.category, box, iscrowd=crowd, attributes=attributes)


def _is_name(line: str) -> bool:
    return Path(line.strip()).suffix.lower() in IMAGE_SUFFIXES
