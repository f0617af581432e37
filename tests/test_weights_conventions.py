"""What the numbers in another framework's rows mean, each convention written down here from its own definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator

from models.errors import WeightsError
from models.weights.apply import apply_plan
from models.weights.containers import Checkpoint
from models.weights.planning import plan_load
from models.weights.rules import LoadRules
from models.zoo import DETECTORS

THEIRS = ("cat", "dog", "tv", "bus")
OURS = ("tvmonitor", "RBC", "cat")


def numbered(rows: int, *shape: int, columns: bool = False) -> Tensor:
    """A tensor whose row (or column) n holds n."""
    tensor = torch.arange(1.0, rows + 1).view(rows, *[1] * len(shape)).expand(rows, *shape).contiguous()
    return tensor.t().contiguous() if columns else tensor


def moved(detector: str, model: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, list[int]]:
    """The checkpoint's row (from 1) in each row of the model; 0 where the initial value stays."""
    file = Checkpoint(Path("their.file"), "torch-zip", theirs, THEIRS)
    plan = plan_load(model, DETECTORS[detector], OURS, file)
    state = apply_plan(plan, model, file)
    return {key: [int(row.flatten()[0]) for row in tensor] for key, tensor in state.items()}


BOX_HEAD = {
    "backbone.body.conv1.weight": torch.zeros(2, 3, 7, 7),
    "roi_heads.box_predictor.cls_score.weight": torch.zeros(4, 6),
    "roi_heads.box_predictor.bbox_pred.bias": torch.zeros(16),
}
BOXES = [0, 0, 0, 0, 9, 10, 11, 12, 0, 0, 0, 0, 1, 2, 3, 4]  # ours: background, tv, RBC, cat; theirs: cat, dog, tv, bus


@pytest.mark.parametrize(
    "theirs",
    [
        {
            "backbone.conv1.weight": numbered(2, 3, 7, 7),
            "neck.lateral_convs.0.conv.bias": torch.zeros(1),
            "roi_head.bbox_head.fc_cls.weight": numbered(5, 6),
            "roi_head.bbox_head.fc_reg.bias": numbered(16),
        },
        {
            "backbone.conv1.conv1.conv.weight": numbered(2, 3, 7, 7),
            "backbone.conv1.conv1.norm._mean": torch.zeros(1),
            "bbox_head.bbox_score.weight": numbered(5, 6, columns=True),
            "bbox_head.bbox_delta.bias": numbered(16),
        },
        {
            "backbone.bottom_up.stem.conv1.weight": numbered(2, 3, 7, 7),
            "pixel_std": torch.tensor([58.4, 57.1, 57.4]),
            "roi_heads.box_predictor.cls_score.weight": numbered(5, 6),
            "roi_heads.box_predictor.bbox_pred.bias": numbered(16),
        },
    ],
    ids=["mmdetection", "paddle", "detectron2"],
)
def test_a_background_at_the_end_comes_first_and_has_no_box(theirs: dict[str, Tensor]) -> None:
    rows = moved("fasterrcnn_resnet50_fpn", BOX_HEAD, theirs)
    assert rows["roi_heads.box_predictor.cls_score.weight"] == [5, 3, 0, 1]
    assert rows["roi_heads.box_predictor.bbox_pred.bias"] == BOXES
    assert rows["backbone.body.conv1.weight"] == [1, 2]


def test_paddle_1_keeps_the_background_first_everywhere() -> None:
    theirs = {
        "conv1_weights": numbered(2, 3, 7, 7),
        "res2a_branch2a_weights": torch.zeros(1),
        "cls_score_w": numbered(5, 6, columns=True),
        "bbox_pred_b": numbered(20),
    }
    rows = moved("fasterrcnn_resnet50_fpn", BOX_HEAD, theirs)
    assert rows["roi_heads.box_predictor.cls_score.weight"] == [1, 4, 0, 2]
    assert rows["roi_heads.box_predictor.bbox_pred.bias"] == [1, 2, 3, 4, 13, 14, 15, 16, 0, 0, 0, 0, 5, 6, 7, 8]


def anchors_by_size() -> list[list[float]]:
    """detectron2's and PaddleDetection's cell anchors: for each size, for each ratio (``generate_cell_anchors``)."""
    sizes, anchors = [32.0 * 2 ** (step / 3) for step in range(3)], []
    for size in sizes:
        for ratio in (0.5, 1.0, 2.0):
            width = (size**2 / ratio) ** 0.5
            anchors.append([-width / 2, -ratio * width / 2, width / 2, ratio * width / 2])
    return anchors


