"""mmdetection's checkpoints through our key map: the same weights, the same input, the same numbers (3.3.0)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers_mmdet
import pytest
import torch
from helpers_mmdet import agree, shaken
from torch import Tensor, nn

from models.weights.apply import apply_plan
from models.weights.containers import read_checkpoint
from models.weights.planning import plan_load
from models.zoo import DetectorOptions, build_detector, get_detector

mm = helpers_mmdet.mmdetection()
NAMES = ("stone", "paper", "scissors", "well")
# Detector -> mmdetection's file, and where its number of classes stands.
FILES = {
    "fasterrcnn_resnet50_fpn": ("faster-rcnn_r50_fpn", ("roi_head.bbox_head",)),
    "maskrcnn_resnet50_fpn": ("mask-rcnn_r50_fpn", ("roi_head.bbox_head", "roi_head.mask_head")),
    "retinanet_resnet50_fpn": ("retinanet_r50_fpn", ("bbox_head",)),
}


class Pair:
    """mmdetection's detector and ours, which was loaded from the file that mmdetection's weights were saved in."""

    def __init__(self, name: str, folder: Path, **neck: Any) -> None:
        torch.manual_seed(0)
        file, heads = FILES[name]
        config = mm.Config.fromfile(mm.configs / f"_base_/models/{file}.py")
        config.merge_from_dict({f"model.{head}.num_classes": len(NAMES) for head in heads})
        config.merge_from_dict({"model.backbone.init_cfg": None, "model.neck": neck})
        self.theirs = shaken(mm.MODELS.build(config.model)).eval()
        path = folder / f"{name}.pth"
        torch.save({"meta": {"dataset_meta": {"classes": NAMES}}, "state_dict": self.theirs.state_dict()}, path)
        self.ours = build_detector(DetectorOptions(name=name), len(NAMES) + 1).eval()
        checkpoint = read_checkpoint(path)
        self.plan = plan_load(self.ours, get_detector(name), NAMES, checkpoint)
        self.ours.load_state_dict(apply_plan(self.plan, self.ours.state_dict(), checkpoint), strict=True)
        draw = torch.Generator().manual_seed(1)
        batch = torch.randn(2, 3, 160, 128, generator=draw)
        self.regions = torch.randn(8, 256, 7, 7, generator=draw)
        self.wide_regions = torch.randn(8, 256, 14, 14, generator=draw)
        with torch.inference_mode():
            self.stages = list(self.ours.backbone.body(batch).values()), list(self.theirs.backbone(batch))
            self.features = list(self.ours.backbone(batch).values()), list(self.theirs.extract_feat(batch))

    def backbone_and_neck_agree(self, levels: int = 5) -> None:
        ours, theirs = self.stages
        for mine, other in zip(ours, theirs[-len(ours) :], strict=True):  # our RetinaNet's begins at C3
            agree("backbone", mine, other, 1e-5)
        for mine, other in list(zip(*self.features, strict=True))[:levels]:
            agree("pyramid", mine, other, 1e-5)


@pytest.fixture(scope="module", params=["fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"])
def rcnn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(request.param, tmp_path_factory.mktemp("rcnn"))


def test_every_tensor_of_an_rcnn_is_used(rcnn: Pair) -> None:
    assert {tensor.reason for tensor in rcnn.plan.tensors if tensor.action == "skipped"} <= {None}
    assert [tensor.key for tensor in rcnn.plan.unused if "num_batches" not in tensor.key] == []


def test_backbone_pyramid_and_proposal_network_of_an_rcnn(rcnn: Pair) -> None:
    rcnn.backbone_and_neck_agree()
    ours, theirs = rcnn.features
    with torch.inference_mode():
        logits, deltas = rcnn.ours.rpn.head(ours)
        other_logits, other_deltas = rcnn.theirs.rpn_head(theirs)
    for what, mine, others in (("objectness", logits, other_logits), ("proposal deltas", deltas, other_deltas)):
        for one, other in zip(mine, others, strict=True):
            agree(what, one, other, 1e-5)


def test_heads_of_an_rcnn(rcnn: Pair) -> None:
    ours, theirs = rcnn.ours.roi_heads, rcnn.theirs.roi_head
    with torch.inference_mode():
        scores, boxes = ours.box_predictor(ours.box_head(rcnn.regions))
        other_scores, other_boxes = theirs.bbox_head(rcnn.regions)
        agree("class scores", scores, torch.cat((other_scores[:, -1:], other_scores[:, :-1]), 1), 1e-5)
        agree("box deltas", boxes[:, 4:], other_boxes, 1e-5)
        if ours.has_mask():
            masks = ours.mask_predictor(ours.mask_head(rcnn.wide_regions))
            agree("mask logits", masks[:, 1:], theirs.mask_head(rcnn.wide_regions), 1e-5)


def retina_outputs(pair: Pair) -> tuple[list[Tensor], list[Tensor]]:
    """Scores and deltas of every level, both as (B, C or 4 per anchor, H, W), ours without the background's rows."""
    ours, theirs = pair.features
    head = pair.ours.head

    def mine(part: nn.Module, final: nn.Module, level: Tensor) -> Tensor:
        return final(part.conv(level))

    scores, boxes = head.classification_head, head.regression_head
    with torch.inference_mode():
        logits = [mine(scores, scores.cls_logits, level) for level in ours]
        deltas = [mine(boxes, boxes.bbox_reg, level) for level in ours]
        others = pair.theirs.bbox_head(theirs)
    foreground = [one.unflatten(1, (9, -1))[:, :, 1:].flatten(1, 2) for one in logits]
    return [*foreground, *deltas], [*others[0], *others[1]]


def test_retinanet_whose_p6_reads_p5_agrees_on_all_levels(tmp_path: Path) -> None:
    pair = Pair("retinanet_resnet50_fpn", tmp_path, add_extra_convs="on_output", relu_before_extra_convs=True)
    assert {tensor.reason for tensor in pair.plan.tensors if tensor.action == "skipped"} <= {None}
    pair.backbone_and_neck_agree()
    for mine, other in zip(*retina_outputs(pair), strict=True):
        agree("RetinaNet's scores and deltas", mine, other, 1e-5)


def test_retinanet_whose_p6_reads_c5_agrees_below_it(tmp_path: Path) -> None:
    pair = Pair("retinanet_resnet50_fpn", tmp_path)
    skipped = {tensor.key for tensor in pair.plan.tensors if tensor.action == "skipped"}
    assert skipped == {"backbone.fpn.extra_blocks.p6.weight", "backbone.fpn.extra_blocks.p6.bias"}
    pair.backbone_and_neck_agree(levels=3)
    mine, others = retina_outputs(pair)
    for level in (0, 1, 2, 5, 6, 7):
        agree("RetinaNet's scores and deltas", mine[level], others[level], 1e-5)
