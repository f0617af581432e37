"""Every detector of the zoo: what depends on the classes is found by building twice, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_zoo import class_dependent, state

from models.errors import WeightsError
from models.weights.containers import Checkpoint
from models.weights.planning import plan_load
from models.weights.rules import LoadRules, matching
from models.zoo import DETECTORS

NAMES = sorted(DETECTORS)
OURS = ("cat", "RBC", "tvmonitor")
THEIRS = ("dog", "tv", "person", "Cat", "kite", "bus", "car")


def opened(name: str, classes: tuple[str, ...] | None) -> Checkpoint:
    return Checkpoint(Path("foreign.pth"), "torch-zip", state(name, 7), classes)


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_class_count_skips_exactly_what_depends_on_the_classes(name: str) -> None:
    plan = plan_load(state(name, 3), DETECTORS[name], OURS, opened(name, None))

    not_copied = {tensor.key for tensor in plan.tensors if tensor.action != "copied"}
    assert not_copied == class_dependent(name)
    assert not_copied
    by_rows = {tensor.key for tensor in plan.tensors if tensor.action == "rows"}
    assert by_rows == (not_copied if name.startswith("yolo") else set())  # its box and objectness rows are no class's


@pytest.mark.parametrize("name", NAMES)
def test_shared_classes_move_in_every_head(name: str) -> None:
    plan = plan_load(state(name, 3), DETECTORS[name], OURS, opened(name, THEIRS))

    by_rows = {tensor.key for tensor in plan.tensors if tensor.action == "rows"}
    assert by_rows == class_dependent(name)
    assert plan.classes.shared == ("cat", "tvmonitor")
    assert plan.coverage.backbone == plan.coverage.neck == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_reset_starts_all_classes_anew(name: str) -> None:
    plan = plan_load(state(name, 3), DETECTORS[name], OURS, opened(name, THEIRS), LoadRules(classes="reset"))

    by_rows = {tensor.key for tensor in plan.tensors if tensor.action == "rows"}
    assert by_rows == (class_dependent(name) if name.startswith("yolo") else set())
    assert plan.classes.shared == ()


@pytest.mark.parametrize("name", NAMES)
def test_fields_mean_the_head_and_never_the_proposals(name: str) -> None:
    detector, keys = DETECTORS[name], list(state(name, 3))
    held = {key for field in detector.fields for key in matching(field, detector, keys)}

    assert class_dependent(name) <= held
    assert not any(key.startswith(("rpn.", "backbone.", "neck.")) for key in held)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("fasterrcnn_resnet50_fpn", ["cls_score", "bbox_pred"]),
        ("cascade_rcnn_resnet50_fpn", ["cls_score", "bbox_pred"]),
        ("maskrcnn_resnet50_fpn", ["cls_score", "bbox_pred", "mask_fcn_logits"]),
        ("cascade_mask_rcnn_resnet50_fpn", ["cls_score", "bbox_pred", "mask_fcn_logits"]),
        ("retinanet_resnet50_fpn", ["retnet_cls_pred_fpn"]),
        ("ssd300_vgg16", ["^conv2d_"]),
        ("yolov3_darknet53", ["yolo_output"]),
    ],
)
def test_paddledetections_table_works_verbatim(name: str, fields: list[str]) -> None:
    if name not in DETECTORS:
        pytest.skip(f"{name} is not in the zoo")
    rules = LoadRules(exclude=tuple(fields))
    plan = plan_load(state(name, 3), DETECTORS[name], OURS, opened(name, THEIRS), rules)

    skipped = {tensor.key: tensor.reason for tensor in plan.tensors if tensor.action == "skipped"}
    assert class_dependent(name) <= set(skipped)
    assert {reason for reason in skipped.values() if reason} == {f"excluded by {field!r}" for field in fields}
    assert plan.coverage.backbone == plan.coverage.neck == 1.0


def test_the_wrong_detectors_field_names_the_right_ones() -> None:
    name = "retinanet_resnet50_fpn"
    with pytest.raises(WeightsError, match="its fields are retnet_cls_pred_fpn"):
        matching("bbox_prediction", DETECTORS[name], list(state(name, 3)))