@pytest.mark.parametrize(
    ("stem", "scores", "boxes"),
    [
        ("backbone.bottom_up.stem.conv1.weight", "head.cls_score.bias", "head.bbox_pred.bias"),
        ("backbone.conv1.conv1.conv.weight", "head.retina_cls.bias", "head.retina_reg.bias"),
    ],
    ids=["detectron2", "paddle"],
)
def test_each_anchor_of_a_retinanet_keeps_its_rows(stem: str, scores: str, boxes: str) -> None:
    ours = AnchorGenerator(((32.0, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)),), ((0.5, 1.0, 2.0),)).cell_anchors[0]
    twin = torch.cdist(ours, torch.tensor(anchors_by_size())).argmin(dim=1).tolist()
    assert sorted(twin) == list(range(9))
    model = {
        "backbone.body.conv1.weight": torch.zeros(2, 3, 7, 7),
        "head.classification_head.cls_logits.bias": torch.zeros(9 * 4),
        "head.regression_head.bbox_reg.bias": torch.zeros(9 * 4),
    }
    theirs = {
        stem: numbered(2, 3, 7, 7),
        "pixel_std": torch.full((3,), 58.0),
        "backbone.conv1.conv1.norm._mean": torch.zeros(1),
        scores: numbered(9 * 4),
        boxes: numbered(9 * 4),
    }
    rows = moved("retinanet_resnet50_fpn", model, theirs)
    expected = [[0, 4 * anchor + 3, 0, 4 * anchor + 1] for anchor in twin]  # unused background, tv, RBC, cat
    assert rows["head.classification_head.cls_logits.bias"] == [row for rows in expected for row in rows]
    offsets = [[4 * anchor + row for row in (1, 2, 3, 4)] for anchor in twin]
    assert rows["head.regression_head.bbox_reg.bias"] == [row for rows in offsets for row in rows]


def test_chainercvs_boxes_are_y_before_x() -> None:
    model = {
        "backbone.features.0.weight": torch.zeros(2, 3, 3, 3),
        "head.classification_head.module_list.0.bias": torch.zeros(4 * 4),
        "head.regression_head.module_list.0.bias": torch.zeros(4 * 4),
    }
    theirs = {
        "extractor/conv1_1/W": numbered(2, 3, 3, 3),
        "multibox/conf/0/b": numbered(4 * 5),
        "multibox/loc/0/b": numbered(4 * 4),
    }
    rows = moved("ssd300_vgg16", model, theirs)
    assert rows["head.classification_head.module_list.0.bias"][:8] == [1, 4, 0, 2, 6, 9, 0, 7]
    assert rows["head.regression_head.module_list.0.bias"] == [2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


def test_two_tensors_for_one_place_are_an_error() -> None:
    tensors = {"rpn.head.conv.weight": torch.zeros(2, 2), "rpn.head.conv.0.0.weight": torch.zeros(2, 2)}
    model = {"rpn.head.conv.0.0.weight": torch.zeros(2, 2)}
    with pytest.raises(WeightsError, match=r"both want the place of rpn\.head\.conv\.0\.0\.weight"):
        plan_load(model, DETECTORS["fasterrcnn_resnet50_fpn"], OURS, Checkpoint(Path("it.pth"), "torch-zip", tensors))


@pytest.mark.parametrize(("rule", "skipped"), [("bbox", ["roi_heads.box_predictor.bbox_pred.bias"]), ("re:bbox", None)])
def test_a_bare_word_never_reaches_the_proposals(rule: str, skipped: list[str] | None) -> None:
    keys = ["backbone.body.conv1.weight", "rpn.head.bbox_pred.bias", "roi_heads.box_predictor.bbox_pred.bias"]
    model = {key: torch.zeros(16) for key in keys}
    file = Checkpoint(Path("it.pth"), "torch-zip", {key: torch.ones(16) for key in keys}, ("a", "b", "c"))
    plan = plan_load(model, DETECTORS["fasterrcnn_resnet50_fpn"], ("a", "b", "c"), file, LoadRules(exclude=(rule,)))
    assert [t.key for t in plan.tensors if t.action == "skipped"] == (skipped or keys[1:])
