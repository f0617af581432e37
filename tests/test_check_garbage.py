from __future__ import annotations

import contextlib
import io
import json
import os
from typing import Any

import numpy as np
import pytest
from helpers_check import split
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from converters.check import RULES, find_problems, repair_policy

TIMES = int(os.environ.get("ANNOTUNE_FUZZ", "1"))  # a longer search than the suite has time for
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 200)
    | st.integers()
    | st.sampled_from(
        [0, 1, 0.0, -0.0, 1e9, 1e308, -1e308, 5e-324, 2**53, 2**63, 10**400, "1", " 2 ", "1.0", "NaN", "\ud800"]
    )
    | st.floats()
    | st.text(max_size=4)
)
NUMBERS = st.one_of(st.integers(-20, 90), st.floats(-20, 90), st.sampled_from([1e9, float("nan"), float("inf"), 1e-9]))
RINGS = st.lists(st.lists(NUMBERS, max_size=12), max_size=3)
RUNS = st.fixed_dictionaries(
    {
        "size": st.just([48, 64]) | st.just([64, 48]) | st.lists(st.integers(-2, 70), max_size=3),
        "counts": st.lists(st.integers(-5, 3072), max_size=5)
        | st.text("0123PQo`~\x7fÿ", max_size=6)
        | st.just([3072])
        | st.just([72, 3000]),
    }
)
VALUES = st.recursive(
    SCALARS | st.lists(NUMBERS, max_size=5) | RINGS | RUNS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
KEYS = {
    "images": ("id", "width", "height", "file_name", ...),
    "annotations": (
        "id",
        "image_id",
        "category_id",
        "bbox",
        "area",
        "iscrowd",
        "segmentation",
        "ignore",
        "keypoints",
        ...,
    ),
    "categories": ("id", "name", "supercategory", "keypoints", ...),
}
FITTING = {"bbox": st.lists(NUMBERS, min_size=4, max_size=4), "segmentation": RINGS | RUNS, "id": st.integers(-2, 30)}


@st.composite
def broken(draw: st.DrawFn) -> dict[str, Any]:
    """A clean COCO of three images, broken in up to eight places."""
    coco = split("train", 3, 1)
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(sorted(KEYS)))
        at = draw(st.integers(0, len(coco[kind]) - 1))
        key = draw(st.sampled_from(KEYS[kind]))
        if key is ...:
            coco[kind][at] = draw(VALUES)
        elif isinstance(coco[kind][at], dict):
            if draw(st.booleans()):
                coco[kind][at].pop(key, None)
            else:
                coco[kind][at][key] = draw(FITTING.get(key, VALUES) | VALUES)
    return coco


EVERYTHING = repair_policy(
    {rule.id: "fix" for rule in RULES.values() if rule.on_request and rule.repair == "fix"}
    | {rule.id: "drop" for rule in RULES.values() if rule.on_request and rule.repair == "drop"}
)


@settings(max_examples=150 * TIMES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from(["images", "annotations", "categories", "info", "x"]), VALUES | st.lists(VALUES, max_size=3)
    )
)
def test_any_json_is_a_report_and_no_exception(source: dict[str, Any]) -> None:
    for policy in ({}, repair_policy(), EVERYTHING):
        report = find_problems({"train": source, "val": {}}, policy=policy)
        assert report.counts
        json.dumps(report.to_json())


@settings(max_examples=250 * TIMES, deadline=None, suppress_health_check=list(HealthCheck))
@given(broken(), st.sampled_from([repair_policy(), EVERYTHING]))
def test_a_second_repair_finds_nothing_and_the_source_is_untouched(
    source: dict[str, Any], policy: dict[str, str]
) -> None:
    before = repr(source)

    first = find_problems({"train": source}, policy=policy, max_drop=1)
    second = find_problems(first.splits, policy=policy, max_drop=1)

    assert repr(source) == before
    assert second.changes == ()
    assert second.repaired == {}
    assert second.splits["train"] is first.splits["train"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pycocotools sets numpy shapes
@settings(max_examples=100 * TIMES, deadline=None, suppress_health_check=list(HealthCheck))
@given(broken())
def test_what_is_repaired_without_errors_is_safe_in_pycocotools(source: dict[str, Any]) -> None:
    report = find_problems({"train": source}, policy=repair_policy(), max_drop=1)
    if report.severities["error"]:
        return
    coco = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        coco.dataset = json.loads(json.dumps(report.splits["train"]))
        coco.createIndex()
        for annotation in coco.anns.values():
            image = coco.imgs[annotation["image_id"]]
            if annotation.get("segmentation") and image["width"] * image["height"] < 1e7:
                mask = coco.annToMask(annotation)
                assert mask.shape == (image["height"], image["width"])
            assert min(annotation["bbox"][2:]) > 0
            assert annotation["area"] > 0
            assert np.isfinite([*annotation["bbox"], annotation["area"]]).all()
