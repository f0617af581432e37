from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator

from models.zoo import DetectorOptions, resolve_options
from models.zoo.cascade import IOU, CascadeHeads, ExactAnchors, box_loss

SIZES = [(64, 96), (64, 96)]


def features(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {str(k): torch.randn(2, 256, 64 >> (k + 2), 96 >> (k + 2), generator=draw) for k in range(4)}


def heads(masks: bool = False, **changes: Any) -> CascadeHeads:
    torch.manual_seed(0)
    name = "cascade_mask_rcnn_resnet50_fpn" if masks else "cascade_rcnn_resnet50_fpn"
    return CascadeHeads(4, resolve_options(DetectorOptions(name=name, rois_per_image=16, **changes)), masks=masks)


def truth(*boxes: list[float]) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.ones(len(boxes), dtype=torch.int64),
        "masks": torch.ones(len(boxes), 64, 96, dtype=torch.uint8),
    }


def test_anchors_are_not_rounded() -> None:
    exact = ExactAnchors(((32,),), ((0.5, 1.0, 2.0),)).cell_anchors[0]
    rounded = AnchorGenerator(((32,),), ((0.5, 1.0, 2.0),)).cell_anchors[0]
    assert torch.equal(exact.round(), rounded)
    half = 32 / math.sqrt(2) / 2
    torch.testing.assert_close(exact[0], torch.tensor([-2 * half, -half, 2 * half, half]))


def test_nothing_proposed_and_nothing_there() -> None:
    none = [torch.empty(0, 4)] * 2
    model = heads(masks=True)
    losses = model.train().losses(features(), none, SIZES, [truth(), truth()])
    assert len(losses) == 9
    assert all(loss == 0 for loss in losses.values())
    found = model.eval().detections(features(), none, SIZES)
    assert [one["boxes"].shape for one in found] == [(0, 4), (0, 4)]
    assert found[0]["masks"].shape == (0, 1, 28, 28)


@pytest.mark.parametrize("rules", ["mmdetection", "detectron2"])
def test_a_region_in_a_crowd_teaches_nothing(rules: str) -> None:
    model, target = heads(cascade=rules).train(), truth([10.0, 10.0, 50.0, 50.0])
    loose, within = torch.tensor([[22.0, 10.0, 62.0, 50.0]]), torch.tensor([[64.0, 8.0, 84.0, 28.0]])
    crowded = target | {"crowds": torch.tensor([[60.0, 0.0, 96.0, 64.0]])}
    alone, nothing = (
        model.losses(features(), [regions, loose[:0]], SIZES, [crowded, truth()])
        for regions in (loose, torch.cat((loose, within)))
    )
    background = model.losses(features(), [torch.cat((loose, within)), loose[:0]], SIZES, [target, truth()])

    for name, loss in alone.items():
        torch.testing.assert_close(nothing[name], loss, msg=name)
    assert background["loss_classifier_0"] != alone["loss_classifier_0"]


def test_each_stage_starts_where_the_last_one_ended_and_asks_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first head moves a loose region onto the object: the third one then holds it for an object."""
    model = heads().train()
    loose, target = torch.tensor([[22.0, 10.0, 62.0, 50.0]]), truth([10.0, 10.0, 50.0, 50.0])
    seen: list[tuple[float, list[int]]] = []
    sample = CascadeHeads.sample

    def record(self: CascadeHeads, regions: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
        drawn = sample(self, regions, targets)
        seen.append((self.proposal_matcher.high_threshold, [len(region) for region in drawn[0]]))
        return drawn

    monkeypatch.setattr(CascadeHeads, "sample", record)
    with torch.no_grad():
        model.losses(features(), [loose, loose[:0]], SIZES, [target, truth()])
    assert [iou for iou, _ in seen] == list(IOU)
    assert [counts for _, counts in seen] == [[2, 0]] * 3  # the region and the true box, which never piles up


def test_detectron2_draws_once_and_weighs_the_stages_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    model = heads(cascade="detectron2").train()
    draws: list[int] = []
    sample = CascadeHeads.sample
    monkeypatch.setattr(CascadeHeads, "sample", lambda *a: (draws.append(1), sample(*a))[1])
    maps = {key: value.requires_grad_() for key, value in features().items()}
    region = torch.tensor([[22.0, 10.0, 62.0, 50.0]])
    losses = model.losses(maps, [region, region], SIZES, [truth([10.0, 10.0, 50.0, 50.0]), truth()])

    assert len(draws) == 1
    assert all(torch.isfinite(loss) for loss in losses.values())
    with torch.inference_mode():
        logs, _, _ = model.cascade(features(), [region, region], SIZES)
    torch.testing.assert_close(logs.exp().sum(-1), torch.ones(2))
    assert model.rules.loss_weights == (1, 1, 1)


def test_a_third_of_the_gradient_reaches_the_pyramid_in_detectron2() -> None:
    gradients = []
    for rules in ("mmdetection", "detectron2"):
        maps = {key: value.requires_grad_() for key, value in features().items()}
        logits, _ = heads(cascade=rules).predict(0, maps, [torch.tensor([[2.0, 2.0, 40.0, 40.0]])] * 2, SIZES)
        gradients.append(torch.autograd.grad(logits.sum(), maps["0"])[0])
    torch.testing.assert_close(gradients[0] / 3, gradients[1])


def test_the_box_loss_counts_every_region_and_leaves_out_what_is_ignored() -> None:
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [5.0, -5.0]])
    deltas, targets = torch.zeros(3, 4), torch.tensor([[2.0, 0.5, 0.0, 0.0]] * 3)
    classification, regression = box_loss(logits, deltas, torch.tensor([1, 0, -1]), targets, beta=1.0)
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))) / 2
    assert classification.item() == pytest.approx(expected)
    assert regression.item() == pytest.approx((1.5 + 0.125) / 2)  # of the one object, over both regions
