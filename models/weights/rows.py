"""Which rows of a class-dependent tensor move, for any layout: one formula instead of one case per head.

Along dimension 0 a head of ``G`` groups (anchors; 1 for a class-major head) holds

    ``G * (fixed + per_class * n)`` rows,  ``n`` = classes, plus one where the background has a row,

so a row is named by (group, fixed row) or by (group, class, row of that class). A checkpoint's head is described the
same way; it may keep its background first (torchvision, Detectron, ChainerCV), last (mmdetection, detectron2,
PaddleDetection 2) or not at all (sigmoid heads, box rows of mmdetection and detectron2), and may order its anchors
differently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from models.zoo.detector import ClassRows

Background = Literal["first", "last", "none"]
Run = tuple[int, int, int]  # first row in the model, first row in the checkpoint, how many


@dataclass(frozen=True)
class SourceRows:
    """How a checkpoint lays out what :class:`ClassRows` describes for the model.

    Attributes:
        background: where its background row stands; None: as in the model.
        groups: the checkpoint's group for each of the model's groups; None: the same order.
        inner: the checkpoint's row for each of a class's ``per_class`` rows (ChainerCV's boxes are y before x).
        unit: rows per group of a head that no class owns, where ``groups`` or ``inner`` say that its rows move. Groups
            that ``groups`` does not name stay behind.
    """

    background: Background | None = None
    groups: tuple[int, ...] | None = None
    inner: tuple[int, ...] | None = None
    unit: int | None = None

    def background_beside(self, layout: ClassRows) -> Background:
        """Where the checkpoint's background stands, given the model's layout."""
        return self.background or ("first" if layout.background else "none")


def class_count(rows: int, groups: int, layout: ClassRows, background: Background) -> int | None:
    """The number of classes, without the background, of a head with ``rows`` rows; None where the formula fails."""
    unit, rest = divmod(rows, groups) if groups else (0, 1)
    classes, remainder = divmod(unit - layout.fixed, layout.per_class)
    classes -= background != "none"
    return None if rest or remainder or classes < 0 else classes


def group_count(rows: int, layout: ClassRows, classes: int) -> int | None:
    """The number of groups of the model's head; None where ``layout`` does not describe a head of ``rows`` rows."""
    unit = layout.fixed + layout.per_class * (classes + layout.background)
    groups, rest = divmod(rows, unit) if unit else (0, 1)
    return None if rest or not groups else groups


def row_sources(
    layout: ClassRows, groups: int, source: SourceRows, counts: tuple[int, int], shared: Mapping[int, int]
) -> list[int | None]:
    """For every row of the model's head the checkpoint's row that it takes, or None: keep the initial value.

    Args:
        layout: the model's head.
        groups: its number of groups; the checkpoint has as many.
        source: the checkpoint's head.
        counts: the model's number of classes and the checkpoint's, without the background.
        shared: model class index -> checkpoint class index. Where it is empty only the class-free rows move: a
            background that has never been weighed against these classes says nothing.
    """
    theirs = source.background_beside(layout)
    slots = _slots(layout, counts, theirs, shared)
    unit = layout.fixed + layout.per_class * (counts[1] + (theirs != "none"))
    order = source.groups or tuple(range(groups))
    inner = source.inner or tuple(range(layout.per_class))
    rows: list[int | None] = []
    for group in order:
        start = group * unit
        rows.extend(start + row for row in range(layout.fixed))
        for slot in slots:
            first = start + layout.fixed + (slot or 0) * layout.per_class
            rows.extend(None if slot is None else first + row for row in inner)
    return rows


def _slots(
    layout: ClassRows, counts: tuple[int, int], theirs: Background, shared: Mapping[int, int]
) -> list[int | None]:
    """For every class slot of one model group (background included) the slot in a checkpoint group."""
    classes, source_classes = counts
    offset = int(theirs == "first")
    slots = [shared[index] + offset if index in shared else None for index in range(classes)]
    if not layout.background:
        return slots
    background = {"first": 0, "last": source_classes, "none": None}[theirs] if shared else None
    return [background, *slots]


def permuted_rows(rows: int, source: SourceRows) -> list[int | None]:
    """The same for a head without classes: groups of ``source.unit`` rows in another order (box offsets)."""
    unit = source.unit or rows
    inner = source.inner or tuple(range(unit))
    groups = source.groups or tuple(range(rows // unit))
    return [group * unit + row for group in groups for row in inner]


def as_runs(rows: Sequence[int | None]) -> tuple[Run, ...]:
    """The same in short: ``(to, from, count)`` for every stretch of rows that moves as one."""
    runs: list[Run] = []
    for to, origin in enumerate(rows):
        if origin is None:
            continue
        start, begin, count = runs[-1] if runs else (0, 0, 0)
        if count and (start + count, begin + count) == (to, origin):
            runs[-1] = (start, begin, count + 1)
        else:
            runs.append((to, origin, 1))
    return tuple(runs)
