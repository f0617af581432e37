"""Key maps against the key lists (names and shapes) of the real frameworks, in ``framework_keys.json.gz``.

Made by building each model in its own framework: mmdetection 3.3.0, detectron2 (main), PaddleDetection and PaddleClas
(develop) on PaddlePaddle 3.3.1, PaddleDetection 0.4 and PaddleClas's static branch on
PaddlePaddle 1.8.5, ChainerCV (master) on Chainer 7.8.1; then ``{key: list(tensor.shape)}``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import timm
import torch
import torchvision
from helpers_weights import FRAMEWORK_KEYS
from torch import Tensor, nn
from torchvision.models.detection import ssd, ssdlite
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

from models.errors import WeightsError
from models.weights.apply import apply_plan
from models.weights.classes import COCO, COCO_BY_ID, VOC
from models.weights.containers import Checkpoint
from models.weights.keymaps import KEY_MAPS
from models.weights.plan import LoadPlan
from models.weights.planning import plan_load
from models.weights.rules import KeyMapName, LoadRules
from models.zoo import DETECTORS, DetectorOptions, build_detector
from models.zoo.detector import Detector

FASTER, MASK, CASCADE = "fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "cascade_rcnn_resnet50_fpn"
CASCADE_MASK, RETINANET, SSD300 = "cascade_mask_rcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssd300_vgg16"
P6 = ["backbone.fpn.extra_blocks.p6.weight", "backbone.fpn.extra_blocks.p6.bias"]
SSD512, YOLOV3 = "ssd512_vgg16", "yolov3_darknet53"


def checkpoint(shapes: dict[str, list[int]]) -> Checkpoint:
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    return Checkpoint(Path("published.pth"), "torch-zip", tensors)


@cache
def model_on_meta(detector: str, classes: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        if detector == SSD512:
            return ssd512(classes + 1).state_dict()
        state: dict[str, Tensor] = build_detector(DetectorOptions(name=detector), classes + 1).state_dict()
    return state


def ssd512(num_classes: int) -> nn.Module:
    """SSD512, which the zoo does not have, of torchvision's parts: they know its feature maps (``highres``)."""
    boxes = DefaultBoxGenerator([[2], [2, 3], [2, 3], [2, 3], [2, 3], [2], [2]])
    backbone = ssd._vgg_extractor(torchvision.models.vgg16(weights=None), True, 5)
    return ssd.SSD(backbone, boxes, (512, 512), num_classes)


def planned(name: str, detector: str, classes: tuple[str, ...], **rules: Any) -> LoadPlan:
    model = model_on_meta(detector, len(classes))
    entry = DETECTORS[SSD300 if detector == SSD512 else detector]
    return plan_load(model, entry, classes, checkpoint(FRAMEWORK_KEYS[name]), LoadRules(**rules))


def missing(plan: LoadPlan) -> list[str]:
    return [t.key for t in plan.tensors if t.action == "skipped" and "num_batches_tracked" not in t.key]


def unexpected(plan: LoadPlan) -> list[str]:
    return [tensor.key for tensor in plan.unused if "num_batches_tracked" not in tensor.key]


@pytest.mark.parametrize(
    ("name", "detector", "classes", "key_map"),
    [
        ("mmdetection/faster_rcnn_r50_fpn", FASTER, COCO, "mmdetection"),
        ("mmdetection/mask_rcnn_r50_fpn", MASK, COCO, "mmdetection"),
        ("mmdetection/cascade_rcnn_r50_fpn", CASCADE, COCO, "mmdetection"),
        ("mmdetection/cascade_mask_rcnn_r50_fpn", CASCADE_MASK, COCO, "mmdetection"),
        ("mmdetection/ssd300", SSD300, COCO, "mmdetection"),
        ("mmdetection/ssd512", SSD512, COCO, "mmdetection"),
        ("mmdetection/yolov3_d53", YOLOV3, COCO, "mmdetection"),
        ("detectron2/faster_rcnn_R_50_FPN", FASTER, COCO, "detectron2"),
        ("detectron2/mask_rcnn_R_50_FPN", MASK, COCO, "detectron2"),
        ("detectron2/cascade_mask_rcnn_R_50_FPN", CASCADE_MASK, COCO, "detectron2"),
        ("paddledetection/faster_rcnn_r50_fpn", FASTER, COCO, "paddle"),
        ("paddledetection/mask_rcnn_r50_fpn", MASK, COCO, "paddle"),
        ("paddledetection/cascade_rcnn_r50_fpn", CASCADE, COCO, "paddle"),
        ("paddledetection/cascade_mask_rcnn_r50_fpn", CASCADE_MASK, COCO, "paddle"),
        ("paddledetection/retinanet_r50_fpn", RETINANET, COCO, "paddle"),
        ("paddledetection/yolov3_darknet53", YOLOV3, COCO, "paddle"),
        ("paddledetection/ssd_vgg16_300", SSD300, VOC, "paddle"),
        ("paddledetection-0.4/faster_rcnn_r50_fpn", FASTER, COCO, "paddle-static"),
        ("paddledetection-0.4/mask_rcnn_r50_fpn", MASK, COCO, "paddle-static"),
        ("paddledetection-0.4/yolov3_darknet", YOLOV3, COCO, "paddle-static"),
        ("chainercv/ssd300", SSD300, VOC, "chainercv"),
        ("chainercv/ssd512", SSD512, VOC, "chainercv"),
    ],
)
def test_every_tensor_of_the_framework_finds_its_place(
    name: str, detector: str, classes: tuple[str, ...], key_map: str
) -> None:
    plan = planned(name, detector, classes, force=key_map == "detectron2")

    assert (missing(plan), unexpected(plan)) == ([], [])
    assert plan.key_map == key_map
    assert plan.classes.shared == classes
    assert plan.coverage.elements > 0.999  # the background has no box rows in most of them


