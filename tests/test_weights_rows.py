from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from models.weights.classes import COCO, COCO_BY_ID, VOC, canonical, shared_classes, without_background
from models.weights.rows import SourceRows, as_runs, class_count, group_count, permuted_rows, row_sources
from models.zoo.detector import ClassRows

NAMES = ["person", "cat", "dog", "tv", "couch", "airplane", "kite", "RBC"]
SPELLED = {"tv": "tvmonitor", "couch": "Sofa", "airplane": "aeroplane", "person": "PERSON"}


def named_rows(
    layout: ClassRows, classes: list[str], background: str, groups: tuple[int, ...], inner: tuple[int, ...]
) -> list[Any]:
    """What every row of a head stands for, written down from the layouts' definition alone."""
    slots = list(classes)
    if background == "first":
        slots = ["background", *slots]
    if background == "last":
        slots = [*slots, "background"]
    rows: list[Any] = []
    for group in groups:
        rows += [(group, "fixed", row) for row in range(layout.fixed)]
        rows += [(group, canonical(slot), row) for slot in slots for row in inner]
    return rows


@st.composite
def heads(draw: st.DrawFn) -> dict[str, Any]:
    groups = draw(st.integers(1, 4))
    per_class = draw(st.sampled_from([1, 4]))
    layout = ClassRows("", per_class, draw(st.sampled_from([0, 5])), draw(st.booleans()))
    mine = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    theirs = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    return {
        "layout": layout,
        "mine": mine,
        "theirs": [SPELLED.get(name, name) for name in theirs],
        "background": draw(st.sampled_from(["first", "last", "none"])),
        "order": tuple(draw(st.permutations(range(groups)))),
        "inner": tuple(draw(st.permutations(range(per_class)))),
    }


def moved(head: dict[str, Any]) -> tuple[list[Any], list[Any], Tensor, Tensor, Tensor]:
    """Names of the model's and the checkpoint's rows, its initial weight, the checkpoint's, and the filled one."""
    layout, groups = head["layout"], len(head["order"])
    mine = named_rows(
        layout,
        head["mine"],
        "first" if layout.background else "none",
        tuple(range(groups)),
        tuple(range(layout.per_class)),
    )
    # The checkpoint's group order[g] is our group g, its row inner[k] our row k.
    outer = sorted(range(groups), key=head["order"].__getitem__)
    inside = sorted(range(layout.per_class), key=head["inner"].__getitem__)
    theirs = named_rows(layout, head["theirs"], head["background"], tuple(outer), tuple(inside))
    torch.manual_seed(0)
    initial, weight = torch.randint(-9, 9, (len(mine), 6)).float(), torch.randint(-9, 9, (len(theirs), 6)).float()
    source = SourceRows(head["background"], head["order"], head["inner"])
    shared = shared_classes(head["mine"], head["theirs"])
    counts = (len(head["mine"]), len(head["theirs"]))
    filled = initial.clone()
    for to, origin, count in as_runs(row_sources(layout, groups, source, counts, shared)):
        filled[to : to + count] = weight[origin : origin + count]
    return mine, theirs, initial, weight, filled


@given(heads())
@settings(max_examples=300, deadline=None)
def test_logits_of_shared_classes_are_the_checkpoints_to_the_bit(head: dict[str, Any]) -> None:
    mine, theirs, initial, weight, filled = moved(head)
    features = torch.randint(-9, 9, (5, 6)).float()  # whole numbers: exact whatever the order of the sums
    after, before, untouched = (functional.linear(features, rows) for rows in (filled, weight, initial))

    any_shared = bool(shared_classes(head["mine"], head["theirs"]))
    for row, name in enumerate(mine):
        class_free = name[1] == "fixed"
        known = name in theirs and (any_shared or class_free)
        expected = before[:, theirs.index(name)] if known else untouched[:, row]
        assert torch.equal(after[:, row], expected), name


@given(heads())
@settings(max_examples=100, deadline=None)
def test_counts_are_read_back_from_the_number_of_rows(head: dict[str, Any]) -> None:
    mine, theirs, *_ = moved(head)
    groups = group_count(len(mine), head["layout"], len(head["mine"]))
    assert groups == len(head["order"])
    assert class_count(len(theirs), groups, head["layout"], head["background"]) == len(head["theirs"])


@pytest.mark.parametrize("rows", [0, 1, 3, 23])
def test_rows_that_no_number_of_classes_explains_have_none(rows: int) -> None:
    assert class_count(rows, 3, ClassRows("", fixed=5, background=False), "none") is None


def test_box_offsets_with_y_first_and_anchors_by_size() -> None:
    source = SourceRows(groups=(1, 0), inner=(1, 0, 3, 2), unit=4)
    assert permuted_rows(8, source) == [5, 4, 7, 6, 1, 0, 3, 2]
    assert as_runs([5, None, 2, 3, 4, None, None, 0]) == ((0, 5, 1), (2, 2, 3), (7, 0, 1))


def test_the_published_lists() -> None:
    assert (len(COCO), len(COCO_BY_ID), len(VOC)) == (80, 90, 20)
    assert [COCO_BY_ID[index - 1] for index in (1, 13, 44, 62, 72, 84, 90)] == [
        "person",
        "stop sign",
        "bottle",
        "chair",
        "tv",
        "book",
        "toothbrush",
    ]
    assert len(shared_classes(VOC, COCO)) == 20  # every class of VOC is one of COCO's under some spelling


@pytest.mark.parametrize(
    ("mine", "theirs", "shared"),
    [
        (["tv"], ["tvmonitor"], {0: 0}),
        (["Potted-Plant"], ["pottedplant"], {0: 0}),
        (["traffic_light"], ["traffic light"], {0: 0}),
        (["bike"], ["bicycle", "motorbike"], {}),
        (["N/A"], ["N/A"], {}),
        (["tvmonitor"], ["tv", "tvmonitor"], {0: 1}),
        (["dog", "cat"], ["cat", "cat"], {1: 0}),
    ],
)
def test_spellings(mine: list[str], theirs: list[str], shared: dict[int, int]) -> None:
    assert shared_classes(mine, theirs) == shared


def test_a_named_background_is_no_class() -> None:
    assert without_background(["__background__", "a"]) == without_background(["a", "background"]) == ("a",)
