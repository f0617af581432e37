"""What a check found and what it changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from converters.check.rules import RULES
from converters.check.statistics import Statistics
from converters.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: where it is, what it is, and what to do about it."""

    rule: str
    severity: str  # error, warning or info
    split: str
    file: str  # the image's file_name where one is concerned, else the annotation file
    image_id: int | None
    annotation_id: int | None
    value: str  # what was found, shortened
    message: str
    remedy: str
    action: str = "reported"  # reported, fixed or dropped
    box: tuple[float, float, float, float] | None = None  # x, y, width, height in pixels, for the page
    other: str = ""  # the second file, where two are concerned

    def __str__(self) -> str:
        ids = f", annotation {self.annotation_id}" if self.annotation_id is not None else ""
        value = f": {self.value}" if self.value else ""
        return f"{self.rule}: {self.split}: {self.file}{ids}: {self.message}{value}. {self.remedy}"


class Change(NamedTuple):
    """One change of a repairing run; ``after`` is None where the entry was dropped."""

    rule: str
    split: str
    kind: str  # images, annotations, categories, or "file" for the top level
    id: Any
    before: Mapping[str, Any]  # the fields that changed; of a dropped entry, all of them
    after: Mapping[str, Any] | None


@dataclass(frozen=True)
class CheckReport:
    """The result of :func:`converters.check.find_problems`.

    ``problems`` keeps the first examples of each rule; ``counts`` and ``severities`` are exact.
    """

    problems: tuple[Problem, ...]
    counts: Mapping[str, int]  # rule -> how often it was found, repaired ones included
    repaired: Mapping[str, int]  # rule -> how often it was fixed or dropped
    severities: Mapping[str, int]  # error, warning, info -> how many stand, repaired ones left out
    statistics: Statistics
    splits: Mapping[str, dict[str, Any]] = field(
        repr=False
    )  # readable ones; the input's own objects where nothing changed
    changes: tuple[Change, ...] = field(default=(), repr=False)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The errors that stand, as far as they were kept."""
        return tuple(p for p in self.problems if p.severity == "error" and p.action == "reported")

    def raise_for_errors(self) -> None:
        """Raise the first ten errors and their count.

        Raises:
            DatasetError: there is an error that was not repaired.
        """
        count = self.severities.get("error", 0)
        if count:
            first = [f"  {problem}" for problem in self.errors[:10]]
            more = [f"  ... and {count - len(first)} more"] if count > len(first) else []
            raise DatasetError("\n".join([f"{count} error{'s' * (count > 1)} in the dataset", *first, *more]))

    def to_json(self) -> dict[str, Any]:
        """Return counts, problems, changes' counts and figures as JSON values; the same for the same input."""
        return {
            "severities": dict(self.severities),
            "rules": {
                name: {
                    "severity": RULES[name].severity,
                    "count": count,
                    "repaired": self.repaired.get(name, 0),
                    "what": RULES[name].what,
                    "remedy": RULES[name].remedy,
                }
                for name, count in self.counts.items()
            },
            "problems": [_fields(problem) for problem in self.problems],
            "changes": dict(Counter(f"{c.kind}:{'dropped' if c.after is None else 'fixed'}" for c in self.changes)),
            "statistics": self.statistics.to_json(),
        }


def _fields(problem: Problem) -> dict[str, Any]:
    return {name: getattr(problem, name) for name in Problem.__slots__}
