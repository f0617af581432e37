"""Region pooling: torchvision's RoIAlign, number by number, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops import roi_align as torchvision_roi_align

from models.zoo.pooling import RegionPool, roi_align

SIZES = [(640, 960), (608, 800)]
STRIDES = (4, 8, 16, 32)


def features(channels: int = 8) -> dict[str, Tensor]:
    torch.manual_seed(0)
    maps = {str(index): torch.randn(2, channels, 640 // stride, 960 // stride) for index, stride in enumerate(STRIDES)}
    return maps | {"pool": torch.randn(2, channels, 10, 15)}


def regions(count: int) -> Tensor:
    """Of all sizes and shapes, some beyond the image, some without extent."""
    torch.manual_seed(1)
    corner, side = torch.rand(count, 2) * 1200 - 150, torch.rand(count, 2) ** 3 * 900
    boxes = torch.cat((corner, corner + side), 1)
    boxes[0, 2:] = boxes[0, :2]
    boxes[1, 2:] = boxes[1, :2] - 3
    return boxes


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("samples", [0, 1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_same_as_torchvision(samples: int, aligned: bool, layout: torch.memory_format) -> None:
    rois = torch.cat((torch.randint(0, 2, (60, 1)).float(), regions(60)), 1)
    given = [features()["1"].to(memory_format=layout).requires_grad_() for _ in range(2)]
    ours = roi_align(given[0], rois, 7, 1 / 8, samples=samples, aligned=aligned)
    theirs = torchvision_roi_align(given[1], rois, 7, 1 / 8, samples, aligned)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-6)
    weights = torch.randn_like(ours)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(given[0].grad, given[1].grad, rtol=0, atol=2e-5)


def test_each_region_comes_from_the_level_that_torchvision_takes_it_from() -> None:
    maps, boxes = features(), [regions(200).clamp(min=0), regions(100)[50:].clamp(min=0)]
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)(maps, boxes, SIZES)
    torch.testing.assert_close(RegionPool(7, STRIDES, samples=2)(maps, boxes, SIZES), theirs, rtol=0, atol=5e-6)


def test_each_region_is_pooled_from_the_level_of_its_size() -> None:
    pool, maps = RegionPool(7, STRIDES, aligned=True), features()
    for extent, level in ((10.0, 0), (111.0, 0), (113.0, 1), (225.0, 2), (449.0, 3), (2000.0, 3)):
        region = torch.tensor([[3.0, 5.0, 3.0 + extent, 5.0 + extent]])
        expected = torchvision_roi_align(maps[str(level)], [region[:0], region], 7, 1 / 2 ** (level + 2), aligned=True)
        found = pool(maps, [region[:0], region], SIZES)
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-6, msg=str(extent))


def test_no_region_at_all_has_a_gradient() -> None:
    maps = {name: feature.requires_grad_() for name, feature in features().items()}
    pooled = RegionPool(7, STRIDES, samples=2)(maps, [torch.empty(0, 4)] * 2, SIZES)
    assert pooled.shape == (0, 8, 7, 7)
    pooled.sum().backward()
    assert maps["0"].grad is not None


def test_regions_that_are_not_finite_are_left_to_the_loss() -> None:
    """A diverged network proposes them in the step whose loss says so."""
    boxes = torch.tensor([[float("nan")] * 4, [0.0, 0.0, float("inf"), 9.0], [0.0, 0.0, 40.0, 40.0]])
    for samples in (0, 2):
        pooled = RegionPool(7, STRIDES, samples=samples)(features(), [boxes, boxes[:0]], SIZES)
        assert pooled[2].isfinite().all()


def test_half_precision_stays_what_it_is() -> None:
    rois = torch.cat((torch.zeros(20, 1), regions(20)), 1)
    feature = features()["1"]
    half = roi_align(feature.bfloat16(), rois, 7, 1 / 8, samples=2, aligned=False)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(
        half.float(), roi_align(feature, rois, 7, 1 / 8, samples=2, aligned=False), rtol=0.02, atol=0.02
    )
