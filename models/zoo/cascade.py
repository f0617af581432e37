"""Cascade R-CNN and Cascade Mask R-CNN: three box heads, each starting where the last one ended.

The paper is https://arxiv.org/abs/1906.09756. By default everything follows mmdetection 3.3
(configs/_base_/models/cascade-mask-rcnn_r50_fpn.py); where detectron2 differs, ``cascade: detectron2`` chooses its
rule. Boxes are class-agnostic, regions are pooled aligned.
"""

# mypy: untyped-calls-exclude="torchvision,models.zoo"
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import clip_boxes_to_image

from models.zoo.backbones import CHANNELS, pyramid
from models.zoo.detector import ClassRows, Detector, Pretrained
from models.zoo.options import DetectorOptions
from models.zoo.pooling import RegionPool
from models.zoo.rcnn import FASTER_RCNN, OPTIONS, RECIPE, STRIDES, anchor_generator, assemble, proposal_network
from models.zoo.roi_heads import Detections, Features, RoIHeads, add_masks, mask_loss
from models.zoo.transform import Sizes, Target


@dataclass(frozen=True)
class Rules:
    """Where the two implementations differ.

    Attributes:
        loss_weights: of the three stages.
        box_weights: of the three stages' box coders: the inverse standard deviations of (dx, dy, dw, dh).
        beta: where the smooth L1 loss turns from square to linear; 0 is L1.
        resample: draw regions anew for each stage, or keep those of the first.
        gradient: share of each box head's gradient that reaches the pyramid.
        average_logits: average logits over the stages, or probabilities.
    """

    loss_weights: tuple[float, float, float]
    box_weights: tuple[tuple[float, float, float, float], ...]
    beta: float
    resample: bool
    gradient: float
    average_logits: bool


RULES = {
    "mmdetection": Rules(
        loss_weights=(1.0, 0.5, 0.25),
        box_weights=tuple((1 / xy, 1 / xy, 1 / wh, 1 / wh) for xy, wh in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))),
        beta=1.0,
        resample=True,
        gradient=1.0,
        average_logits=True,
    ),
    "detectron2": Rules(
        loss_weights=(1.0, 1.0, 1.0),
        box_weights=((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)),
        beta=0.0,
        resample=False,
        gradient=1 / 3,
        average_logits=False,
    ),
}
IOU = (0.5, 0.6, 0.7)  # from which a region holds an object, by stage


class ExactAnchors(AnchorGenerator):
    """torchvision's anchors before it rounds them: what mmdetection's weights were trained with."""

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        """Anchors around (0, 0) for every ratio and size, ``(ratios * sizes, 4)`` xyxy."""
        sizes = torch.as_tensor(scales, dtype=dtype, device=device)
        roots = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        half_w, half_h = (sizes / roots[:, None]).flatten() / 2, (sizes * roots[:, None]).flatten() / 2
        return torch.stack((-half_w, -half_h, half_w, half_h), dim=1)


class BoxPredictor(nn.Module):
    """Scores for every class and one box for all of them."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(channels, num_classes)
        self.bbox_pred = nn.Linear(channels, 4)
        for layer, deviation in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(K, classes)`` and deltas ``(K, 4)`` of features ``(K, channels)``."""
        return self.cls_score(features), self.bbox_pred(features)