@pytest.mark.parametrize("name", ["mmdetection/retinanet_r50_fpn", "detectron2/retinanet_R_50_FPN"])
def test_a_retinanet_whose_sixth_level_comes_from_elsewhere_keeps_all_but_that(name: str) -> None:
    plan = planned(name, RETINANET, COCO, force=True)
    assert missing(plan) == P6
    assert plan.coverage.head > 0.98


@pytest.mark.parametrize(("name", "detector", "p6"), [
    ("cascade_rcnn_r50_fpn", CASCADE, []),
    ("cascade_mask_rcnn_r50_fpn", CASCADE_MASK, []),
    ("retinanet_r50_fpn", RETINANET, P6),
])  # fmt: skip
def test_an_affine_channel_leaves_the_statistics_as_they_are(name: str, detector: str, p6: list[str]) -> None:
    plan = planned(f"paddledetection-0.4/{name}", detector, COCO)
    assert [key for key in missing(plan) if ".running_" not in key] == p6
    assert len(unexpected(plan)) == len(p6)
    boxes = [tensor.runs for tensor in plan.tensors if tensor.key.endswith("bbox_pred.weight") and "roi" in tensor.key]
    assert boxes == ([] if detector == RETINANET else [((0, 4, 4),)] * 3)


def test_three_mask_heads_come_from_one() -> None:
    plan = planned("detectron2/cascade_mask_rcnn_R_50_FPN", CASCADE_MASK, COCO, force=True)
    sources = [t.source for t in plan.tensors if t.key.endswith("conv5_mask.weight")]
    assert sources == ["roi_heads.mask_head.deconv.weight"] * 3


def test_a_detectron2_resnet_is_refused_for_its_strides_and_colours() -> None:
    with pytest.raises(WeightsError, match=r"strides in the 1x1 .* BGR"):
        planned("detectron2/faster_rcnn_R_50_FPN", FASTER, COCO)


@pytest.mark.parametrize(("detector", "backbone", "unused"), [
    (FASTER, "resnet50", {"fc.weight", "fc.bias"}),
    (RETINANET, "resnet50", {"fc.weight", "fc.bias"}),
    ("fasterrcnn_mobilenet_v3_large_fpn", "mobilenet_v3_large", {"classifier"}),
    ("yolov3_mobilenet_v3", "mobilenet_v3_large", {"classifier"}),
    (SSD300, "vgg16", {"classifier"}),
    ("ssdlite320_mobilenet_v3_large", "mobilenet_v3_large", {"classifier", "features"}),
])  # fmt: skip
def test_a_torchvision_classifier_gives_its_backbone(detector: str, backbone: str, unused: set[str]) -> None:
    with torch.device("meta"):
        source = torchvision.models.get_model(backbone, weights=None).state_dict()
    file = Checkpoint(Path("backbone.pth"), "torch-zip", source)
    plan = plan_load(model_on_meta(detector, 3), DETECTORS[detector], "abc", file)

    assert plan.key_map == "backbone"
    assert plan.coverage.backbone > (0.53 if detector in (SSD300, "ssdlite320_mobilenet_v3_large") else 0.999)
    assert plan.coverage.head == 0
    names = {key if key in unused else key.partition(".")[0] for key in unexpected(plan)}
    assert names == unused
    reasons = {tensor.key: tensor.reason for tensor in plan.unused}
    assert {reasons[key] for key in reasons if key.startswith(("fc", "cl"))} == {"the classifier of another task"}


@pytest.mark.parametrize("name", ["resnet50d", "convnext_tiny", "efficientnet_b0", "regnety_008"])
def test_a_timm_classifier_gives_its_backbone(name: str) -> None:
    with torch.device("meta"):
        source = timm.create_model(name).state_dict()
        model = build_detector(DetectorOptions(name=FASTER, backbone=f"timm://{name}"), 4)
    plan = plan_load(model, DETECTORS[FASTER], "abc", Checkpoint(Path("timm.safetensors"), "safetensors", source))

    assert plan.key_map == "backbone"
    assert plan.coverage.backbone == 1.0


