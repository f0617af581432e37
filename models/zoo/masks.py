"""Instance masks that never become pictures of the whole image.

Each object's outline is filled once, at a fixed small size within its own frame. A crop, a flip or another image size
then only moves frames, and the loss samples the small masks at its own size, on their device.
"""

# mypy: untyped-calls-exclude=pycocotools
from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

SIDE = 112  # four cells for each of the 28 that Mask R-CNN's loss looks at

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class InstanceMasks:
    """The masks of N objects, each in its own frame.

    Attributes:
        cells: (N, S, S) uint8, 255 inside the object, 0 outside; row 0 is the top of the frame.
        frames: (N, 4) float pixel xyxy, where the cells lie in the image; they may reach beyond it.
    """

    cells: Tensor
    frames: Tensor

    @classmethod
    def from_coco(cls, segmentations: Sequence[Any], height: int, width: int, side: int = SIDE) -> InstanceMasks:
        """Fill COCO segmentations: lists of flat polygons, or RLE (compressed or not).

        Args:
            segmentations: one per object.
            height: of the image that they are drawn in, pixels.
            width: likewise.
            side: cells along each side of a frame.
        """
        filled = [_fill(segmentation, height, width, side) for segmentation in segmentations]
        cells = np.array([cells for cells, _ in filled], np.uint8).reshape(-1, side, side)
        frames = np.array([frame for _, frame in filled], np.float32).reshape(-1, 4)
        return cls(torch.from_numpy(cells), torch.from_numpy(frames))

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, which: Tensor | slice) -> InstanceMasks:
        return InstanceMasks(self.cells[which], self.frames[which])

    def to(self, *args: Any, **kwargs: Any) -> InstanceMasks:
        """Both tensors on another device; ``args`` as for a tensor."""
        return InstanceMasks(self.cells.to(*args, **kwargs), self.frames.to(*args, **kwargs))

    def pin_memory(self) -> InstanceMasks:
        """Both tensors in page-locked memory."""
        return InstanceMasks(self.cells.pin_memory(), self.frames.pin_memory())

    def scaled(self, x: float, y: float) -> InstanceMasks:
        """The masks in an image that is ``x`` times as wide and ``y`` times as high."""
        return InstanceMasks(self.cells, self.frames * self.frames.new_tensor([x, y, x, y]))

    def shifted(self, x: float, y: float) -> InstanceMasks:
        """The masks moved by so many pixels; a crop at (left, top) is ``shifted(-left, -top)``."""
        return InstanceMasks(self.cells, self.frames + self.frames.new_tensor([x, y, x, y]))

    def cut(self, left: float, top: float, right: float, bottom: float) -> InstanceMasks:
        """The masks with nothing beyond these pixels of the image: frames stay, cells there are emptied."""
        side = self.cells.shape[-1]
        steps = torch.arange(side + 1, device=self.frames.device) / side
        across = self.frames[:, 0, None] + (self.frames[:, 2] - self.frames[:, 0])[:, None] * steps
        down = self.frames[:, 1, None] + (self.frames[:, 3] - self.frames[:, 1])[:, None] * steps
        shown = _share_within(down, top, bottom)[:, :, None] * _share_within(across, left, right)[:, None, :]
        return InstanceMasks((self.cells * shown).round().to(torch.uint8), self.frames)

    def crop_and_resize(self, boxes: Tensor, matched: Tensor, size: int | tuple[int, int]) -> Tensor:
        """What a box sees of the object it is matched with.

        Args:
            boxes: (K, 4) pixel xyxy.
            matched: (K,) which object each box belongs to.
            size: cells along each side of the result, or down and across.

        Returns:
            (K, size, size) float of the boxes' type, the share of each cell that lies inside the object, 0..1.
        """
        side = self.cells.shape[-1]
        frames = self.frames[matched].to(boxes)
        corner, extent = frames[:, :2], (frames[:, 2:] - frames[:, :2]).clamp(min=1e-6)
        corners = (boxes.view(-1, 2, 2) - corner[:, None]) / extent[:, None] * side + 1  # 1: the border of zeros
        rois = torch.cat((matched[:, None].to(boxes), corners.view(-1, 4)), dim=1)
        # Without the border, roi_align would repeat the outermost cells beyond the frame.
        bordered = functional.pad(self.cells[:, None].to(boxes) / 255, (1, 1, 1, 1))
        # A fixed number of samples: a box may be any number of times as large as the outline in it.
        aligned: Tensor = roi_align(bordered, rois, size, sampling_ratio=4, aligned=True)
        return aligned[:, 0]

    def dense(self, height: int, width: int) -> Tensor:
        """The masks as pictures, ``(N, height, width)`` uint8; for checks and drawings."""
        whole = self.frames.new_tensor([[0.0, 0.0, width, height]]).expand(len(self), 4)
        pictures = self.crop_and_resize(whole, torch.arange(len(self)), (height, width))
        return (pictures >= 0.5).to(torch.uint8)


