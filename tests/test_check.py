from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from helpers_check import dataset
from helpers_seeds import OPTIONS, SEEDS

from converters.check import RULES, CheckReport, find_problems, repair_policy

LIGHT = dict.fromkeys(("image-dark", "image-bright", "image-flat", "image-blurred"), "info")


def check(splits: dict[str, Any], folder: Path, rule: str = "", policy: dict[str, str] | None = None) -> CheckReport:
    options = dict(OPTIONS.get(rule, {}))
    light = LIGHT if rule in LIGHT else {}
    return find_problems(
        splits, folder, depth="pixels", **(options | {"policy": light | options.get("policy", {}) | (policy or {})})
    )


def test_a_clean_dataset_has_no_problem_and_stays_itself(tmp_path: Path) -> None:
    splits = dataset(tmp_path)

    report = check(splits, tmp_path)

    assert report.counts == {}
    assert report.problems == ()
    assert report.changes == ()
    assert all(report.splits[name] is splits[name] for name in splits)
    report.raise_for_errors()


def test_every_rule_has_a_seeded_defect() -> None:
    assert set(SEEDS) == set(RULES)


@pytest.mark.parametrize("rule", SEEDS)
def test_the_rule_finds_its_defect_and_nothing_else_speaks(rule: str, tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    SEEDS[rule].breaks(splits, tmp_path)

    report = check(splits, tmp_path, rule)

    assert set(report.counts) == {rule, *SEEDS[rule].also}
    found = [problem for problem in report.problems if problem.rule == rule]
    assert found
    assert all(problem.message and problem.remedy and problem.file for problem in found)


@pytest.mark.parametrize("rule", SEEDS)
def test_a_rule_that_is_off_says_nothing_and_the_check_goes_on(rule: str, tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    SEEDS[rule].breaks(splits, tmp_path)

    report = check(splits, tmp_path, rule, {rule: "off"})

    assert rule not in report.counts


@pytest.mark.parametrize("rule", SEEDS)
def test_a_repair_never_touches_its_input_and_a_second_one_finds_nothing(rule: str, tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    SEEDS[rule].breaks(splits, tmp_path)
    before = copy.deepcopy(splits)
    policy = repair_policy({rule: (({"fix", "drop"} & set(RULES[rule].allowed)) or {"error"}).pop()})

    first = find_problems(splits, tmp_path, policy=policy, max_drop=1)
    second = find_problems(first.splits, tmp_path, policy=policy, max_drop=1)

    assert splits == before or rule == "json-nan"
    assert second.changes == ()
    assert second.repaired == {}
    if RULES[rule].repair and rule not in {"leak-near"}:
        assert first.repaired.get(rule), "the repair did nothing"
