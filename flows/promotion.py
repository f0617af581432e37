"""Whether a challenger replaces the champion: one pure function, so that the rules can be read and tried alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict, Field


class PromotionRules(BaseModel):
    """When a challenger becomes champion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    margin: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="AP or accuracy (0..1) by which the challenger must be better; a tie never is",
    )
    tolerance: float = Field(default=0.05, ge=0, le=1, description="AP or accuracy (0..1) by which a class may fall")
    min_truths: int = Field(
        default=10, ge=1, description="Classes with fewer objects in the validation split decide nothing alone"
    )


@dataclass(frozen=True)
class Scores:
    """Box AP (of a classifier: accuracy) of each class that has objects in the validation split, 0..1."""

    per_class: dict[str, float]
    truths: dict[str, int]
    measure: str = "AP"  # what it is called

    def over(self, classes: dict[str, int]) -> float:
        """Mean over ``classes``; 0 for those it does not know."""
        return sum(self.per_class.get(name, 0.0) for name in classes) / len(classes) if classes else 0.0


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and why."""

    promote: bool
    reasons: tuple[str, ...]


def read_scores(metrics: Path) -> Scores:
    """Scores from the ``metrics.json`` of an evaluation; classes without objects are left out."""
    rows = [row for row in orjson.loads(metrics.read_bytes())["per_class"] if row["truths"]]
    measures = {row["name"]: row["AP"] if "AP" in row else row["recall"] for row in rows}
    measure = "AP" if all("AP" in row for row in rows) else "mean accuracy of the classes"
    return Scores(measures, {row["name"]: row["truths"] for row in rows}, measure)


def decide(champion: Scores, challenger: Scores, rules: PromotionRules) -> Decision:
    """Compare two models on the same validation split.

    Classes that the champion does not know count as 0 for it, so learning one is a gain.
    """
    before, after = champion.over(challenger.truths), challenger.over(challenger.truths)
    gain = f"{challenger.measure} {before:.4f} -> {after:.4f}, margin {rules.margin:g}"
    fallen = tuple(
        f"{name} fell from {champion.per_class[name]:.4f} to {value:.4f}, more than {rules.tolerance:g}"
        for name, value in challenger.per_class.items()
        if challenger.truths[name] >= rules.min_truths
        and name in champion.per_class
        and champion.per_class[name] - value > rules.tolerance
    )
    better = after > before + rules.margin
    reasons = (gain if better else f"not better by the margin: {gain}", *fallen)
    return Decision(better and not fallen, reasons)
