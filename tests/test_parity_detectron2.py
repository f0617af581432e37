"""detectron2's checkpoints through our key map: the same weights, the same input, the same numbers.

Its Python code runs as it lies in its repository: nothing of what is used here has to be compiled.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_mmdet import agree, shaken
from torch import Tensor

from models.weights.apply import apply_plan
from models.weights.containers import read_checkpoint
from models.weights.planning import plan_load
from models.weights.rules import LoadRules
from models.zoo import DetectorOptions, build_detector, get_detector

modeling = pytest.importorskip(
    "detectron2.modeling",
    reason="detectron2 is not importable here: its repository on PYTHONPATH, fvcore, iopath, omegaconf and hydra-core",
    exc_type=ImportError,
)
NAMES = ("stone", "paper", "scissors", "well")
FILES = {
    "fasterrcnn_resnet50_fpn": "COCO-Detection/faster_rcnn_R_50_FPN_1x",
    "maskrcnn_resnet50_fpn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
    "retinanet_resnet50_fpn": "COCO-Detection/retinanet_R_50_FPN_1x",
}


def built(name: str) -> Any:
    """detectron2's detector with torchvision's strides and pixels: the others are refused for theirs."""
    from detectron2.config import get_cfg  # noqa: PLC0415 - only where it is there

    config = get_cfg()
    config.merge_from_file(str(Path(modeling.__file__).parents[2] / f"configs/{FILES[name]}.yaml"))
    config.MODEL.DEVICE, config.MODEL.WEIGHTS = "cpu", ""
    config.MODEL.RESNETS.STRIDE_IN_1X1, config.MODEL.PIXEL_STD = False, [58.395, 57.12, 57.375]
    config.MODEL.ROI_HEADS.NUM_CLASSES = config.MODEL.RETINANET.NUM_CLASSES = len(NAMES)
    torch.manual_seed(0)
    return shaken(modeling.build_model(config)).eval()


def close(what: str, ours: Tensor, theirs: Tensor) -> None:
    """Within 1e-5 of the largest value, which is 60 in a pyramid of its initial weights."""
    agree(what, ours / theirs.abs().max(), theirs / theirs.abs().max(), 1e-5)


class Pair:
    """detectron2's detector and ours, which was loaded from the pickle that detectron2's weights were saved in."""

    def __init__(self, name: str, folder: Path) -> None:
        self.theirs = built(name)
        path = folder / f"{name}.pkl"
        state = {key: tensor.numpy() for key, tensor in self.theirs.state_dict().items()}
        path.write_bytes(pickle.dumps({"model": state, "__author__": "detectron2", "classes": NAMES}))
        self.ours = build_detector(DetectorOptions(name=name), len(NAMES) + 1).eval()
        checkpoint = read_checkpoint(path)
        # Its files do not tell their strides and pixels, and most are MSRA's: force says that these are not.
        rules = LoadRules(force=True)
        self.plan = plan_load(self.ours, get_detector(name), NAMES, checkpoint, rules)
        self.ours.load_state_dict(apply_plan(self.plan, self.ours.state_dict(), checkpoint), strict=True)
        draw = torch.Generator().manual_seed(1)
        batch = torch.randn(2, 3, 128, 128, generator=draw)
        self.regions = torch.randn(8, 256, 7, 7, generator=draw)
        self.wide_regions = torch.randn(8, 256, 14, 14, generator=draw)
        with torch.inference_mode():
            self.features = list(self.ours.backbone(batch).values())
            self.others = list(self.theirs.backbone(batch).values())

    def skipped(self) -> list[str]:
        return [tensor.key for tensor in self.plan.tensors if tensor.action == "skipped"]


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"])
def test_an_rcnn(name: str, tmp_path: Path) -> None:
    pair = Pair(name, tmp_path)
    assert pair.skipped() == []
    for mine, other in zip(pair.features, pair.others, strict=True):
        close("pyramid", mine, other)
    ours, theirs = pair.ours.roi_heads, pair.theirs.roi_heads
    with torch.inference_mode():
        logits, deltas = pair.ours.rpn.head(pair.features)
        other_logits, other_deltas = pair.theirs.proposal_generator.rpn_head(pair.others)
        for mine, other in zip([*logits, *deltas], [*other_logits, *other_deltas], strict=True):
            close("proposal network", mine, other)
        scores, boxes = ours.box_predictor(ours.box_head(pair.regions))
        other_scores, other_boxes = theirs.box_predictor(theirs.box_head(pair.regions))
        close("class scores", scores, torch.cat((other_scores[:, -1:], other_scores[:, :-1]), 1))
        close("box deltas", boxes[:, 4:], other_boxes)
        if ours.has_mask():
            masks = ours.mask_predictor(ours.mask_head(pair.wide_regions))
            close("mask logits", masks[:, 1:], theirs.mask_head.layers(pair.wide_regions))


def by_ratio(level: Tensor) -> Tensor:
    """(B, 9 * K, H, W): detectron2 counts three ratios within each size, torchvision three sizes within each ratio."""
    return level.unflatten(1, (3, 3, -1)).transpose(1, 2).flatten(1, 3)


def test_a_retinanet(tmp_path: Path) -> None:
    """Down to P5: its P6 comes from C5."""
    pair = Pair("retinanet_resnet50_fpn", tmp_path)
    assert pair.skipped() == ["backbone.fpn.extra_blocks.p6.weight", "backbone.fpn.extra_blocks.p6.bias"]
    scores, boxes = pair.ours.head.classification_head, pair.ours.head.regression_head
    with torch.inference_mode():
        other_scores, other_boxes = pair.theirs.head(pair.others)
        for level in range(3):
            mine = pair.features[level]
            close("pyramid", mine, pair.others[level])
            logits = scores.cls_logits(scores.conv(mine)).unflatten(1, (9, -1))[:, :, 1:].flatten(1, 2)
            close("scores", logits, by_ratio(other_scores[level]))
            close("deltas", boxes.bbox_reg(boxes.conv(mine)), by_ratio(other_boxes[level]))
