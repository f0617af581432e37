"""Pooling regions from a feature pyramid: RoIAlign (https://arxiv.org/abs/1703.06870, section 3).

On a CPU each pooled cell is a weighted sum of rows of the feature map, channels last, which is what ``embedding_bag``
computes. With torchvision's kernel, which takes one number at a time, the gradient of RoIAlign was a seventh of a
training step of Faster R-CNN R50-FPN in float32 and a quarter in bfloat16; here it takes a tenth of that. Elsewhere,
and in an exported graph, it is torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align as torchvision_roi_align

from models.zoo.transform import Sizes


class RegionPool(nn.Module):
    """RoIAlign of each region from the pyramid level that fits its size.

    A region of 224 x 224 pixels comes from the level of stride 16 (https://arxiv.org/abs/1612.03144, equation 1).
    """

    def __init__(self, output_size: int, strides: Sequence[int], *, samples: int = 0, aligned: bool = False) -> None:
        """How regions are pooled.

        Args:
            output_size: cells of a pooled region, per side.
            strides: of the pyramid's levels that regions come from, pixels, fine to coarse.
            samples: per cell and side; 0: as many as the cell is wide or high in the map, rounded up.
            aligned: without the half-pixel shift of the first RoIAlign.
        """
        super().__init__()
        self.output_size = output_size
        self.strides = tuple(strides)
        self.samples = samples
        self.aligned = aligned

    def forward(self, features: dict[str, Tensor], regions: list[Tensor], image_shapes: Sizes) -> Tensor:
        """Pool ``regions (K, 4)`` of each image into ``(all K, C, output_size, output_size)``."""
        boxes = torch.cat(regions).nan_to_num(0, 0, 0)  # of a diverged network: its loss tells
        image = torch.cat([torch.full_like(region[:, :1], index) for index, region in enumerate(regions)])
        rois = torch.cat((image, boxes), dim=1)
        root = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1).sqrt()
        finest, coarsest = math.log2(self.strides[0]), math.log2(self.strides[-1])
        level = torch.floor(4 + torch.log2(root / 224) + 1e-6).clamp(finest, coarsest) - finest
        chosen = [torch.where(level == index)[0] for index in range(int(coarsest - finest) + 1)]
        pooled = [
            roi_align(feature, rois[which], self.output_size, 1 / stride, samples=self.samples, aligned=self.aligned)
            for feature, stride, which in zip(features.values(), self.strides, chosen, strict=False)
        ]
        return in_order(pooled, chosen)


def in_order(parts: list[Tensor], places: list[Tensor]) -> Tensor:
    """One tensor of parts ``(K, ...)`` whose rows belong at ``places (K,)`` of it."""
    if len(places) == 1:
        return parts[0]
    return torch.cat(parts).index_select(0, torch.cat(places).argsort())


def roi_align(feature: Tensor, rois: Tensor, size: int, scale: float, *, samples: int = 0, aligned: bool) -> Tensor:
    """``torchvision.ops.roi_align``, on a CPU as sums of rows.

    Args:
        feature: (B, C, H, W).
        rois: (K, 5): index in the batch, and xyxy in pixels of the image.
        size: cells of a pooled region, per side.
        scale: pixels of the map per pixel of the image.
        samples: per cell and side; 0: as many as the cell is wide or high in the map, rounded up.
        aligned: without the half-pixel shift.

    Returns:
        ``(K, C, size, size)``.
    """
    if feature.device.type != "cpu" or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        whole: Tensor = torchvision_roi_align(feature.to(rois.dtype), rois, size, scale, samples, aligned)
        return whole.to(feature.dtype)
    if not len(rois):
        return feature.new_zeros(0, feature.shape[1], size, size) + feature.sum() * 0
    image, boxes = rois[:, 0].long(), rois[:, 1:]
    start = boxes[:, :2] * scale - (0.5 if aligned else 0.0)
    side = boxes[:, 2:] * scale - (0.5 if aligned else 0.0) - start
    if not aligned:
        side = side.clamp(min=1)
    grids = torch.full_like(side, samples) if samples else torch.ceil(side / size).clamp(min=0)
    kinds, kind = torch.unique(grids, dim=0, return_inverse=True)
    places = [torch.where(kind == index)[0] for index in range(len(kinds))]
    bags = [
        _bags(image[which], start[which], side[which], size, grid, (feature.shape[2], feature.shape[3]))
        for which, grid in zip(places, kinds.long().tolist(), strict=True)
    ]
    table = feature.to(torch.promote_types(feature.dtype, torch.float32)).permute(0, 2, 3, 1)
    pooled = _weighted_sums(table.reshape(-1, feature.shape[1]), bags).view(-1, size, size, feature.shape[1])
    return in_order([pooled], places).permute(0, 3, 1, 2).to(feature.dtype)


def _bags(
    image: Tensor, start: Tensor, side: Tensor, size: int, grid: tuple[int, int], map_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """What regions that all have the same samples per cell are sums of.

    Args:
        image: (K,) index in the batch.
        start: (K, 2) upper left corners, cells of the map.
        side: (K, 2) widths and heights.
        size: cells of a pooled region, per side.
        grid: samples per cell, across and down.
        map_size: (height, width) of the map.

    Returns:
        Rows of the maps ``(K * size * size, N)``, the maps of a batch being one table, and their weights.
    """
    height, width = map_size
    x, x_weight = _neighbours(start[:, 0], side[:, 0], size, grid[0], width)
    y, y_weight = _neighbours(start[:, 1], side[:, 1], size, grid[1], height)
    y = (image * height)[:, None, None] + y
    rows = y[:, :, None, :, None] * width + x[:, None, :, None, :]
    weights = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    bags = len(image) * size * size, 4 * grid[0] * grid[1]
    return rows.reshape(bags), weights.reshape(bags)


def _weighted_sums(table: Tensor, bags: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Sums ``(all K, C)`` of rows of a table ``(R, C)``; in one piece, since the gradient is as large as the table."""
    lengths = torch.cat([torch.full((len(rows),), rows.shape[1]) for rows, _ in bags])
    return functional.embedding_bag(
        torch.cat([rows.flatten() for rows, _ in bags]),
        table,
        lengths.cumsum(0) - lengths,
        per_sample_weights=torch.cat([weights.flatten() for _, weights in bags]).to(table.dtype),
        mode="sum",
    )


def _neighbours(start: Tensor, side: Tensor, size: int, samples: int, length: int) -> tuple[Tensor, Tensor]:
    """Where each pooled cell samples one axis.

    Args:
        start: (K,) where the regions begin, cells of the map.
        side: (K,) how long they are.
        size: pooled cells.
        samples: per pooled cell.
        length: cells of the map.

    Returns:
        Indices ``(K, size, 2 * samples)`` of the two neighbours of each sample, and their weights, whose sum is 1, or
        less where samples lie outside of the map by more than a cell.
    """
    step = (side / size)[:, None, None]
    cell = torch.arange(size)[:, None]
    sample = torch.arange(samples) + 0.5
    place = start[:, None, None] + cell * step + sample * step / samples
    inside = (place >= -1) & (place <= length)
    place = place.clamp(0, length - 1)
    low = place.floor()
    share = place - low
    indices = torch.stack((low, (low + 1).clamp(max=length - 1)), -1).long()
    weights = torch.stack((1 - share, share), -1) * inside[..., None] / samples
    return indices.flatten(-2), weights.flatten(-2)
