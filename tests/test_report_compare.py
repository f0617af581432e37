"""The page that compares runs: what is measured against the first, and what is not."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_report import Page, fake_run, rewrite

from models.report import ReportError, ReportInputs, compare


@pytest.fixture
def run(tmp_path: Path) -> ReportInputs:
    return fake_run(tmp_path / "run")


def test_a_comparison_measures_against_the_first(run: ReportInputs, tmp_path: Path) -> None:
    better = fake_run(tmp_path / "better", seed=9)
    rewrite(better.metrics, bbox={**json.loads(run.metrics.read_text())["bbox"], "AP": 0.99})
    compare([run, replace(better, title="Better")], tmp_path / "compare.html")
    page = Page(tmp_path / "compare.html")
    change = 99 - json.loads(run.metrics.read_text())["bbox"]["AP"] * 100
    assert "99.0" in page.text
    assert f"+{change:.1f}" in page.text
    assert "not comparable" not in page.text
    with pytest.raises(ReportError, match="two runs"):
        compare([run], tmp_path / "compare.html")


def test_runs_on_other_data_are_said_to_be_not_comparable(run: ReportInputs, tmp_path: Path) -> None:
    fresh = fake_run(tmp_path / "fresh", images=6, train=4)
    compare(
        [replace(run, last=None), replace(fresh, title="other", last=None, note="source.root: /home/somebody/other")],
        tmp_path / "compare.html",
    )
    text = Page(tmp_path / "compare.html").text
    assert "not comparable" in text
    assert not re.search(r"[+\N{MINUS SIGN}]\d", text), "a change against what is not comparable"
    assert "somebody" not in text