def _share_within(edges: Tensor, low: float, high: float) -> Tensor:
    """The share (N, S) of each cell between its edges (N, S + 1) that lies from ``low`` to ``high``."""
    seen = edges.clamp(low, high)
    share: Tensor = (seen[:, 1:] - seen[:, :-1]) / (edges[:, 1:] - edges[:, :-1]).clamp(min=1e-6)
    return share.clamp(max=1.0)


def _fill(segmentation: Any, height: int, width: int, side: int) -> tuple[Array, Sequence[float]]:
    """Cells ``(side, side)`` and frame of one COCO segmentation; an empty one has an empty frame."""
    if isinstance(segmentation, list):
        return _fill_polygons([np.asarray(ring, np.float64).reshape(-1, 2) for ring in segmentation], side)
    if isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    return _shrink(_decode(segmentation), side)


def _fill_polygons(rings: Sequence[Array], side: int) -> tuple[Array, Sequence[float]]:
    """The union of rings ``(K, 2)`` of pixel positions, drawn within their bounds."""
    rings = [ring for ring in rings if len(ring) >= 3]
    if not rings:
        return np.zeros((side, side), np.uint8), (0.0, 0.0, 0.0, 0.0)
    points = np.concatenate(rings)
    low, high = points.min(0), points.max(0)
    scale = side / np.maximum(high - low, 1e-6)
    local = [((ring - low) * scale).ravel().tolist() for ring in rings]
    cells = _decode(coco_mask.merge(coco_mask.frPyObjects(local, side, side)))
    return cells * np.uint8(255), (*low.tolist(), *high.tolist())


def _decode(runs: Any) -> Array:
    """``(H, W)`` uint8 of a compressed RLE."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # pycocotools under NumPy 2
        mask: Array = coco_mask.decode(runs)
    return mask


def _shrink(mask: Array, side: int) -> tuple[Array, Sequence[float]]:
    """A mask ``(H, W)`` within its bounds, brought to ``side`` cells each way by area."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros((side, side), np.uint8), (0.0, 0.0, 0.0, 0.0)
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    inside = torch.from_numpy(mask[top:bottom, left:right].astype(np.float32))[None, None]
    share = functional.interpolate(inside, size=(side, side), mode="area")[0, 0]
    return (share * 255).round().numpy().astype(np.uint8), tuple(float(edge) for edge in (left, top, right, bottom))


def project(masks: Tensor | InstanceMasks, boxes: Tensor, matched: Tensor, size: int, *, aligned: bool) -> Tensor:
    """The mask head's target for each box: ``(K, size, size)`` float, 0..1.

    Args:
        masks: of the image's objects: :class:`InstanceMasks`, or pictures ``(N, H, W)`` uint8.
        boxes: (K, 4) pixel xyxy.
        matched: (K,) which object each box belongs to.
        size: cells along each side.
        aligned: how pictures are sampled: False as torchvision does, half a pixel off; True as mmdetection does.
    """
    if isinstance(masks, InstanceMasks):
        return masks.crop_and_resize(boxes, matched, size)
    rois = torch.cat((matched[:, None].to(boxes), boxes), dim=1)
    sampled: Tensor = roi_align(masks[:, None].to(boxes), rois, (size, size), aligned=aligned)
    return sampled[:, 0]
