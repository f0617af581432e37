"""The load plan as a page shows it: what of the checkpoint moved into the model, and why the rest did not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.report.inputs import presentable

ACTIONS = ("copied", "rows", "skipped")
PARTS = ("backbone", "neck", "head")
ROW_LIMIT = 2000  # rows of the table of tensors; the rest is counted


@dataclass(frozen=True)
class PartFigures:
    """One part of the model: elements by what was done with them."""

    name: str
    tensors: int
    elements: int
    shares: Mapping[str, float]  # action -> share of the elements


@dataclass(frozen=True)
class Loading:
    """The plan, summed up and in full."""

    detector: str
    checkpoint: str
    key_map: str
    coverage: float  # share of the model's elements that came from the checkpoint
    counts: Mapping[str, int]  # action -> tensors
    parts: Sequence[PartFigures]
    shared: Sequence[str]
    new: Sequence[str]
    checkpoint_classes: int | None
    reasons: Sequence[tuple[str, int, str]]  # reason, tensors, an example
    tensors: Sequence[Mapping[str, Any]]
    unused: Sequence[Mapping[str, Any]]
    total: int  # tensors of the model
    left_out: int  # of them, beyond the table
    notes: Sequence[str]


def loading_figures(plan: Mapping[str, Any]) -> Loading | None:
    """Sum up a load plan; None where there is none."""
    if not plan:
        return None
    tensors = [_tensor(tensor) for tensor in plan.get("tensors") or []]
    classes = plan.get("classes") or {}
    model, known = classes.get("model") or [], classes.get("checkpoint")
    shared = [str(name) for name in classes.get("shared") or []]
    return Loading(
        detector=str(plan.get("detector", "")),
        checkpoint=presentable(str(plan.get("checkpoint", ""))),
        key_map=str(plan.get("key_map") or ""),
        coverage=_coverage(plan, tensors),
        counts={action: sum(t["action"] == action for t in tensors) for action in ACTIONS},
        parts=[_part(name, [t for t in tensors if t["part"] == name]) for name in _part_names(tensors)],
        shared=shared,
        new=[str(name) for name in model if str(name) not in shared],
        checkpoint_classes=len(known) if known is not None else None,
        reasons=_reasons(tensors),
        tensors=tensors[:ROW_LIMIT],
        unused=[_unused(entry) for entry in (plan.get("unused") or [])[:ROW_LIMIT]],
        total=len(tensors),
        left_out=max(0, len(tensors) - ROW_LIMIT),
        notes=[presentable(str(note)) for note in plan.get("notes") or []],
    )


def _tensor(tensor: Mapping[str, Any]) -> dict[str, Any]:
    shape = [int(size) for size in tensor.get("shape") or []]
    rows = tensor.get("rows")
    return {
        "key": str(tensor.get("key", "")),
        "shape": "\N{MULTIPLICATION SIGN}".join(map(str, shape)) or "scalar",
        "elements": math.prod(shape),
        "part": str(tensor.get("part", "")),
        "action": str(tensor.get("action", "")),
        "source": str(tensor.get("source") or ""),
        "rows": f"{rows[0]} of {rows[1]}" if rows and len(rows) == 2 else "",
        "share": rows[0] / rows[1] if rows and len(rows) == 2 and rows[1] else 1.0,
        "reason": presentable(str(tensor.get("reason") or "")),
    }


def _unused(entry: Mapping[str, Any]) -> dict[str, str]:
    shape = "\N{MULTIPLICATION SIGN}".join(map(str, entry.get("shape") or [])) or "scalar"
    return {"key": str(entry.get("key", "")), "shape": shape, "reason": str(entry.get("reason") or "")}


def _part_names(tensors: Sequence[Mapping[str, Any]]) -> list[str]:
    found = {tensor["part"] for tensor in tensors}
    return [name for name in PARTS if name in found] + sorted(found - set(PARTS))


def _part(name: str, tensors: Sequence[Mapping[str, Any]]) -> PartFigures:
    elements = sum(t["elements"] for t in tensors)
    moved = {a: sum(t["elements"] * t["share"] for t in tensors if t["action"] == a) for a in ("copied", "rows")}
    shares = {action: count / elements if elements else 0.0 for action, count in moved.items()}
    return PartFigures(name, len(tensors), elements, {**shares, "skipped": max(0.0, 1 - sum(shares.values()))})


def _coverage(plan: Mapping[str, Any], tensors: Sequence[Mapping[str, Any]]) -> float:
    """What the plan says of itself, else what its tensors say."""
    said = (plan.get("coverage") or {}).get("elements")
    if isinstance(said, int | float) and 0 <= said <= 1:
        return float(said)
    elements = sum(t["elements"] for t in tensors)
    moved = sum(t["elements"] * t["share"] for t in tensors if t["action"] in ("copied", "rows"))
    return moved / elements if elements else 0.0


def _reasons(tensors: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, str]]:
    """Why tensors were not simply copied, the most frequent reason first."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for tensor in tensors:
        if tensor["action"] != "copied":
            by_reason[tensor["reason"] or tensor["action"]].append(tensor["key"])
    found = [(reason, len(keys), min(keys)) for reason, keys in by_reason.items()]
    return sorted(found, key=lambda entry: (-entry[1], entry[0]))
