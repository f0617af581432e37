"""The one shape every annotation format is read into, and that only ``coco.py`` writes.

Coordinates are continuous pixels with the origin at the top-left *edge* of the image: pixel ``i`` spans ``[i, i+1)``,
so a box around the whole image is ``(0, 0, width, height)`` and a one-pixel box has width 1. Boxes are
``(x_min, y_min, x_max, y_max)``. This is COCO's convention; a reader of a format that counts pixels differently
converts, nobody else does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, TypeVar

from converters.errors import AnnotationError

Box: TypeAlias = tuple[float, float, float, float]
"""``(x_min, y_min, x_max, y_max)`` in pixels."""

Polygons: TypeAlias = tuple[tuple[float, ...], ...]
"""Rings ``(x0, y0, x1, y1, ...)`` of at least three points each; several rings are a union, never a hole."""

Rle: TypeAlias = Mapping[str, Any]
"""COCO run lengths: ``{"size": [height, width], "counts": str}``, compressed, ``counts`` as ``str``."""


_Place = TypeVar("_Place")
_EXAMPLES = 5  # places kept for each reason
_NO_ATTRIBUTES: Mapping[str, Any] = {}


class Instance(NamedTuple):  # a tuple is made in a fifth of the time of a frozen dataclass, and there are millions
    """One annotated object of one image."""

    category: str
    box: Box
    segmentation: Polygons | Rle | None = None
    area: float | None = None  # pixels; None: of the segmentation if there is one, else of the box
    iscrowd: bool = False
    attributes: Mapping[str, Any] = _NO_ATTRIBUTES  # JSON values written beside the COCO keys


class ImageRecord(NamedTuple):
    """One image and everything annotated in it; an image without instances is a negative, not an error."""

    file_name: str  # POSIX, relative to the image root; never absolute, never ``..``
    width: int  # pixels, as shown: after the EXIF orientation
    height: int
    instances: tuple[Instance, ...] = ()
    source: str = ""  # the annotation file it came from, for messages
    attributes: Mapping[str, Any] = _NO_ATTRIBUTES  # JSON values written into the COCO image


@dataclass
class ConversionLog:
    """What a conversion left out or changed, and why: nothing is dropped in silence.

    A reader calls :meth:`bad` for a file it cannot use (raised unless ``skip_bad``), :meth:`drop` for an object it
    leaves out, and :meth:`note` for what it changed or decided. Counts are exact; of the examples the first few stay.
    """

    skip_bad: bool = False
    bad_files: list[AnnotationError] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)  # reason -> objects left out
    notes: Counter[str] = field(default_factory=Counter)  # remark -> how often
    examples: dict[str, list[str]] = field(default_factory=dict)  # reason or remark -> first few places
    expected: int = field(default=0, compare=False)  # files that were to be read, as far as that is known beforehand

    def bad(self, error: AnnotationError) -> None:
        """Quarantine a file: raise ``error``, or keep it and go on where ``skip_bad`` is set."""
        if not self.skip_bad:
            raise error
        self.bad_files.append(error)

    def drop(self, reason: str, where: str) -> None:
        """Count one object that was left out at ``where`` (file, and line or index)."""
        self._count(self.dropped, reason, where)

    def note(self, remark: str, where: str) -> None:
        """Count one thing that was repaired or decided at ``where``."""
        self._count(self.notes, remark, where)

    def other_classes(self) -> list[str]:
        """The classes of objects that were left out for :func:`other_class`, sorted."""
        before, after = other_class("\0").split(repr("\0"))
        reasons = [reason for reason in self.dropped if reason.startswith(before) and reason.endswith(after)]
        return sorted(reason[len(before) + 1 : -len(after) - 1] for reason in reasons)

    def merge(self, other: ConversionLog) -> None:
        """Add what another process or pass counted."""
        self.expected += other.expected
        self.bad_files += other.bad_files
        self.dropped.update(other.dropped)
        self.notes.update(other.notes)
        for reason, places in other.examples.items():
            for where in places:
                self._example(reason, where)

    def _count(self, counts: Counter[str], reason: str, where: str) -> None:
        count = counts[reason] = counts[reason] + 1
        if count <= _EXAMPLES:
            self._example(reason, where)

    def _example(self, reason: str, where: str) -> None:
        places = self.examples.setdefault(reason, [])
        if len(places) < _EXAMPLES:
            places.append(where)


def other_class(name: str) -> str:
    """Why an object is left out whose class is not among the categories asked for."""
    return f"class {name!r} is not among the categories"


def read_each(
    places: Iterable[_Place], read: Callable[[_Place], ImageRecord | None], log: ConversionLog
) -> Iterator[ImageRecord]:
    """Yield the records of files, or of places in one; ``log`` takes those that cannot be read, ``None`` is no record.

    Raises:
        AnnotationError: from ``read``, unless ``log.skip_bad``.
    """
    if isinstance(places, Sized):
        log.expected += len(places)
    for place in places:
        try:
            record = read(place)
        except AnnotationError as error:
            log.bad(error)
            continue
        if record is not None:
            yield record
