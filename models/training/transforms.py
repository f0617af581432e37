"""Augmentations by name, and the one resize that brings a uint8 picture to the size the detector works at.

What cuts or widens the picture runs before the resize, what flips or recolours it after: there it touches fewer pixels.
Masks are never pictures of the whole image here (:mod:`models.zoo.masks`): a cut or a flip only moves their frames.
"""

# mypy: untyped-calls-exclude=torchvision
# mypy: disable-error-code=attr-defined
from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812
from torchvision.tv_tensors import BoundingBoxes

from models.zoo.masks import InstanceMasks

Target: TypeAlias = dict[str, Any]
"""``boxes`` (N, 4) float pixel xyxy, ``labels`` (N,) from 1, ``iscrowd`` (N,) bool, perhaps ``masks``; N may be 0."""

SCALE_JITTER = (0.8, 1.25)  # of the working size
GREY = 124  # of the canvas that a picture is put on: ImageNet's mean

AUGMENTATIONS: dict[str, str] = {
    "hflip": "mirror left and right, one time in two",
    "vflip": "mirror top and bottom, one time in two (microscopy, aerial pictures)",
    "photometric": "brightness, contrast, saturation and hue (SSD's recipe)",
    "iou_crop": "cut out a window that keeps some overlap with an object (SSD's recipe)",
    "zoom_out": "put the picture somewhere on a larger grey canvas, one time in two (SSD's recipe)",
    "random_crop": "for classifiers: 8 to 100 % of the area, stretched by up to 4:3 (ImageNet's recipe)",
    "gentle_crop": "for classifiers: 50 to 100 % of the area, stretched by up to 4:3",
    "scale_jitter": f"work at {SCALE_JITTER[0]} to {SCALE_JITTER[1]} of the usual size; no effect at a fixed size",
}
AREAS = {"random_crop": (0.08, 1.0), "gentle_crop": (0.5, 1.0)}
FOR_BOXES = frozenset({"iou_crop", "zoom_out", "scale_jitter"})


@dataclass(frozen=True)
class WorkingSize:
    """The size a detector works at: ``fixed`` (height, width), or a shorter side that the longer one may limit.

    The rule is that of torchvision's ``GeneralizedRCNNTransform``. A classifier does not stretch its picture to
    ``fixed``: it takes the middle, of which ``crop`` is the share of the shorter side.
    """

    min_size: int
    max_size: int
    fixed: tuple[int, int] | None = None
    crop: float | None = None

    def of(self, height: int, width: int, jitter: float = 1.0) -> tuple[int, int]:
        """The (height, width) in pixels that a picture of this size is resized to."""
        if self.fixed is not None:
            return self.fixed
        scale = min(self.min_size * jitter / min(height, width), self.max_size / max(height, width))
        return max(1, int(height * scale)), max(1, int(width * scale))

    def view(self, image: Tensor) -> Tensor:
        """A picture ``(3, H, W)`` uint8 as the model sees it in evaluation."""
        if self.fixed is None or self.crop is None:
            return F.resize(image, list(self.of(image.shape[1], image.shape[2])), antialias=True)
        height, width = self.fixed
        scale = max(height / image.shape[1], width / image.shape[2]) / self.crop
        size = [max(height, round(image.shape[1] * scale)), max(width, round(image.shape[2] * scale))]
        return F.center_crop(F.resize(image, size, antialias=True), [height, width])


