"""RetinaNet and FCOS: one prediction at every place of every pyramid level."""

# mypy: untyped-calls-exclude="torchvision,models.zoo.dense"
from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.retinanet import RetinaNetHead

from models.zoo import rcnn
from models.zoo.backbones import RESNET_STAGES, finish, pyramid
from models.zoo.detector import ClassRows, Detector, Pretrained
from models.zoo.options import DetectorOptions
from models.zoo.transform import Sizes

Outputs = dict[str, list[Tensor]]  # by name, one tensor (B, places, ...) per level

OPTIONS: dict[str, Any] = {key: rcnn.OPTIONS[key] for key in rcnn.OPTIONS if key != "rois_per_image"} | {
    "anchors": tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512)),
    "detections_per_image": 300,
}
FCOS_OPTIONS = {key: OPTIONS[key] for key in OPTIONS if key not in {"anchors", "aspect_ratios"}}
DENSE_RECIPE = rcnn.RECIPE | {
    "learning_rate_per_image": 0.000625
}  # torchvision references/detection: 0.01 for 16 images
LEVELS = (2, 3, 4)  # P2 has too many anchors (https://arxiv.org/abs/1708.02002, section 4)


class Foreground:
    """What torchvision's detectors here lack: nothing is ever found as background, row 0 of a head is no class's."""

    def postprocess_detections(
        self, head_outputs: Outputs, anchors: list[list[Tensor]], image_shapes: Sizes
    ) -> list[dict[str, Tensor]]:
        """Detections per image from the outputs and the anchors of each level."""
        found: list[dict[str, Tensor]] = super().postprocess_detections(  # type: ignore[misc]
            without_background(head_outputs), anchors, image_shapes
        )
        return found


class ForegroundRetinaNet(Foreground, RetinaNet):
    """RetinaNet that finds no background."""


class ForegroundFCOS(Foreground, FCOS):
    """FCOS that finds no background."""


def without_background(head_outputs: Outputs) -> Outputs:
    """The outputs with a logit of minus infinity for label 0 at every place of every level."""
    logits = [functional.pad(level[..., 1:], (1, 0), value=-math.inf) for level in head_outputs["cls_logits"]]
    return {**head_outputs, "cls_logits": logits}


def selection(options: DetectorOptions) -> dict[str, Any]:
    """Which detections are kept, in torchvision's words."""
    return {
        "score_thresh": options.score_threshold,
        "nms_thresh": options.nms,
        "detections_per_img": options.detections_per_image,
    }


def retinanet(num_classes: int, options: DetectorOptions) -> nn.Module:
    """RetinaNet with ResNet-50 and FPN; P6 comes from P5 (https://arxiv.org/abs/1708.02002)."""
    backbone = pyramid(options, LEVELS, "pyramid")
    model = ForegroundRetinaNet(
        backbone, num_classes, anchor_generator=rcnn.anchor_generator(options), **selection(options)
    )
    return finish(model, options, RESNET_STAGES)


def retinanet_v2(num_classes: int, options: DetectorOptions) -> nn.Module:
    """RetinaNet with group norm in its heads and a GIoU loss; P6 comes from C5, as in mmdetection."""
    backbone = pyramid(options, LEVELS, "backbone")
    anchors = rcnn.anchor_generator(options)
    head = RetinaNetHead(256, anchors.num_anchors_per_location()[0], num_classes, norm_layer=partial(nn.GroupNorm, 32))
    head.regression_head._loss_type = "giou"
    model = ForegroundRetinaNet(backbone, num_classes, anchor_generator=anchors, head=head, **selection(options))
    return finish(model, options, RESNET_STAGES)


def fcos(num_classes: int, options: DetectorOptions) -> nn.Module:
    """FCOS with ResNet-50 and FPN: no anchors (https://arxiv.org/abs/2006.09214)."""
    model = ForegroundFCOS(pyramid(options, LEVELS, "pyramid"), num_classes, **selection(options))
    return finish(model, options, RESNET_STAGES)


CLASSIFICATION = r"head\.classification_head\.cls_logits\.(weight|bias)"

RETINANET = Detector(
    name="retinanet_resnet50_fpn",
    title="RetinaNet R50-FPN",
    build=retinanet,
    class_rows=(ClassRows(CLASSIFICATION),),
    fields={"retnet_cls_pred_fpn": CLASSIFICATION},
    parts=rcnn.PARTS,
    stages=RESNET_STAGES,
    pretrained=(Pretrained("torchvision://RetinaNet_ResNet50_FPN_Weights.COCO_V1", 36.4, norm_eps=0.0),),
    defaults=DENSE_RECIPE,
    options=OPTIONS,
)

ENTRIES = (
    RETINANET,
    replace(
        RETINANET,
        name="retinanet_resnet50_fpn_v2",
        title="RetinaNet R50-FPN v2",
        build=retinanet_v2,
        pretrained=(Pretrained("torchvision://RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1", 41.5),),
    ),
    replace(
        RETINANET,
        name="fcos_resnet50_fpn",
        title="FCOS R50-FPN",
        build=fcos,
        fields={"cls_logits": CLASSIFICATION},
        pretrained=(Pretrained("torchvision://FCOS_ResNet50_FPN_Weights.COCO_V1", 39.2),),
        options=FCOS_OPTIONS | {"score_threshold": 0.2, "nms": 0.6, "detections_per_image": 100},
    ),
)
