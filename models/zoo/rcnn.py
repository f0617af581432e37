"""Faster R-CNN and Mask R-CNN: torchvision's parts, put together by the options."""

# mypy: untyped-calls-exclude="torchvision,models.zoo.roi_heads"
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from models.zoo.backbones import CHANNELS, MOBILENET_STAGES, RESNET_STAGES, finish, mobilenet_fpn, pyramid
from models.zoo.detector import ClassRows, Detector, Part, Pretrained
from models.zoo.options import DetectorOptions
from models.zoo.pooling import RegionPool
from models.zoo.roi_heads import RegionProposalNetwork, RoIHeads
from models.zoo.transform import ImageTransform

STRIDES = (4, 8, 16, 32)  # of the pyramid's levels that regions come from
MOBILENET_STRIDES = (32,)  # its second level has the same stride
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

CLASSIFICATION = ClassRows(r"roi_heads\.box_predictor\.cls_score\.(weight|bias)")
REGRESSION = ClassRows(r"roi_heads\.box_predictor\.bbox_pred\.(weight|bias)", per_class=4)
MASK = ClassRows(r"roi_heads\.mask_predictor\.mask_fcn_logits\.(weight|bias)")
# Anchored at roi_heads: the region proposal network has a bbox_pred of its own that no class owns.
BOX_FIELDS = {
    "cls_score": r"roi_heads\.box_predictor\.cls_score\..+",
    "bbox_pred": r"roi_heads\.box_predictor\.bbox_pred\..+",
}
MASK_FIELDS = BOX_FIELDS | {"mask_fcn_logits": r"roi_heads\.mask_predictor\.mask_fcn_logits\..+"}
PARTS: tuple[tuple[str, Part], ...] = ((r"backbone\.body\.", "backbone"), (r"backbone\.fpn\.", "neck"))

OPTIONS: dict[str, Any] = {
    "backbone": None,
    "min_size": 800,
    "max_size": 1333,
    "image_mean": IMAGENET_MEAN,
    "image_std": IMAGENET_STD,
    "trainable_layers": 3,
    "norm": "frozen",
    "norm_eps": 1e-5,
    "anchors": ((32,), (64,), (128,), (256,), (512,)),
    "aspect_ratios": (0.5, 1.0, 2.0),
    "rois_per_image": 512,
    "score_threshold": 0.05,
    "nms": 0.5,
    "detections_per_image": 100,
}
MOBILENET_OPTIONS = {key: OPTIONS[key] for key in OPTIONS if key != "backbone"} | {
    "anchors": ((32, 64, 128, 256, 512),) * 3
}
# torchvision references/detection: 0.02 for 16 images, step decay, warm-up of 1000 steps for 117k images.
RECIPE = {
    "learning_rate_per_image": 0.00125,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "clip_norm": 10.0,
    "warmup_steps": 500,
}


def proposal_network(
    options: DetectorOptions, anchors: AnchorGenerator, *, depth: int = 1, score: float = 0.0, tested: int = 1000
) -> RegionProposalNetwork:
    """The region proposal network with torchvision's settings.

    Args:
        options: resolved options.
        anchors: made from them.
        depth: hidden convolutions.
        score: proposals below it are dropped.
        tested: proposals per image in prediction, before and after the suppression of doubles.
    """
    return RegionProposalNetwork(
        anchors,
        RPNHead(CHANNELS, anchors.num_anchors_per_location()[0], depth),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2000, "testing": tested},
        post_nms_top_n={"training": 2000, "testing": tested},
        nms_thresh=0.7,
        score_thresh=score,
    )


def anchor_generator(options: DetectorOptions, kind: type[AnchorGenerator] = AnchorGenerator) -> AnchorGenerator:
    """Anchors of the sizes that the options list for each level, all in the same shapes."""
    assert isinstance(options.anchors, tuple), "options are resolved first"
    return kind(options.anchors, (options.aspect_ratios,) * len(options.anchors))


def region_heads(
    num_classes: int,
    options: DetectorOptions,
    box_head: nn.Module,
    mask_head: nn.Module | None = None,
    *,
    strides: Sequence[int] = STRIDES,
) -> RoIHeads:
    """Box head, perhaps mask head, and their predictors."""
    mask = (RegionPool(14, strides, samples=2), mask_head, MaskRCNNPredictor(CHANNELS, 256, num_classes))
    return RoIHeads(
        RegionPool(7, strides, samples=2),
        box_head,
        FastRCNNPredictor(1024, num_classes),
        0.5,  # IoU from which a region holds an object
        0.5,  # IoU below which it is background
        options.rois_per_image,
        0.25,  # at most this share of the regions holds objects
        None,
        options.score_threshold,
        options.nms,
        options.detections_per_image,
        *(mask if mask_head is not None else ()),
    )


def faster_rcnn(num_classes: int, options: DetectorOptions) -> nn.Module:
    """Faster R-CNN with ResNet-50 and FPN, as published (https://arxiv.org/abs/1612.03144)."""
    heads = region_heads(num_classes, options, TwoMLPHead(CHANNELS * 7**2, 1024))
    return assemble(pyramid(options), proposal_network(options, anchor_generator(options)), heads, options)


def faster_rcnn_v2(num_classes: int, options: DetectorOptions) -> nn.Module:
    """Faster R-CNN with deeper heads, normalised everywhere (https://arxiv.org/abs/2111.11429)."""
    heads = region_heads(num_classes, options, _deep_box_head())
    proposals = proposal_network(options, anchor_generator(options), depth=2)
    return assemble(pyramid(options, norm=nn.BatchNorm2d), proposals, heads, options)


