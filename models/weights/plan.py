"""The load plan: what will happen to every tensor, as data that people, pages and :func:`apply_plan` read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal, Self

from models.weights.rows import Run
from models.zoo.detector import Part

Action = Literal["copied", "rows", "skipped"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the model.

    Attributes:
        key: its state-dict key.
        shape: its shape in the model.
        part: backbone, neck or head.
        action: the whole tensor is copied, some of its rows are, or it keeps its initial value.
        source: the checkpoint's key, where there is one.
        rows: (rows that move, rows in all) for the action "rows".
        reason: why it is skipped, or why only some rows move.
        transpose: the checkpoint stores [in, out].
        runs: ``(to, from, count)`` stretches of rows; empty: all rows in order.
    """

    key: str
    shape: Shape
    part: Part
    action: Action
    source: str | None = None
    rows: tuple[int, int] | None = None
    reason: str | None = None
    transpose: bool = False
    runs: tuple[Run, ...] = ()

    @property
    def size(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    @property
    def elements(self) -> int:
        """How many of them come from the checkpoint."""
        if self.action == "skipped":
            return 0
        moved, of = self.rows or (1, 1)
        return self.size * moved // of


@dataclass(frozen=True)
class UnusedTensor:
    """One tensor of the checkpoint that goes nowhere."""

    key: str
    shape: Shape
    reason: str


@dataclass(frozen=True)
class ClassMatch:
    """The class lists, in label order without the background; ``checkpoint`` is None where nobody knows it."""

    model: tuple[str, ...]
    checkpoint: tuple[str, ...] | None
    shared: tuple[str, ...]


@dataclass(frozen=True)
class Coverage:
    """Shares of the model that the checkpoint supplies, 0..1; the parts count elements. An empty part counts as 1."""

    tensors: float
    elements: float
    backbone: float
    neck: float
    head: float


@dataclass(frozen=True)
class LoadPlan:
    """What a load will do, computed before any tensor is written.

    Attributes:
        detector: the detector's name.
        checkpoint: the checkpoint file's name, without its folder.
        container: the kind of file it is.
        key_map: whose names it uses.
        classes: which classes both know.
        coverage: how much of the model it supplies.
        tensors: every tensor of the model, in its order.
        unused: every tensor of the checkpoint that goes nowhere, in its order.
        renamed: how many tensors are taken from another name.
        notes: what a person should know, in whole sentences.
    """

    detector: str
    checkpoint: str
    container: str
    key_map: str
    classes: ClassMatch
    coverage: Coverage
    tensors: tuple[PlannedTensor, ...]
    unused: tuple[UnusedTensor, ...]
    renamed: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values; :meth:`from_json` gives an equal plan back."""
        return {name: _listed(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The plan of :meth:`to_json`."""
        classes = content["classes"]
        known = classes["checkpoint"]
        return cls(
            **{name: content[name] for name in ("detector", "checkpoint", "container", "key_map", "renamed")},
            classes=ClassMatch(
                tuple(classes["model"]), None if known is None else tuple(known), tuple(classes["shared"])
            ),
            coverage=Coverage(**content["coverage"]),
            tensors=tuple(_planned(tensor) for tensor in content["tensors"]),
            unused=tuple(UnusedTensor(t["key"], tuple(t["shape"]), t["reason"]) for t in content["unused"]),
            notes=tuple(content["notes"]),
        )

    def to_rows(self) -> list[dict[str, str]]:
        """The plan as table rows: one per tensor of the model, then one per unused tensor of the checkpoint."""
        planned = [
            {
                "tensor": tensor.key,
                "shape": shape_text(tensor.shape),
                "part": tensor.part,
                "action": f"rows {tensor.rows[0]} of {tensor.rows[1]}" if tensor.rows else tensor.action,
                "from": tensor.source or "",
                "reason": tensor.reason or "",
            }
            for tensor in self.tensors
        ]
        unused = [
            {
                "tensor": "",
                "shape": shape_text(tensor.shape),
                "part": "",
                "action": "unused",
                "from": tensor.key,
                "reason": tensor.reason,
            }
            for tensor in self.unused
        ]
        return planned + unused

    def summary(self) -> list[str]:
        """The plan in a few lines of text: what moves, what stays out and why, which classes are shared."""
        actions = Counter(tensor.action for tensor in self.tensors)
        absent = {"backbone", "neck", "head"} - {tensor.part for tensor in self.tensors}  # a classifier has no neck
        cover = {name: share for name, share in asdict(self.coverage).items() if name not in absent}
        lines = [
            f"{self.checkpoint} ({self.container}, names: {self.key_map}) -> {self.detector}",
            f"{actions['copied']} tensors copied, {actions['rows']} by rows, {actions['skipped']} skipped",
            f"{len(self.unused)} tensors of the checkpoint unused, {self.renamed} renamed",
            f"covered: {', '.join(f'{share:.1%} of {name}' for name, share in cover.items())}",
            self._class_line(),
        ]
        reasons = Counter(_kind(tensor.reason) for tensor in self.tensors if tensor.action == "skipped")
        lines += [f"skipped, {reason}: {count}" for reason, count in sorted(reasons.items())]
        return lines + [f"note: {note}" for note in self.notes]

    def _class_line(self) -> str:
        """Which classes are shared, in words."""
        if self.classes.checkpoint is None:
            return "classes of the checkpoint: unknown"
        names = ", ".join(self.classes.shared) or "none"
        return f"shared classes: {len(self.classes.shared)} of {len(self.classes.model)} ({names})"


def shape_text(shape: Shape) -> str:
    """``64x3x7x7``; a scalar is ``scalar``."""
    return "x".join(map(str, shape)) or "scalar"


def _kind(reason: str | None) -> str:
    """A reason without its particulars, for counting."""
    return (reason or "").split(":")[0]


def _planned(content: Mapping[str, Any]) -> PlannedTensor:
    """One tensor of the JSON plan."""
    tuples = {
        "shape": tuple(content["shape"]),
        "rows": None if content["rows"] is None else tuple(content["rows"]),
        "runs": tuple(tuple(run) for run in content.get("runs", ())),
    }
    return PlannedTensor(**{**content, **tuples})


def _listed(value: Any) -> Any:
    """Tuples as lists, all the way down: what JSON would give back."""
    if isinstance(value, dict):
        return {key: _listed(entry) for key, entry in value.items()}
    return [_listed(entry) for entry in value] if isinstance(value, list | tuple) else value