class CascadeHeads(RoIHeads):
    """Three box heads in a row, with as many mask heads where masks are wanted."""

    def __init__(self, num_classes: int, options: DetectorOptions, *, masks: bool) -> None:
        """Heads for ``num_classes`` with the background, after resolved options."""
        rules = RULES[options.cascade or "mmdetection"]
        super().__init__(  # type: ignore[no-untyped-call]
            RegionPool(7, STRIDES, aligned=True),
            nn.ModuleList(TwoMLPHead(CHANNELS * 7**2, 1024) for _ in IOU),
            nn.ModuleList(BoxPredictor(1024, num_classes) for _ in IOU),
            IOU[0],
            IOU[0],
            options.rois_per_image,
            0.25,
            None,
            options.score_threshold,
            options.nms,
            options.detections_per_image,
        )
        self.rules = rules
        self.box_coders = [BoxCoder(weights) for weights in rules.box_weights]
        self.matchers = [Matcher(iou, iou, allow_low_quality_matches=False) for iou in IOU]
        if masks:
            self.mask_roi_pool = RegionPool(14, STRIDES, aligned=True)
            self.mask_head = nn.ModuleList(MaskRCNNHeads(CHANNELS, [CHANNELS] * 4, 1) for _ in IOU)
            self.mask_predictor = nn.ModuleList(MaskRCNNPredictor(CHANNELS, 256, num_classes) for _ in IOU)

    def losses(
        self, features: Features, proposals: list[Tensor], image_shapes: Sizes, targets: list[Target]
    ) -> dict[str, Tensor]:
        """``loss_classifier_K``, ``loss_box_reg_K`` and, with mask heads, ``loss_mask_K`` of each stage K, weighted."""
        losses: dict[str, Tensor] = {}
        regions = proposals
        for stage, weight in enumerate(self.rules.loss_weights):
            self.proposal_matcher, self.box_coder = self.matchers[stage], self.box_coders[stage]
            if stage == 0 or self.rules.resample:
                regions, matched, labels, true = self.sample(regions, targets)
            else:
                matched, labels = self.assign(regions, targets)
                true = [torch.zeros_like(label, dtype=torch.bool) for label in labels]
            logits, deltas = self.predict(stage, features, regions, image_shapes)
            encoded = torch.cat(self.regression_targets(regions, matched, targets))
            classification, regression = box_loss(logits, deltas, torch.cat(labels), encoded, self.rules.beta)
            losses |= {
                f"loss_classifier_{stage}": weight * classification,
                f"loss_box_reg_{stage}": weight * regression,
            }
            if self.mask_head is not None:
                mask = self.stage_mask_loss(stage, features, regions, matched, labels, image_shapes, targets)
                losses[f"loss_mask_{stage}"] = weight * mask
            refined = self.refine(stage, deltas, regions, image_shapes)
            regions = [
                boxes[~known & (boxes[:, 2:] > boxes[:, :2]).all(1)] for boxes, known in zip(refined, true, strict=True)
            ]
        return losses

    def predict(
        self, stage: int, features: Features, regions: list[Tensor], image_shapes: Sizes
    ) -> tuple[Tensor, Tensor]:
        """Logits ``(all K, classes)`` and deltas ``(all K, 4)`` of a stage for ``regions (K, 4)`` of each image."""
        pooled = self.box_roi_pool(features, regions, image_shapes)
        if self.rules.gradient != 1:
            pooled = pooled * self.rules.gradient + pooled.detach() * (1 - self.rules.gradient)
        logits, deltas = self.box_predictor[stage](self.box_head[stage](pooled))
        return logits, deltas.float()  # boxes are decoded in their type, and bfloat16 knows no single pixels

    @torch.no_grad()
    def refine(self, stage: int, deltas: Tensor, regions: list[Tensor], image_shapes: Sizes) -> list[Tensor]:
        """The regions after a stage's deltas ``(all K, 4)``, within their images."""
        boxes = self.box_coders[stage].decode_single(deltas, torch.cat(regions))
        split = torch.split(boxes, [region.shape[0] for region in regions])
        return [clip_boxes_to_image(own, shape) for own, shape in zip(split, image_shapes, strict=True)]

    def stage_mask_loss(
        self,
        stage: int,
        features: Features,
        regions: list[Tensor],
        matched: list[Tensor],
        labels: list[Tensor],
        image_shapes: Sizes,
        targets: list[Target],
    ) -> Tensor:
        """The loss of one mask head over the regions that hold an object."""
        objects = [torch.where(label > 0)[0] for label in labels]
        regions = [region[which] for region, which in zip(regions, objects, strict=True)]
        matched = [index[which] for index, which in zip(matched, objects, strict=True)]
        pooled = self.mask_roi_pool(features, regions, image_shapes)
        logits = self.mask_predictor[stage](self.mask_head[stage](pooled))
        return mask_loss(logits, regions, matched, targets, binary=True)

    def detections(self, features: Features, proposals: list[Tensor], image_shapes: Sizes) -> Detections:
        """Boxes of the last stage with the mean score of all; masks are the mean of all stages."""
        scores, deltas, regions = self.cascade(features, proposals, image_shapes)
        self.box_coder = self.box_coders[-1]
        # torchvision decodes a box for each class: here they are all the same.
        found = self.postprocess_detections(scores, deltas.repeat(1, scores.shape[1]), regions, image_shapes)
        result = [
            {"boxes": boxes, "labels": labels, "scores": scores} for boxes, scores, labels in zip(*found, strict=True)
        ]
        if self.mask_head is not None:
            pooled = self.mask_roi_pool(features, [one["boxes"] for one in result], image_shapes)
            stages = zip(self.mask_head, self.mask_predictor, strict=True)
            add_masks(result, torch.stack([predictor(head(pooled)).sigmoid() for head, predictor in stages]).mean(0))
        return result

    def cascade(
        self, features: Features, proposals: list[Tensor], image_shapes: Sizes
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run the stages in prediction.

        Returns:
            Mean logits ``(all K, classes)`` (or logarithms of mean probabilities), the last stage's deltas
            ``(all K, 4)``, and the regions ``(K, 4)`` per image that the last stage looked at.
        """
        regions = proposals
        logits, deltas = self.predict(0, features, regions, image_shapes)
        votes = [logits]
        for stage in range(1, len(IOU)):
            regions = self.refine(stage - 1, deltas, regions, image_shapes)
            logits, deltas = self.predict(stage, features, regions, image_shapes)
            votes.append(logits)
        stacked = torch.stack(votes)
        mean = (stacked if self.rules.average_logits else stacked.softmax(-1)).mean(0)
        return (mean if self.rules.average_logits else mean.log()), deltas, regions


def box_loss(logits: Tensor, deltas: Tensor, labels: Tensor, targets: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy and class-agnostic smooth L1, both averaged over all regions; 0 where there are none.

    Args:
        logits: (K, classes).
        deltas: (K, 4).
        labels: (K,), 0 background, -1 left out.
        targets: (K, 4), what the deltas should be.
        beta: see :class:`Rules`.
    """
    count = (labels >= 0).sum().clamp(min=1)
    classification = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / count
    objects = torch.where(labels > 0)[0]
    regression = functional.smooth_l1_loss(deltas[objects], targets[objects], beta=beta, reduction="sum") / count
    return classification, regression


def cascade_rcnn(num_classes: int, options: DetectorOptions) -> nn.Module:
    """Cascade R-CNN with ResNet-50 and FPN."""
    proposals = proposal_network(options, anchor_generator(options, ExactAnchors))
    return assemble(pyramid(options), proposals, CascadeHeads(num_classes, options, masks=False), options)


def cascade_mask_rcnn(num_classes: int, options: DetectorOptions) -> nn.Module:
    """Cascade Mask R-CNN with ResNet-50 and FPN: a mask head at each stage, as in mmdetection."""
    proposals = proposal_network(options, anchor_generator(options, ExactAnchors))
    return assemble(pyramid(options), proposals, CascadeHeads(num_classes, options, masks=True), options)


CLASSIFICATION = r"roi_heads\.box_predictor\.\d\.cls_score\.(weight|bias)"
MASK = r"roi_heads\.mask_predictor\.\d\.mask_fcn_logits\.(weight|bias)"
# The seed's field drops the box layer as well, though no class owns it here.
FIELDS = {"cls_score": CLASSIFICATION, "bbox_pred": r"roi_heads\.box_predictor\.\d\.bbox_pred\.(weight|bias)"}
MMDETECTION = "https://download.openmmlab.com/mmdetection/v2.0/cascade_rcnn"

CASCADE_RCNN = replace(
    FASTER_RCNN,
    name="cascade_rcnn_resnet50_fpn",
    title="Cascade R-CNN R50-FPN",
    build=cascade_rcnn,
    class_rows=(ClassRows(CLASSIFICATION),),
    fields=FIELDS,
    pretrained=(
        Pretrained(
            f"{MMDETECTION}/cascade_rcnn_r50_fpn_20e_coco/"
            "cascade_rcnn_r50_fpn_20e_coco_bbox_mAP-0.41_20200504_175131-e9872a90.pth",
            41.0,
        ),
        Pretrained(
            f"{MMDETECTION}/cascade_rcnn_r50_fpn_1x_coco/cascade_rcnn_r50_fpn_1x_coco_20200316-3dc56deb.pth", 40.3
        ),
    ),
    defaults=RECIPE | {"clip_norm": 35.0},
    options=OPTIONS | {"cascade": "mmdetection"},
)

ENTRIES: tuple[Detector, ...] = (
    CASCADE_RCNN,
    replace(
        CASCADE_RCNN,
        name="cascade_mask_rcnn_resnet50_fpn",
        title="Cascade Mask R-CNN R50-FPN",
        build=cascade_mask_rcnn,
        class_rows=(ClassRows(CLASSIFICATION), ClassRows(MASK)),
        fields=FIELDS | {"mask_fcn_logits": MASK},
        pretrained=(
            Pretrained(
                f"{MMDETECTION}/cascade_mask_rcnn_r50_fpn_mstrain_3x_coco/"
                "cascade_mask_rcnn_r50_fpn_mstrain_3x_coco_20210628_164719-5bdc3824.pth",
                44.3,
                38.5,
            ),
            Pretrained(
                f"{MMDETECTION}/cascade_mask_rcnn_r50_fpn_1x_coco/cascade_mask_rcnn_r50_fpn_1x_coco_20200203-9d4dcb24.pth",
                41.2,
                35.9,
            ),
        ),
        masks=True,
    ),
)
