"""torchvision's region heads and proposal network, with crowd regions and small masks."""

# mypy: untyped-calls-exclude=torchvision
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRegionProposalNetwork

from models.zoo.masks import project
from models.zoo.transform import Sizes, Target

Features = dict[str, Tensor]
Detections = list[dict[str, Tensor]]


def in_crowd(boxes: Tensor, target: Target) -> Tensor:
    """Which boxes ``(K, 4)`` lie by more than half of their area in a crowd region of the target: ``(K,)`` bool.

    COCO's evaluation judges by the same share (``pycocotools.cocoeval``: intersection over the detection's area).
    """
    crowds = target.get("crowds")
    if crowds is None or not len(crowds):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    low = torch.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1).clamp(min=1e-6)
    return (shared / area[:, None] > 0.5).any(1)


class RegionProposalNetwork(TorchvisionRegionProposalNetwork):
    """torchvision's, except that anchors in crowd regions are no negatives."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label anchors: 1 object, 0 background, -1 neither; and the box each is matched with."""
        labels, matched = super().assign_targets_to_anchors(anchors, targets)
        for label, boxes, target in zip(labels, anchors, targets, strict=True):
            if len(target.get("crowds", ())):
                label[(label == 0) & in_crowd(boxes, target)] = -1
        return labels, matched


class RoIHeads(TorchvisionRoIHeads):
    """torchvision's, except that proposals in crowd regions are no negatives, and that masks may be small."""

    def assign(self, proposals: list[Tensor], targets: list[Target]) -> tuple[list[Tensor], list[Tensor]]:
        """Match proposals with objects.

        Returns:
            Per image the index of the matched object ``(K,)`` and the label ``(K,)``: 0 background, -1 neither.
        """
        boxes = [target["boxes"].to(proposals[0].dtype) for target in targets]
        matched, labels = self.assign_targets_to_proposals(proposals, boxes, [target["labels"] for target in targets])
        for label, proposal, target in zip(labels, proposals, targets, strict=True):
            if len(target.get("crowds", ())):
                label[(label == 0) & in_crowd(proposal, target)] = -1
        return matched, labels

    def sample(
        self, proposals: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Add the true boxes to the proposals, match, and draw the regions of this step.

        Returns:
            Per image, for K drawn regions: boxes ``(K, 4)``, index of the matched object ``(K,)``, label ``(K,)``, and
            whether the region is a true box itself ``(K,)``.
        """
        self.check_targets(targets)
        extended = self.add_gt_proposals(proposals, [target["boxes"].to(proposals[0].dtype) for target in targets])
        matched, labels = self.assign(extended, targets)
        drawn = self.subsample(labels)
        return (
            [boxes[which] for boxes, which in zip(extended, drawn, strict=True)],
            [index[which] for index, which in zip(matched, drawn, strict=True)],
            [label[which] for label, which in zip(labels, drawn, strict=True)],
            [which >= len(own) for own, which in zip(proposals, drawn, strict=True)],
        )

    def regression_targets(self, regions: list[Tensor], matched: list[Tensor], targets: list[Target]) -> list[Tensor]:
        """What the box head should say to turn each region into the object it is matched with; (K, 4) per image."""
        truth = [
            target["boxes"].to(region.dtype)[index] if len(target["boxes"]) else torch.zeros_like(region)
            for region, index, target in zip(regions, matched, targets, strict=True)
        ]
        encoded: list[Tensor] = self.box_coder.encode(truth, regions)
        return encoded

    def forward(
        self, features: Features, proposals: list[Tensor], image_shapes: Sizes, targets: list[Target] | None = None
    ) -> tuple[Detections, dict[str, Tensor]]:
        """Detections per image in evaluation, losses by name in training; the other one is empty."""
        if self.training:
            assert targets is not None, "training needs targets"
            return [], self.losses(features, proposals, image_shapes, targets)
        return self.detections(features, proposals, image_shapes), {}

    def losses(
        self, features: Features, proposals: list[Tensor], image_shapes: Sizes, targets: list[Target]
    ) -> dict[str, Tensor]:
        """``loss_classifier``, ``loss_box_reg`` and, with a mask head, ``loss_mask``."""
        regions, matched, labels, _ = self.sample(proposals, targets)
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, regions, image_shapes)))
        if not len(logits):
            classification = regression = logits.sum() * 0 + deltas.sum() * 0
        else:
            encoded = self.regression_targets(regions, matched, targets)
            classification, regression = fastrcnn_loss(logits, deltas, labels, encoded)
        losses = {"loss_classifier": classification, "loss_box_reg": regression}
        if self.mask_head is not None:
            objects = [label > 0 for label in labels]
            regions = [region[which] for region, which in zip(regions, objects, strict=True)]
            matched = [index[which] for index, which in zip(matched, objects, strict=True)]
            mask_logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, regions, image_shapes)))
            losses["loss_mask"] = mask_loss(mask_logits, regions, matched, targets)
        return losses

    def detections(self, features: Features, proposals: list[Tensor], image_shapes: Sizes) -> Detections:
        """Boxes, labels and scores per image; with a mask head also masks ``(N, 1, 28, 28)`` in 0..1."""
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        found = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        result = [
            {"boxes": boxes, "labels": labels, "scores": scores} for boxes, scores, labels in zip(*found, strict=True)
        ]
        if self.mask_head is not None:
            boxes = [one["boxes"] for one in result]
            mask_logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes)))
            add_masks(result, mask_logits.sigmoid())
        return result


def add_masks(result: Detections, masks: Tensor) -> None:
    """Give each detection the mask of its class.

    Args:
        result: per image, with ``labels``; ``masks (N, 1, M, M)`` is added.
        masks: of every class, (all N, classes, M, M) in 0..1.
    """
    labels = torch.cat([one["labels"] for one in result])
    own = masks[torch.arange(labels.shape[0], device=labels.device), labels][:, None]
    # shape[0], not len(): an exported graph must not remember how many there were
    for one, mask in zip(result, torch.split(own, [one["labels"].shape[0] for one in result]), strict=True):
        one["masks"] = mask


def mask_loss(
    logits: Tensor, regions: list[Tensor], matched: list[Tensor], targets: list[Target], *, binary: bool = False
) -> Tensor:
    """Binary cross-entropy of the masks of the regions' own classes (https://arxiv.org/abs/1703.06870, section 3).

    Args:
        logits: (all K, classes, M, M).
        regions: (K, 4) per image, those that hold an object.
        matched: (K,) per image, which object.
        targets: with ``labels`` and ``masks``.
        binary: whether the truth is 0 or 1 (mmdetection), or the share of each cell (torchvision).
    """
    if not len(logits):
        return logits.sum() * 0  # a mean over nothing is NaN
    pairs = zip(regions, matched, targets, strict=True)
    truth = torch.cat(
        [project(target["masks"], boxes, which, logits.shape[-1], aligned=binary) for boxes, which, target in pairs]
    )
    labels = torch.cat([target["labels"][which] for which, target in zip(matched, targets, strict=True)])
    own = logits[torch.arange(len(labels), device=logits.device), labels]
    return functional.binary_cross_entropy_with_logits(own, (truth >= 0.5).to(own) if binary else truth.to(own))
