"""Which place of YOLOv3's maps answers for which object, and what it is told about it.

The rules are mmdetection's (GridAssigner, YOLOBBoxCoder, YOLOV3Head): in each map the cell that holds an object's
centre is responsible for it; of the anchors there those with an IoU above 0.5 answer, and in any case the best one; all
others with an IoU up to 0.5 learn that there is nothing; the rest learns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou

from models.zoo.roi_heads import in_crowd
from models.zoo.transform import Target

EPSILON = 1e-6
IOU = 0.5


@dataclass(frozen=True)
class Priors:
    """The anchors at every place of every map, coarse to fine, row by row, P in all.

    Attributes:
        centers: (P, 2) x and y, pixels.
        sizes: (P, 2) width and height, pixels.
        strides: (P,) pixels per cell.
        shapes: (height, width) of each map.
        per_cell: anchors per cell.
    """

    centers: Tensor
    sizes: Tensor
    strides: Tensor
    shapes: tuple[tuple[int, int], ...]
    per_cell: int

    @classmethod
    def of(
        cls,
        shapes: Sequence[tuple[int, int]],
        anchors: Sequence[Sequence[float]],
        strides: Sequence[int],
        device: torch.device,
    ) -> Priors:
        """Lay ``anchors`` (width, height), small to large, over maps of ``shapes``, coarse to fine."""
        per_cell = len(anchors) // len(shapes)
        centers, sizes, steps = [], [], []
        for level, ((height, width), stride) in enumerate(zip(shapes, strides, strict=True)):
            first = len(anchors) - (level + 1) * per_cell
            own = torch.tensor(anchors[first : first + per_cell], dtype=torch.float32, device=device)
            y, x = torch.meshgrid(
                torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
            )
            middle = (torch.stack((x, y), -1).view(-1, 1, 2) + 0.5) * stride
            centers.append(middle.expand(-1, per_cell, 2).reshape(-1, 2))
            sizes.append(own.repeat(height * width, 1))
            steps.append(torch.full((height * width * per_cell,), float(stride), device=device))
        return cls(torch.cat(centers), torch.cat(sizes), torch.cat(steps), tuple(shapes), per_cell)

    @property
    def boxes(self) -> Tensor:
        """(P, 4) pixel xyxy."""
        return torch.cat((self.centers - self.sizes / 2, self.centers + self.sizes / 2), 1)

    def decode(self, predictions: Tensor) -> Tensor:
        """Raw ``(B, P, 4)`` (x, y before the sigmoid, log of the size relative to the anchor) to pixel xyxy."""
        centers = self.centers + (predictions[..., :2].sigmoid() - 0.5) * self.strides[:, None]
        halves = self.sizes / 2 * predictions[..., 2:].clamp(max=10).exp()  # 10: no infinite boxes
        return torch.cat((centers - halves, centers + halves), -1)

    def encode(self, boxes: Tensor, places: Tensor) -> Tensor:
        """What places ``(K,)`` should predict for ``boxes (K, 4)``: x, y within the cell (0..1), log sizes; (K, 4)."""
        middle, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        inside = (middle - self.centers[places]) / self.strides[places, None] + 0.5
        logs = (extent / self.sizes[places]).clamp(min=EPSILON).log()
        return torch.cat((inside.clamp(EPSILON, 1 - EPSILON), logs), 1)

    def responsible(self, boxes: Tensor) -> Tensor:
        """Which places lie in a cell that holds the centre of one of the ``boxes (N, 4)``: ``(P,)`` bool."""
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        flags, first = torch.zeros(len(self.centers), dtype=torch.bool, device=boxes.device), 0
        for height, width in self.shapes:
            cell = (middle / self.strides[first]).floor().long()
            index = cell[:, 1].clamp(0, height - 1) * width + cell[:, 0].clamp(0, width - 1)
            for anchor in range(self.per_cell):
                flags[first + index * self.per_cell + anchor] = True
            first += height * width * self.per_cell
        return flags


def assign(priors: Priors, boxes: Tensor) -> Tensor:
    """Match places with objects.

    Args:
        priors: P places.
        boxes: (N, 4) pixel xyxy; N may be 0.

    Returns:
        (P,) the object that each place answers for, -1 where there is none, -2 where the place learns nothing.
    """
    answer = torch.full((len(priors.centers),), -1, device=boxes.device)
    if not len(boxes):
        return answer
    overlap = box_iou(boxes, priors.boxes)
    answer[overlap.amax(0) > IOU] = -2
    overlap[:, ~priors.responsible(boxes)] = -1
    best, whose = overlap.max(0)
    answer = torch.where(best > IOU, whose, answer)
    top = overlap.amax(1, keepdim=True)
    chosen = (overlap == top) & (top > 0)
    # Where two objects choose the same place, the later one has it.
    number = torch.arange(1, len(boxes) + 1, device=boxes.device)[:, None]
    last = (chosen * number).amax(0)
    return torch.where(last > 0, last - 1, answer)


def yolo_losses(predictions: Tensor, priors: Priors, targets: Sequence[Target]) -> dict[str, Tensor]:
    """``loss_class``, ``loss_object``, ``loss_center`` and ``loss_size``, summed over places, averaged over images.

    mmdetection sums over the images as well; its learning rate is meant for that.

    Args:
        predictions: (B, P, 5 + C) raw: x, y, w, h, object, classes.
        priors: the P places.
        targets: per image ``boxes (N, 4)`` in pixels of the batch and ``labels (N,)`` from 1.
    """
    wanted = [_wanted(priors, target, predictions.shape[-1] - 5) for target in targets]
    truth, known = torch.stack([one for one, _ in wanted]), torch.stack([one for _, one in wanted])
    holds = truth[..., 4]
    entropy = functional.binary_cross_entropy_with_logits(predictions, truth, reduction="none")
    squares = (predictions[..., 2:4] - truth[..., 2:4]) ** 2
    summed = {
        "loss_class": (entropy[..., 5:].sum(-1) * holds).sum(),
        "loss_object": (entropy[..., 4] * known).sum(),
        "loss_center": 2 * (entropy[..., :2].sum(-1) * holds).sum(),
        "loss_size": 2 * (squares.sum(-1) * holds).sum(),
    }
    return {name: loss / len(targets) for name, loss in summed.items()}


def _wanted(priors: Priors, target: Target, classes: int) -> tuple[Tensor, Tensor]:
    """What each place should say, ``(P, 5 + classes)``, and which places are told about objects at all, ``(P,)``."""
    answer = assign(priors, target["boxes"])
    truth = torch.zeros(len(answer), 5 + classes, device=answer.device)
    places = torch.where(answer >= 0)[0]
    whose = answer[places]
    truth[places, :4] = priors.encode(target["boxes"][whose], places)
    truth[places, 4] = 1
    truth[places, 4 + target["labels"][whose]] = 1
    silent = (answer == -2) | ((answer == -1) & in_crowd(priors.boxes, target))
    return truth, (~silent).float()
