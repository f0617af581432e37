"""What the check of the annotations found, rule by rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.report.inputs import presentable

SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One rule and how often it was broken."""

    rule: str
    severity: str
    count: int
    repaired: int
    what: str
    remedy: str
    examples: Sequence[str]

    @property
    def stands(self) -> bool:
        """Whether some of it was not repaired."""
        return self.repaired < self.count


def findings(check: Mapping[str, Any], most: int = 3) -> list[Finding]:
    """The rules that were broken: first what still stands, errors first, then by how often.

    Args:
        check: content of ``problems.json``; its exact counts are used where it has them, else its problems are counted.
        most: examples of each rule.
    """
    problems: dict[str, list[Mapping[str, Any]]] = {}
    for problem in check.get("problems") or []:
        problems.setdefault(str(problem.get("rule", "")), []).append(problem)
    rules = check.get("rules") or {}
    found = [_finding(rule, rules.get(rule) or {}, problems.get(rule, []), most) for rule in {**problems, **rules}]
    order = {severity: number for number, severity in enumerate(SEVERITIES)}
    return sorted(found, key=lambda f: (not f.stands, order[f.severity], -f.count, f.rule))


def _finding(rule: str, told: Mapping[str, Any], problems: Sequence[Mapping[str, Any]], most: int) -> Finding:
    first = problems[0] if problems else {}
    severity = told.get("severity") or first.get("severity")
    repaired = sum(problem.get("action", "reported") != "reported" for problem in problems)
    return Finding(
        rule=str(rule),
        severity=severity if severity in SEVERITIES else "info",
        count=int(told.get("count") or len(problems)),
        repaired=int(told.get("repaired") or repaired),
        what=_sentence(told.get("what") or first.get("message") or rule),
        remedy=_sentence(told.get("remedy") or first.get("remedy") or ""),
        examples=[_example(problem) for problem in problems[:most]],
    )


def _sentence(said: object) -> str:
    text = presentable(str(said))
    return text[:1].upper() + text[1:]


def _example(problem: Mapping[str, Any]) -> str:
    parts = [str(problem.get(name) or "") for name in ("split", "file", "value")]
    text = " · ".join(dict.fromkeys(part for part in parts if part))  # a file may be named as its split is
    if other := problem.get("other"):
        text += f" and {other}"
    return presentable(text or str(problem.get("message") or ""))
