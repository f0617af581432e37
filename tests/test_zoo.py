from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torchvision.models.detection

from models.errors import DetectorError
from models.zoo import DETECTORS, DetectorOptions, build_detector, get_detector, resolve_options, zoo_table

NAMES = sorted(DETECTORS)


def shapes(name: str, num_classes: int) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {
            key: value.shape
            for key, value in build_detector(DetectorOptions(name=name), num_classes).state_dict().items()
        }


@pytest.mark.parametrize("name", NAMES)
def test_class_rows_are_exactly_the_tensors_that_depend_on_the_classes(name: str) -> None:
    detector = DETECTORS[name]
    few, many = shapes(name, 3), shapes(name, 6)

    changed = {key for key in few if few[key] != many[key]}

    assert changed == {key for key in few if detector.rows_of(key)}
    for key in changed:
        rows = detector.rows_of(key)
        assert rows is not None
        groups = {
            shape[0] / (rows.fixed + rows.per_class * (classes if rows.background else classes - 1))
            for shape, classes in ((few[key], 3), (many[key], 6))
        }
        assert len(groups) == 1
        assert groups.pop().is_integer()


@pytest.mark.parametrize("name", NAMES)
def test_every_field_of_the_seed_hits_something_and_never_the_proposal_network(name: str) -> None:
    keys = shapes(name, 3)
    for field, pattern in DETECTORS[name].fields.items():
        hits = [key for key in keys if re.fullmatch(pattern, key)]
        assert hits, field
        assert not [key for key in hits if key.startswith("rpn.")]


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_and_part_is_there(name: str) -> None:
    detector, keys = DETECTORS[name], shapes(name, 3)
    for stage in detector.stages:
        assert any(re.match(stage, key) for key in keys), stage
    assert {detector.part_of(key) for key in keys} == {"backbone", "neck", "head"}
    assert {detector.part_of(key) for key in keys if detector.rows_of(key)} == {"head"}


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(DetectorError, match="Did you mean 'retinanet_resnet50_fpn'"):
        get_detector("retinanet_resnet50")


def test_an_option_that_the_detector_does_not_have_is_refused() -> None:
    with pytest.raises(DetectorError, match="ssd300_vgg16 has no option 'rois_per_image'"):
        resolve_options(DetectorOptions(name="ssd300_vgg16", rois_per_image=64))


@pytest.mark.parametrize("name", NAMES)
def test_resolved_options_resolve_to_themselves(name: str) -> None:
    resolved = resolve_options(
        DetectorOptions(name=name), DETECTORS[name].pretrained[0].source if DETECTORS[name].pretrained else None
    )
    assert resolve_options(resolved) == resolved
    assert DetectorOptions(**resolved.model_dump()) == resolved


def test_the_epsilon_follows_the_checkpoint_and_from_scratch_everything_trains() -> None:
    options = DetectorOptions(name="fasterrcnn_resnet50_fpn")
    assert resolve_options(options, "torchvision://FasterRCNN_ResNet50_FPN_Weights.COCO_V1").norm_eps == 0.0
    assert resolve_options(options, "https://example.org/other.pth").norm_eps == 1e-5
    scratch = resolve_options(options, pretrained=False)
    assert (scratch.norm, scratch.trainable_layers) == ("batch", 5)
    with torch.device("meta"):
        model = build_detector(scratch, 3)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name in NAMES if "aspect_ratios" in DETECTORS[name].options])
def test_anchors_and_their_shapes_are_those_of_the_recipe(name: str) -> None:
    levels = len(DETECTORS[name].options["anchors"])
    sizes = tuple(tuple(2.0 ** (level + step) for step in range(2)) for level in range(levels))
    with torch.device("meta"):
        model = build_detector(DetectorOptions(name=name, anchors=sizes, aspect_ratios=(0.25, 1.0)), 3)
    made = model.rpn.anchor_generator if hasattr(model, "rpn") else model.anchor_generator
    head = model.rpn.head.cls_logits if hasattr(model, "rpn") else model.head.classification_head.cls_logits

    assert (made.sizes, made.aspect_ratios) == (sizes, ((0.25, 1.0),) * levels)
    assert head.out_channels == 4 * (1 if hasattr(model, "rpn") else 3)


def test_more_stages_than_there_are_is_refused() -> None:
    with pytest.raises(DetectorError, match="trainable_layers 6 of 5"):
        resolve_options(DetectorOptions(trainable_layers=6))


def test_the_table_has_a_row_for_every_detector_with_the_published_number_of_parameters() -> None:
    rows = {row.name: row for row in zoo_table()}
    assert list(rows) == list(DETECTORS)
    for name, row in rows.items():
        for source in row.weights:
            if source.startswith("torchvision://"):
                published = weights_enum(source).meta
                # The second versions count the weights of the live norms that are frozen here.
                assert row.parameters == published["num_params"] or name.endswith("_v2")
                assert published["_metrics"]["COCO-val2017"]["box_map"] == row.box_ap
                assert published["_metrics"]["COCO-val2017"].get("mask_map") == row.mask_ap
    assert rows["yolov3_darknet53"].fields == ("yolo_output",)
    assert rows["cascade_mask_rcnn_resnet50_fpn"].mask_ap == 38.5


@pytest.mark.parametrize(
    "name", [name for name in NAMES if any("torchvision" in p.source for p in DETECTORS[name].pretrained)]
)
def test_a_published_state_dict_would_fit(name: str) -> None:
    build = getattr(torchvision.models.detection, name)
    with torch.device("meta"):
        theirs = build(weights=None, weights_backbone=None, num_classes=91).state_dict()
    theirs = {key: value.shape for key, value in theirs.items()}
    ours = shapes(name, 91)
    assert {key: theirs[key] for key in ours} == ours
    assert all(key.endswith("num_batches_tracked") for key in theirs.keys() - ours.keys())


def weights_enum(source: str) -> Any:
    enum, member = source.removeprefix("torchvision://").split(".")
    return getattr(torchvision.models.detection, enum)[member]
