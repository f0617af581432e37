"""What the user says about a load: what stays out, what is renamed, how much must fit.

A rule of ``exclude`` or ``include`` is one of

- a field of PaddleDetection's tables (``cls_score``, ``bbox_pred``, ``mask_fcn_logits``, ``retnet_cls_pred_fpn``,
  ``^conv2d_``, ``yolo_output``), which each detector resolves to its own tensors: ``bbox_pred`` is the box head's,
  never the region proposal network's;
- another bare word: a regular expression that must match where a part of the key begins, as PaddleDetection's does at
  the start of a variable's name, again never within the region proposal network;
- ``re:`` and a regular expression searched anywhere in the key, or ``glob:`` and a shell pattern for the whole key.

A rule that matches nothing is an error: silence is how a typo loses a training run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.errors import WeightsError
from models.zoo.detector import Detector

KeyMapName = Literal[
    "auto",
    "name",
    "backbone",
    "mmdetection",
    "detectron2",
    "paddle",
    "paddle-static",
    "chainercv",
    "darknet",
]


class LoadRules(BaseModel):
    """Which tensors of a checkpoint may move, and what makes the load fail."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exclude: tuple[str, ...] = Field(
        default=(),
        description="Tensors that keep their initial values: PaddleDetection's fields (cls_score, bbox_pred, ...), "
        "re:PATTERN or glob:PATTERN. What differs in shape is left out by itself.",
    )
    include: tuple[str, ...] = Field(
        default=(), description="Load only these tensors, by the same kinds of rules; everything when empty."
    )
    rename: tuple[tuple[str, str], ...] = Field(
        default=(),
        description="Pairs of a regular expression and its replacement, applied in order to the checkpoint's keys "
        "before the key map.",
    )
    classes: Literal["keep", "reset"] = Field(
        default="keep",
        description="keep: rows of the classes that checkpoint and dataset share move by name; reset: all class rows "
        "start anew.",
    )
    min_coverage: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.5, description="Refuse a checkpoint that supplies less than this share of the backbone's elements."
    )
    key_map: KeyMapName = Field(
        default="auto",
        description="Whose names the checkpoint uses; auto looks at its keys, name takes them as is.",
    )
    force: bool = Field(
        default=False,
        description="Load in spite of a low coverage or another architecture (stride, channel order, anchors).",
    )

    @model_validator(mode="after")
    def _patterns_compile(self) -> Self:
        """A pattern that is no regular expression fails here, where the config is read."""
        bare = [rule for rule in (*self.exclude, *self.include) if not rule.startswith("glob:")]
        for pattern, replacement in [(rule.removeprefix("re:"), "") for rule in bare] + list(self.rename):
            try:
                re.sub(pattern, replacement, "")
            except (re.error, IndexError) as error:
                raise ValueError(
                    f"{pattern!r} is not a regular expression, or {replacement!r} no replacement for it: {error}"
                ) from None
        return self


def excluded(rules: LoadRules, detector: Detector, keys: Sequence[str]) -> dict[str, str]:
    """The model's keys that must keep their initial values, each with the reason.

    Raises:
        WeightsError: a rule matches no key.
    """
    reasons: dict[str, str] = {}
    if rules.include:
        wanted = {key for rule in rules.include for key in matching(rule, detector, keys)}
        reasons = {key: "not included by any rule" for key in keys if key not in wanted}
    for rule in rules.exclude:
        reasons.update(dict.fromkeys(matching(rule, detector, keys), f"excluded by {rule!r}"))
    return reasons


def matching(rule: str, detector: Detector, keys: Sequence[str]) -> list[str]:
    """The keys that a rule means.

    Raises:
        WeightsError: none, with the nearest names that would have matched.
    """
    matches = _matcher(rule, detector)
    found = [key for key in keys if matches(key)]
    if not found:
        raise WeightsError(f"the rule {rule!r} matches no tensor of {detector.name}", _hint(rule, detector, keys))
    return found


def _matcher(rule: str, detector: Detector) -> Callable[[str], bool]:
    """A rule as a predicate on keys."""
    if rule.startswith("glob:"):
        return lambda key: fnmatchcase(key, rule.removeprefix("glob:"))
    if rule.startswith("re:"):
        pattern = re.compile(rule.removeprefix("re:"))
        return lambda key: pattern.search(key) is not None
    if rule in detector.fields:
        field = re.compile(detector.fields[rule])
        return lambda key: field.fullmatch(key) is not None
    bare = re.compile(rule)
    return lambda key: not key.startswith("rpn.") and any(bare.match(key[start:]) for start in _starts(key))


def _starts(key: str) -> Iterable[int]:
    """Where the dotted parts of a key begin."""
    return [0, *(index + 1 for index, char in enumerate(key) if char == ".")]


def _hint(rule: str, detector: Detector, keys: Sequence[str]) -> str:
    """The nearest names a rule could have meant, from the detector's fields and the parts of its keys."""
    word = re.sub(r"^(re|glob):", "", rule).strip("^$.*")
    names = {*detector.fields, *(part for key in keys for part in key.split(".") if not part.isdigit())}
    nearest = get_close_matches(word, sorted(names), n=3, cutoff=0.5)
    known = f"its fields are {', '.join(sorted(detector.fields))}" if detector.fields else "it has no named fields"
    return (f"Did you mean {' or '.join(nearest)}? " if nearest else "") + f"For {detector.name} {known}"
