"""TIDE's kinds of error (Bolya et al. 2020), against a second computation from its definitions and its authors' own."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from test_training_scores import scene

from models.training.mistakes import error_kinds
from models.training.scores import Result, complete_truth, hotcoco_evaluation

FOUND, BACKGROUND = 0.5, 0.1  # TIDE's two thresholds of IoU


def without_crowds(seed: int) -> tuple[dict[str, Any], list[Result]]:
    """A random scene of three classes that all have truth: what follows is defined for nothing else."""
    truth, results = scene(seed)
    truth = complete_truth(truth)
    truth["annotations"] = [row for row in truth["annotations"] if not row["iscrowd"]]
    truth["categories"] = truth["categories"][:3]
    return truth, [result for result in results if result["category_id"] <= 3]


def iou(one: list[float], two: list[float]) -> float:
    width = min(one[0] + one[2], two[0] + two[2]) - max(one[0], two[0])
    height = min(one[1] + one[3], two[1] + two[3]) - max(one[1], two[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (one[2] * one[3] + two[2] * two[3] - shared)


def kinds_in(truths: list[dict[str, Any]], results: list[Result]) -> Counter[str]:
    """The errors in one image: each wrong detection is of the first kind that fits, as the paper orders them."""
    taken: set[int] = set()
    explained: set[int] = set()
    wrong: list[Result] = []
    for result in sorted(results, key=lambda result: -result["score"]):
        of_class = [row for row in truths if row["category_id"] == result["category_id"] and row["id"] not in taken]
        best = max(of_class, key=lambda row: iou(result["bbox"], row["bbox"]), default=None)
        if best is not None and iou(result["bbox"], best["bbox"]) >= FOUND:
            taken.add(best["id"])
        else:
            wrong.append(result)
    kinds: Counter[str] = Counter()
    for result in wrong:
        same, other = (
            max(((iou(result["bbox"], row["bbox"]), row["id"]) for row in truths if wanted(row)), default=(0.0, 0))
            for wanted in (
                lambda row: row["category_id"] == result["category_id"],  # noqa: B023 - used at once
                lambda row: row["category_id"] != result["category_id"],  # noqa: B023
            )
        )
        if BACKGROUND <= same[0] < FOUND:
            kinds["localisation"] += 1
            explained.add(same[1])
        elif other[0] >= FOUND:
            kinds["class"] += 1
            explained.add(other[1])
        elif same[0] >= FOUND:
            kinds["duplicate"] += 1
        else:
            kinds["background" if max(same[0], other[0]) < BACKGROUND else "both"] += 1
    kinds["missed"] = len({row["id"] for row in truths} - taken - explained)
    return kinds


@pytest.mark.parametrize("seed", range(8))
def test_kinds_are_those_of_the_definitions(seed: int) -> None:
    truth, results = without_crowds(seed)
    expected: Counter[str] = Counter()
    for image in truth["images"]:
        rows, found = (
            [one for one in many if one["image_id"] == image["id"]] for many in (truth["annotations"], results)
        )
        expected += kinds_in(rows, found)

    told = error_kinds(hotcoco_evaluation(truth, results, "bbox"))

    assert {name: kind["count"] for name, kind in told.items()} == {name: expected[name] for name in told}
    assert min(expected[name] for name in ("class", "localisation", "duplicate", "missed")) > 3


def test_what_each_kind_costs_is_what_tidecv_says() -> None:
    truth, results = without_crowds(0)

    told = error_kinds(hotcoco_evaluation(truth, results, "bbox"))

    assert {name: kind["AP50_gain"] for name, kind in told.items()} == pytest.approx(
        {  # tidecv 1.0.1 on the same scene
            "class": 0.027122,
            "localisation": 0.129676,
            "both": 0.001007,
            "duplicate": 0.051253,
            "background": 0.046892,
            "missed": 0.207672,
        },
        abs=2e-6,
    )
