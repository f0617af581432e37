"""Pictures made of several: mosaic (YOLOv4) and mixup (Zhang et al. 2018, for detection as in YOLOX)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.training.transforms import GREY, Target, WorkingSize, moved, resize
from models.zoo.masks import InstanceMasks

CENTRE = (0.3, 0.7)  # of the mosaic's sides: where its four pictures meet
SHRUNK = (0.5, 1.0)  # of the working size: how large each of them is
LEAST_SEEN = 0.2  # of a box's area, for it to stay truth where a picture is cut
LEAST_SIDE = 2.0  # pixels
FADED = (0.4, 0.6)  # weight of the first picture of a mixup

Picture = tuple[Tensor, Target]
"""``(3, H, W)`` uint8 and what is in it."""


@dataclass(frozen=True)
class Mixing:
    """How often pictures are mixed, and until when.

    Attributes:
        mosaic: probability that a picture is a mosaic of four.
        mixup: probability that another picture shines through.
        epochs: epochs from the start in which it happens at all; the rest learns from pictures as they are.
    """

    mosaic: float = 0.0
    mixup: float = 0.0
    epochs: int = 0

    def partners(self, epoch: int, draw: random.Random) -> tuple[int, int]:
        """How many more pictures a mosaic (0 or 3) and a mixup (0 or 1) want in this epoch."""
        if epoch >= self.epochs:
            return 0, 0
        return 3 * (draw.random() < self.mosaic), int(draw.random() < self.mixup)


def mosaic(pictures: Sequence[Picture], size: WorkingSize, draw: random.Random) -> Picture:
    """Four pictures around a point, each cut where the next begins, on a canvas of the first one's working size.

    Args:
        pictures: four, of any sizes.
        size: the detector's working size.
        draw: decides the point and how large each picture is.
    """
    height, width = size.of(*pictures[0][0].shape[1:])
    middle = round(width * draw.uniform(*CENTRE)), round(height * draw.uniform(*CENTRE))
    canvas = torch.full((3, height, width), GREY, dtype=torch.uint8)
    targets = []
    for place, picture in enumerate(pictures):
        image, target = _fitted(picture, (height, width), draw.uniform(*SHRUNK))
        right, below = place % 2, place // 2
        left = middle[0] if right else middle[0] - image.shape[2]
        top = middle[1] if below else middle[1] - image.shape[1]
        field = (max(0, left), max(0, top), min(width, left + image.shape[2]), min(height, top + image.shape[1]))
        seen = image[:, field[1] - top : field[3] - top, field[0] - left : field[2] - left]
        canvas[:, field[1] : field[3], field[0] : field[2]] = seen
        targets.append(within(moved(target, left, top), field))
    return canvas, joined(targets)


def mixup(one: Picture, other: Picture, size: WorkingSize, draw: random.Random) -> Picture:
    """Two pictures through each other at the first one's working size, with the objects of both.

    The other one is fitted into the first and put somewhere in it.
    """
    height, width = size.of(*one[0].shape[1:])
    image, target = resize(*one, (height, width))
    second, others = _fitted(other, (height, width), 1.0)
    top, left = draw.randint(0, height - second.shape[1]), draw.randint(0, width - second.shape[2])
    window = image[:, top : top + second.shape[1], left : left + second.shape[2]].int()
    weight = round(256 * draw.uniform(*FADED))  # 256ths: every machine rounds whole numbers alike
    blended = (window * weight + second.int() * (256 - weight) + 128) >> 8
    image = image.clone()
    image[:, top : top + second.shape[1], left : left + second.shape[2]] = blended.to(torch.uint8)
    return image, joined([target, moved(others, left, top)])


def _fitted(picture: Picture, size: tuple[int, int], share: float) -> Picture:
    """A picture as large as ``size`` (height, width) holds it, times ``share``, its proportions kept."""
    height, width = picture[0].shape[1:]
    scale = share * min(size[0] / height, size[1] / width)
    return resize(*picture, (max(1, min(size[0], round(height * scale))), max(1, min(size[1], round(width * scale)))))


def within(target: Target, field: tuple[int, int, int, int]) -> Target:
    """What is left of a target in a field (xyxy pixels) that it is cut to; crowd regions stay while any of them shows.

    The cells of a mask outside the field are emptied: another picture lies there.
    """
    low, high = torch.tensor(field[:2] * 2).float(), torch.tensor(field[2:] * 2).float()
    boxes: Tensor = target["boxes"]
    cut = torch.maximum(torch.minimum(boxes, high), low)
    sides, whole = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    share = sides.prod(1) / whole.prod(1).clamp(min=1e-6)
    kept = (sides.amin(1) >= LEAST_SIDE) & ((share >= LEAST_SEEN) | target["iscrowd"])
    left = {key: value[kept] for key, value in target.items()}
    left["boxes"] = cut[kept]
    if "masks" in left:
        left["masks"] = left["masks"].cut(*field)
    return left


def joined(targets: Sequence[Target]) -> Target:
    """The objects of several targets in one."""
    together: Target = {key: torch.cat([target[key] for target in targets]) for key in targets[0] if key != "masks"}
    if "masks" in targets[0]:
        masks: list[InstanceMasks] = [target["masks"] for target in targets]
        together["masks"] = InstanceMasks(torch.cat([m.cells for m in masks]), torch.cat([m.frames for m in masks]))
    return together