def faster_rcnn_mobilenet(num_classes: int, options: DetectorOptions) -> nn.Module:
    """Faster R-CNN with MobileNetV3-Large and FPN."""
    heads = region_heads(num_classes, options, TwoMLPHead(CHANNELS * 7**2, 1024), strides=MOBILENET_STRIDES)
    proposals = proposal_network(options, anchor_generator(options), score=0.05)
    return assemble(mobilenet_fpn(), proposals, heads, options, MOBILENET_STAGES)


def faster_rcnn_mobilenet_320(num_classes: int, options: DetectorOptions) -> nn.Module:
    """The same at 320 pixels, with fewer proposals in prediction."""
    heads = region_heads(num_classes, options, TwoMLPHead(CHANNELS * 7**2, 1024), strides=MOBILENET_STRIDES)
    proposals = proposal_network(options, anchor_generator(options), score=0.05, tested=150)
    return assemble(mobilenet_fpn(), proposals, heads, options, MOBILENET_STAGES)


def mask_rcnn(num_classes: int, options: DetectorOptions) -> nn.Module:
    """Mask R-CNN with ResNet-50 and FPN (https://arxiv.org/abs/1703.06870)."""
    mask_head = MaskRCNNHeads(CHANNELS, [CHANNELS] * 4, 1)
    heads = region_heads(num_classes, options, TwoMLPHead(CHANNELS * 7**2, 1024), mask_head)
    return assemble(pyramid(options), proposal_network(options, anchor_generator(options)), heads, options)


def mask_rcnn_v2(num_classes: int, options: DetectorOptions) -> nn.Module:
    """Mask R-CNN with deeper heads, normalised everywhere (https://arxiv.org/abs/2111.11429)."""
    mask_head = MaskRCNNHeads(CHANNELS, [CHANNELS] * 4, 1, norm_layer=nn.BatchNorm2d)
    heads = region_heads(num_classes, options, _deep_box_head(), mask_head)
    proposals = proposal_network(options, anchor_generator(options), depth=2)
    return assemble(pyramid(options, norm=nn.BatchNorm2d), proposals, heads, options)


def assemble(
    backbone: nn.Module,
    proposals: RegionProposalNetwork,
    heads: RoIHeads,
    options: DetectorOptions,
    stages: Sequence[str] = RESNET_STAGES,
) -> nn.Module:
    """The detector of these parts."""
    model = GeneralizedRCNN(backbone, proposals, heads, ImageTransform(options))
    return finish(model, options, stages)


def _deep_box_head() -> nn.Module:
    head: nn.Module = FastRCNNConvFCHead((CHANNELS, 7, 7), [CHANNELS] * 4, [1024], norm_layer=nn.BatchNorm2d)
    return head


FASTER_RCNN = Detector(
    name="fasterrcnn_resnet50_fpn",
    title="Faster R-CNN R50-FPN",
    build=faster_rcnn,
    class_rows=(CLASSIFICATION, REGRESSION),
    fields=BOX_FIELDS,
    parts=PARTS,
    stages=RESNET_STAGES,
    pretrained=(Pretrained("torchvision://FasterRCNN_ResNet50_FPN_Weights.COCO_V1", 37.0, norm_eps=0.0),),
    defaults=RECIPE,
    options=OPTIONS,
)
MASK_RCNN = replace(
    FASTER_RCNN,
    name="maskrcnn_resnet50_fpn",
    title="Mask R-CNN R50-FPN",
    build=mask_rcnn,
    class_rows=(CLASSIFICATION, REGRESSION, MASK),
    fields=MASK_FIELDS,
    pretrained=(Pretrained("torchvision://MaskRCNN_ResNet50_FPN_Weights.COCO_V1", 37.9, 34.6, norm_eps=0.0),),
    masks=True,
)
MOBILENET = replace(
    FASTER_RCNN,
    name="fasterrcnn_mobilenet_v3_large_fpn",
    title="Faster R-CNN MobileNetV3-FPN",
    build=faster_rcnn_mobilenet,
    stages=MOBILENET_STAGES,
    pretrained=(Pretrained("torchvision://FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1", 32.8),),
    options=MOBILENET_OPTIONS,
)

ENTRIES = (
    FASTER_RCNN,
    replace(
        FASTER_RCNN,
        name="fasterrcnn_resnet50_fpn_v2",
        title="Faster R-CNN R50-FPN v2",
        build=faster_rcnn_v2,
        pretrained=(Pretrained("torchvision://FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1", 46.7),),
    ),
    MOBILENET,
    replace(
        MOBILENET,
        name="fasterrcnn_mobilenet_v3_large_320_fpn",
        title="Faster R-CNN MobileNetV3-FPN 320",
        build=faster_rcnn_mobilenet_320,
        pretrained=(Pretrained("torchvision://FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1", 22.8),),
        options=MOBILENET_OPTIONS | {"min_size": 320, "max_size": 640},
    ),
    MASK_RCNN,
    replace(
        MASK_RCNN,
        name="maskrcnn_resnet50_fpn_v2",
        title="Mask R-CNN R50-FPN v2",
        build=mask_rcnn_v2,
        pretrained=(Pretrained("torchvision://MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1", 47.4, 41.8),),
    ),
)