class Augment:
    """The named augmentations around the resize; they draw from torch's CPU generator and from ``draw``."""

    def __init__(self, names: tuple[str, ...], size: WorkingSize) -> None:
        self.names, self.size = frozenset(names), size
        self.crop, self.zoom = v2.RandomIoUCrop(), v2.RandomZoomOut(side_range=(1.0, 3.0))
        self.recolour = v2.RandomPhotometricDistort(p=0.5)
        area = next((AREAS[name] for name in AREAS if name in self.names), None)
        self.cut = v2.RandomResizedCrop(size.fixed or 1, scale=area, antialias=True) if area else size.view

    def __call__(self, image: Tensor, target: Target, draw: random.Random) -> tuple[Tensor, Target]:
        """Return a picture ``(3, H, W)`` uint8 of the working size and what is left of its target.

        The picture that a classifier looks at is a window of the given one; its target's box is the whole of it.
        """
        if "zoom_out" in self.names and draw.random() < 0.5:
            image, target = self._zoom_out(image, target)
        if "iou_crop" in self.names and len(target["boxes"]):
            image, target = self._crop(image, target)
        if self.size.crop is None:
            jitter = draw.uniform(*SCALE_JITTER) if "scale_jitter" in self.names else 1.0
            image, target = resize(image, target, self.size.of(image.shape[1], image.shape[2], jitter))
        else:
            image = self.cut(image)
            target = {**target, "boxes": torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]]])}
        if "photometric" in self.names:
            image = self.recolour(image)
        for name, axis in (("hflip", 0), ("vflip", 1)):
            if name in self.names and draw.random() < 0.5:
                image, target = mirror(image, target, axis)
        return image, target

    @property
    def resizes_first(self) -> bool:
        """Whether every picture is first of all brought to one and the same size."""
        jitters = "scale_jitter" in self.names and self.size.fixed is None
        return self.size.crop is None and not jitters and not self.names & {"zoom_out", "iou_crop"}

    def _zoom_out(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        left, top, right, bottom = self.zoom.make_params([image])["padding"]
        return F.pad(image, [left, top, right, bottom], fill=[GREY] * 3), moved(target, left, top)

    def _crop(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        boxes = BoundingBoxes(target["boxes"], format="XYXY", canvas_size=(image.shape[1], image.shape[2]))
        window = self.crop.make_params([image, boxes])
        if not window:
            return image, target
        left, top, width, height = (window[key] for key in ("left", "top", "width", "height"))
        inside = window["is_within_crop_area"]
        kept = moved({key: value[inside] for key, value in target.items()}, -left, -top)
        kept["boxes"] = kept["boxes"].clamp(min=torch.zeros(4), max=torch.tensor([width, height] * 2).float())
        return F.crop(image, top, left, height, width), kept


def resize(image: Tensor, target: Target, size: tuple[int, int]) -> tuple[Tensor, Target]:
    """Resize picture, boxes and masks to ``size`` (height, width); uint8 stays uint8 (6 times faster than float)."""
    height, width = image.shape[-2:]
    if (height, width) == size:
        return image, target
    return F.resize(image, list(size), antialias=True), resized_target(target, (height, width), size)


def resized_target(target: Target, before: tuple[int, int], after: tuple[int, int]) -> Target:
    """The target of a picture that is resized from one (height, width) to another."""
    if before == after:
        return target
    x, y = after[1] / before[1], after[0] / before[0]
    resized = {**target, "boxes": target["boxes"] * torch.tensor([x, y, x, y])}
    if "masks" in target:
        resized["masks"] = target["masks"].scaled(x, y)
    return resized


def moved(target: Target, x: float, y: float) -> Target:
    """The target in a picture whose origin lies ``x``, ``y`` pixels further left and up."""
    changed = {**target, "boxes": target["boxes"] + torch.tensor([x, y, x, y])}
    if "masks" in target:
        changed["masks"] = target["masks"].shifted(x, y)
    return changed


def mirror(image: Tensor, target: Target, axis: int) -> tuple[Tensor, Target]:
    """Mirror left and right (``axis`` 0) or top and bottom (1)."""
    length = image.shape[-1 - axis]
    changed = {**target, "boxes": _mirrored(target["boxes"], length, axis)}
    if "masks" in target:
        masks: InstanceMasks = target["masks"]
        changed["masks"] = InstanceMasks(masks.cells.flip(-1 - axis), _mirrored(masks.frames, length, axis))
    return image.flip(-1 - axis), changed


def _mirrored(boxes: Tensor, length: int, axis: int) -> Tensor:
    """Boxes (N, 4) in the mirror image of a picture ``length`` pixels long along ``axis``."""
    turned = boxes.clone()
    turned[:, [axis, axis + 2]] = length - boxes[:, [axis + 2, axis]]
    return turned