@pytest.mark.parametrize("detector", ["fasterrcnn_mobilenet_v3_large_fpn", SSD300, "ssdlite320_mobilenet_v3_large"])
def test_backbone_tensors_land_where_torchvision_puts_them(detector: str) -> None:
    """torchvision wraps the very modules of its classifier: tensor for tensor the same, counted by value."""
    with torch.device("meta"):
        source = torchvision.models.get_model("vgg16" if detector == SSD300 else "mobilenet_v3_large", weights=None)
    source.classifier = nn.Identity()
    source.to_empty(device="cpu")
    for number, tensor in enumerate(source.state_dict().values()):
        tensor.fill_(number)
    file = Checkpoint(Path("backbone.pth"), "torch-zip", source.state_dict())
    wrapped = _wrapped_by_torchvision(detector, source)
    state = {key: torch.full(tensor.shape, -1.0) for key, tensor in model_on_meta(detector, 3).items()}

    plan = plan_load(state, DETECTORS[detector], "abc", file)
    result = apply_plan(plan, state, file)

    moved = [tensor.key for tensor in plan.tensors if tensor.action == "copied"]
    assert len(moved) > 20
    assert all(torch.equal(result[key], wrapped[key]) for key in moved)


def _wrapped_by_torchvision(detector: str, backbone: nn.Module) -> dict[str, Tensor]:
    if detector == SSD300:
        wrapped: nn.Module = ssd._vgg_extractor(backbone, False, 5)
    elif detector.startswith("ssdlite"):
        wrapped = ssdlite._mobilenet_extractor(backbone, 6, nn.BatchNorm2d)
    else:
        return {key.replace("features", "backbone.body"): tensor for key, tensor in backbone.state_dict().items()}
    return {f"backbone.{key}": tensor for key, tensor in wrapped.state_dict().items()}


CLASSIFIER = Detector(
    name="resnet50d", title="", build=lambda n, options: nn.Identity(), class_rows=(), fields={},
    parts=((r"(?!fc\.)", "backbone"),),
)  # fmt: skip


@pytest.mark.parametrize(("name", "key_map"), [("paddleclas", "paddle"), ("paddleclas-static", "paddle-static")])
def test_paddleclas_resnet50_vd_is_timms_resnet50d(name: str, key_map: str) -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet50d", pretrained=False)
    plan = plan_load(model, CLASSIFIER, (), checkpoint(FRAMEWORK_KEYS[f"{name}/resnet50_vd"]))

    assert (missing(plan), unexpected(plan), plan.key_map) == ([], [], key_map)
    assert [t.key for t in plan.tensors if t.transpose] == ["fc.weight"]


def test_files_from_before_torchvision_0_12_are_renamed() -> None:
    """The published COCO files; torchvision renames in ``RPNHead._load_from_state_dict`` and its siblings."""
    model = model_on_meta(MASK, 90)
    old = {_old_name(key): tensor for key, tensor in model.items()}
    assert len(set(old) - set(model)) == 2 + 16 + 8
    file = Checkpoint(Path("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"), "torch-zip", old)
    plan = plan_load(model, DETECTORS[MASK], COCO_BY_ID, file)
    assert (missing(plan), unexpected(plan), plan.key_map, plan.renamed) == ([], [], "name", 26)


def _old_name(key: str) -> str:
    key = key.replace("rpn.head.conv.0.0", "rpn.head.conv")
    for kind in ("inner", "layer"):
        for level in range(4):
            key = key.replace(f"fpn.{kind}_blocks.{level}.0", f"fpn.{kind}_blocks.{level}")
    for number in range(4):
        key = key.replace(f"mask_head.{number}.0", f"mask_head.mask_fcn{number + 1}")
    return key


def test_a_pyramid_does_not_slip_by_a_level() -> None:
    """An R-CNN's pyramid begins at P2, a RetinaNet's at P3; their output convolutions have one shape."""
    file = Checkpoint(Path("faster.pth"), "torch-zip", model_on_meta(FASTER, 3))
    plan = plan_load(model_on_meta(RETINANET, 3), DETECTORS[RETINANET], "abc", file)

    assert plan.coverage.backbone == 1.0
    assert {t.action for t in plan.tensors if ".fpn." in t.key} == {"skipped"}
    assert {t.reason.partition(":")[0] for t in plan.tensors if "layer_blocks" in t.key and t.reason} == {
        "another level"
    }


def test_rules_know_the_maps_by_name() -> None:
    assert set(get_args(KeyMapName)) == {"auto", *KEY_MAPS}


def test_a_map_can_be_forced() -> None:
    with pytest.raises(WeightsError, match="nothing in it matches"):
        planned("mmdetection/ssd300", SSD300, COCO, key_map="paddle")
