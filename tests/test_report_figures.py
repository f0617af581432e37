"""The figures behind the report: matching, findings, plans, curves, matrices, charts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from models.report.findings import findings
from models.report.loading import loading_figures
from models.report.matching import match_images, operation
from models.report.page import signed
from models.report.pictures import picture
from models.report.results import confusion, error_kinds
from models.report.shapes import mask_path
from models.report.svg import Line, line_chart, short, ticks
from models.report.training import duration, thin, training_figures


def image_with(truths: list[list[float]], found: list[tuple[list[float], float, int]], crowd: int = 0) -> Any:
    coco = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}
    annotations = [{"image_id": 1, "category_id": 1, "bbox": box, "iscrowd": crowd} for box in truths]
    detections = [{"image_id": 1, "category_id": c, "bbox": box, "score": score} for box, score, c in found]
    return match_images({**coco, "annotations": annotations}, detections)[0]


def test_an_object_is_found_once_by_the_surest_box_of_its_class() -> None:
    box = [10.0, 10.0, 20.0, 20.0]
    image = image_with([box], [(box, 0.5, 1), (box, 0.9, 1), (box, 0.95, 2), ([60.0, 60.0, 5.0, 5.0], 0.7, 1)])
    assert [(f.score, f.right) for f in image.found] == [(0.95, False), (0.9, True), (0.7, False), (0.5, False)]
    assert image.truths[0].found == 0.9
    assert (image.mistakes(0.8), image.missed(0.8), image.missed(0.92)) == (1, 0, 1)
    assert image.f1(0.8) == pytest.approx(2 / 3)


def test_iou_of_one_half_is_enough_and_less_is_not() -> None:
    assert image_with([[0, 0, 10, 10]], [([0, 0, 10, 5], 0.9, 1)]).found[0].right is True
    assert image_with([[0, 0, 10, 10]], [([0, 0, 10, 4.9], 0.9, 1)]).found[0].right is False


def test_a_crowd_takes_detections_without_judging_them() -> None:
    image = image_with([[0, 0, 100, 100]], [([10, 10, 5, 5], 0.9, 1), ([20, 20, 5, 5], 0.8, 1)], crowd=1)
    assert [f.right for f in image.found] == [None, None]
    assert image.missed(0.5) == 0


def test_the_best_score_to_cut_at_has_the_highest_f1() -> None:
    box = [10.0, 10.0, 20.0, 20.0]
    matched = [image_with([box], [(box, 0.72, 1), ([60.0, 60.0, 5.0, 5.0], 0.41, 1)]) for _ in range(4)]
    cut = operation(matched)
    assert cut
    assert cut.scores[cut.best] == 0.7
    assert (cut.precision[cut.best], cut.recall[cut.best]) == (1.0, 1.0)
    assert (cut.precision[0], cut.recall[0]) == (0.5, 1.0)
    assert operation([image_with([], [])]) is None
    assert cut.useful
    assert max(cut.scores) == 0.7, "above it there is nothing to be precise about"
    crowd = image_with([[0, 0, 100, 100]], [([10, 10, 5, 5], 0.9, 1)], crowd=1)
    assert operation([*matched, crowd]) == cut, "a crowd is no object to find"


def test_findings_count_what_is_told_and_else_what_is_listed() -> None:
    problems = [{"rule": "tiny", "severity": "warning", "message": "small", "file": "/srv/data/a.jpg"}] * 2
    listed = findings({"problems": problems})
    assert [(f.rule, f.count, f.examples[0]) for f in listed] == [("tiny", 2, "…/a.jpg")]
    told = findings(
        {
            "problems": problems,
            "rules": {"tiny": {"count": 90, "severity": "warning"}, "bad": {"severity": "error", "count": 1}},
        }
    )
    assert [(f.rule, f.count) for f in told] == [("bad", 1), ("tiny", 90)]
    mended = findings({"rules": {"bad": {"severity": "error", "count": 1, "repaired": 1}, "odd": {"count": 2}}})
    assert [(f.rule, f.stands) for f in mended] == [("odd", True), ("bad", False)]


def test_a_plan_adds_up() -> None:
    rows = {"key": "head.w", "shape": [10, 2], "part": "head", "action": "rows", "rows": [4, 10], "reason": "2 shared"}
    kept = {"key": "backbone.w", "shape": [5], "part": "backbone", "action": "copied"}
    lost = {"key": "head.b", "shape": [], "part": "head", "action": "skipped", "reason": "not in the checkpoint"}
    loading = loading_figures({"tensors": [kept, rows, lost]})
    assert loading
    assert [part.name for part in loading.parts] == ["backbone", "head"]
    assert loading.parts[1].shares["rows"] == pytest.approx(8 / 21)
    assert loading.coverage == pytest.approx(13 / 26)
    assert [reason[0] for reason in loading.reasons] == ["2 shared", "not in the checkpoint"]
    assert loading_figures({}) is None


def test_an_evaluation_before_the_first_step_is_the_first_point() -> None:
    told = training_figures([{"event": "eval", "step": n, "metrics": {"bbox/AP": n / 10 + 0.1}} for n in (0, 3)])
    assert told
    assert "AP from 10 to 40" in told.charts[0]


def test_a_large_matrix_keeps_the_most_confused_classes() -> None:
    size = 41
    matrix = [[0] * size for _ in range(size)]
    matrix[30][31] = 7
    found = confusion({"confusion": {"labels": [*map(str, range(40)), "background"], "matrix": matrix}})
    assert found
    assert {"30", "31", "background"} <= set(found.labels)
    assert len(found.labels) == 26
    assert found.left_out == 15
    assert confusion({"confusion": {"labels": ["a", "background"], "matrix": [[1]]}}) is None


def test_kinds_of_error_are_ranked_by_what_they_cost() -> None:
    told = {"background": {"count": 9000, "AP50_gain": 0.01}, "class": {"count": 7, "AP50_gain": 0.08}}
    assert [(kind.name, kind.share) for kind in error_kinds({"errors": told})] == [
        ("class", 1.0),
        ("background", 0.125),
    ]


def test_kinds_of_error_may_be_counts_alone() -> None:
    assert [(kind.name, kind.count, kind.gain) for kind in error_kinds({"errors": {"a": 1, "b": {"count": 3}}})] == [
        ("b", 3.0, None),
        ("a", 1.0, None),
    ]


def test_charts_survive_flat_and_short_curves() -> None:
    assert "NaN" not in line_chart([Line("flat", [1, 2], [0.0, 0.0])], title="t", x_label="x", y_low=0.0)
    assert "circle" in line_chart([Line("one", [1], [3.0])], title="t", x_label="x")
    assert line_chart([], title="t", x_label="x") == ""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (0, 97, [0, 25, 50, 75]), (3, 3, [3]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_thinning_keeps_the_mean() -> None:
    x, y = thin([float(n) for n in range(1000)], [1.0] * 1000, most=100)
    assert len(x) == 100
    assert set(y) == {1.0}
    assert sum(x) / 100 == 499.5


SQUARE = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]]


def runs(*, compressed: bool) -> dict[str, Any]:
    """The square as run lengths of a picture of 40 x 50 pixels."""
    made = coco_mask.frPyObjects(SQUARE, 40, 50)[0]
    if compressed:
        return {"size": [40, 50], "counts": made["counts"].decode()}
    flat = np.zeros((40, 50), np.uint8)
    flat[10:30, 10:30] = 1
    edges = np.flatnonzero(np.diff(flat.ravel(order="F"), prepend=0)).tolist()
    return {"size": [40, 50], "counts": np.diff([0, *edges, 2000]).tolist()}


@pytest.mark.parametrize("segmentation", [SQUARE, runs(compressed=True), runs(compressed=False)])
def test_a_mask_is_drawn_from_polygons_and_from_run_lengths(segmentation: Any) -> None:
    path = mask_path(segmentation, 40, 50)
    points = {tuple(map(float, point.split(","))) for point in re.findall(r"[\d.]+,[\d.]+", path)}
    assert points == {(10, 10), (30, 10), (30, 30), (10, 30)}


@pytest.mark.parametrize(
    "segmentation",
    [
        None, [], [[1, 2]], [["<b>", 1, 2, 3]], [[1, 2, 3]], {"size": [10**9, 10**9], "counts": "x"},
        {"size": [40, 50]}, {"counts": [2000]}, [{"a": 1}], 7,
    ],
)  # fmt: skip
def test_what_is_no_mask_draws_nothing(segmentation: Any) -> None:
    assert mask_path(segmentation, 40, 50) == ""


def test_both_sides_show_their_masks(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    row = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [{**row, "id": 1, "segmentation": SQUARE}],
    }
    (matched,) = match_images(coco, [{**row, "score": 0.9, "segmentation": runs(compressed=True)}])

    both = picture(matched, tmp_path, 0.5, "p")

    assert both is not None
    for side in (both.truth, both.found):
        assert side.count('<path class="mask" d="M') == 1
        assert 'transform="scale(9.60000)"' in side


SIGNS = {0.012: "+1.2", -0.012: "\N{MINUS SIGN}1.2", -0.0004: "0.0", 0.0: "0.0", None: "\N{EN DASH}"}


@pytest.mark.parametrize(("change", "said"), SIGNS.items())
def test_a_change_too_small_to_show_has_no_sign(change: float | None, said: str) -> None:
    assert signed(change) == said


def test_the_time_of_a_run_is_that_of_the_steps_that_count_and_of_its_evaluations() -> None:
    again = {"event": "step", "step": 10, "seconds": 900.0}  # lost in a crash, and done again
    lines = [again, again, {"event": "eval", "step": 10, "metrics": {}, "seconds": 45.2}]
    told = training_figures(lines)
    assert told is not None
    assert ("Time, evaluations included", "15 min 45 s") in told.facts
    shown = {3: "3 s", 59.6: "1 min 0 s", 7200: "2 h 0 min", 263_000: "3 d 1 h"}
    assert {seconds: duration(seconds) for seconds in shown} == shown


def test_the_numbers_of_an_axis_fit_beside_it() -> None:
    values = (0, 1e-9, 2.5e-5, 0.0004, 0.00025, 0.001, 0.0125, 0.25, 3, 42, 999, 1500, 2.5e6)
    assert max(len(short(value)) for value in values) <= 6  # what LEFT has room for
    assert [short(value) for value in values[1:5]] == ["1e-9", "2.5e-5", "4e-4", "2.5e-4"]
