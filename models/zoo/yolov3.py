"""YOLOv3 (https://arxiv.org/abs/1804.02767) with Darknet-53, and a small one with MobileNetV3 for CPUs.

Names, decoding and losses follow mmdetection 3.3 (configs/yolo/yolov3_d53_8xb8-ms-608-273e_coco.py), so that its
weights and darknet's fit; the output layers are called ``yolo_output`` as in PaddleDetection.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import batched_nms, clip_boxes_to_image

from models.errors import DetectorError
from models.zoo.backbones import MOBILENET_STAGES, finish, mobilenet
from models.zoo.detector import ClassRows, Detector, Pretrained
from models.zoo.options import DetectorOptions
from models.zoo.rcnn import IMAGENET_MEAN, IMAGENET_STD
from models.zoo.transform import Target
from models.zoo.yolov3_loss import Priors, yolo_losses

STRIDES = (32, 16, 8)  # of the three maps, coarse to fine
DARKNET_BLOCKS = (1, 2, 8, 8, 4)
COCO_ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
# The same objects in a picture of 320 instead of 608 pixels (mmdetection's yolov3_mobilenetv2_8xb24-320).
MOBILENET_ANCHORS = ((10, 15), (24, 36), (72, 42), (35, 87), (102, 96), (60, 170), (220, 125), (128, 222), (264, 266))
OBJECTNESS = 0.005  # predictions less sure of an object are not looked at
CANDIDATES = 1000  # at most so many class predictions per image go on to the suppression of doubles


class ConvNorm(nn.Module):
    """Convolution, batch norm, leaky ReLU: what darknet calls a convolutional layer."""

    def __init__(self, channels: int, out: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, size, stride, size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, H, W)`` to ``(B, out, H / stride, W / stride)``."""
        return functional.leaky_relu(self.bn(self.conv(x)), 0.1)


class Residual(nn.Module):
    """Darknet's residual block: half the channels, 1 x 1, then all of them, 3 x 3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels // 2, 1)
        self.conv2 = ConvNorm(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Shape in is shape out."""
        out: Tensor = x + self.conv2(self.conv1(x))
        return out


class Darknet53(nn.Module):
    """Darknet-53 without its classifier: 52 convolutions."""

    channels = (1024, 512, 256)  # of the three maps, coarse to fine

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, 32, 3)
        for stage, repeats in enumerate(DARKNET_BLOCKS, 1):
            width = 32 * 2**stage
            blocks: OrderedDict[str, nn.Module] = OrderedDict(conv=ConvNorm(width // 2, width, 3, stride=2))
            blocks |= {f"res{index}": Residual(width) for index in range(repeats)}
            self.add_module(f"conv_res_block{stage}", nn.Sequential(blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of stride 32, 16 and 8."""
        x = self.conv1(x)
        maps = []
        for stage in range(1, len(DARKNET_BLOCKS) + 1):
            x = self.get_submodule(f"conv_res_block{stage}")(x)
            maps.append(x)
        return maps[:1:-1]


class MobileNet(nn.Module):
    """MobileNetV3-Large without its classifier."""

    channels = (960, 112, 40)

    def __init__(self) -> None:
        super().__init__()
        features = mobilenet().features
        self.body = IntermediateLayerGetter(features, {"6": "2", "12": "1", "16": "0"})

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of stride 32, 16 and 8."""
        maps = self.body(x)
        return [maps[str(level)] for level in range(3)]


class DetectionBlock(nn.Module):
    """Five convolutions, 1 x 1 and 3 x 3 in turn."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, out, 1)
        self.conv2 = ConvNorm(out, 2 * out, 3)
        self.conv3 = ConvNorm(2 * out, out, 1)
        self.conv4 = ConvNorm(out, 2 * out, 3)
        self.conv5 = ConvNorm(2 * out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, H, W)`` to ``(B, out, H, W)``."""
        return self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(x)))))  # type: ignore[no-any-return]


class Neck(nn.Module):
    """From coarse to fine, each map also sees what the coarser one made of the image."""

    def __init__(self, channels: Sequence[int], out: Sequence[int]) -> None:
        super().__init__()
        self.detect1 = DetectionBlock(channels[0], out[0])
        self.conv1 = ConvNorm(out[0], out[1], 1)
        self.detect2 = DetectionBlock(channels[1] + out[1], out[1])
        self.conv2 = ConvNorm(out[1], out[2], 1)
        self.detect3 = DetectionBlock(channels[2] + out[2], out[2])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Three maps, coarse to fine, in and out."""
        coarse = self.detect1(maps[0])
        middle = self.detect2(torch.cat((functional.interpolate(self.conv1(coarse), scale_factor=2), maps[1]), 1))
        fine = self.detect3(torch.cat((functional.interpolate(self.conv2(middle), scale_factor=2), maps[2]), 1))
        return [coarse, middle, fine]


class YOLOv3(nn.Module):
    """The detector, with torchvision's interface."""

    transform: nn.Module

    def __init__(
        self, backbone: nn.Module, out: Sequence[int], bridge: Sequence[int], num_classes: int, options: DetectorOptions
    ) -> None:
        """Put the detector together.

        Args:
            backbone: gives three maps, and has their ``channels``.
            out: channels of the neck's maps.
            bridge: channels before the output layers.
            num_classes: with the background, for which nothing is predicted.
            options: resolved options.

        Raises:
            DetectorError: the anchors are no pairs, or do not divide among three maps.
        """
        super().__init__()
        assert isinstance(options.anchors, tuple), "options are resolved first"
        if len(options.anchors) % 3 or any(len(anchor) != 2 for anchor in options.anchors):
            raise DetectorError(f"{options.name}: anchors are (width, height) pairs, as many for each of the 3 maps")
        self.options = options
        self.anchors = options.anchors
        self.backbone = backbone
        self.neck = Neck(backbone.channels, out)  # type: ignore[arg-type]
        self.convs_bridge = nn.ModuleList(ConvNorm(a, b, 3) for a, b in zip(out, bridge, strict=True))
        width = len(options.anchors) // 3 * (5 + num_classes - 1)
        self.yolo_output = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in bridge)
        self.reset_output()

    def reset_output(self) -> None:
        """Begin with 8 objects per map and a chance of 1 in 100 for each class, as mmdetection does."""
        for layer, stride in zip(self.yolo_output, STRIDES, strict=True):
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            nn.init.normal_(layer.weight, std=0.01)
            with torch.no_grad():
                bias = layer.bias.view(len(self.anchors) // 3, -1)
                bias[:, 4] = log_odds(8 / (608 / stride) ** 2)
                bias[:, 5:] = log_odds(0.01)

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> Any:
        """Losses by name in training, ``boxes``, ``labels`` and ``scores`` per image in evaluation."""
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, targets = self.transform(images, targets)
        maps = self.maps(batch.tensors)
        priors = Priors.of([(one.shape[-2], one.shape[-1]) for one in maps], self.anchors, STRIDES, maps[0].device)
        if self.training:
            assert targets is not None, "training needs targets"
            return yolo_losses(flatten(maps, len(self.anchors) // 3), priors, targets)
        found = self.detections(maps, priors, batch.image_sizes)
        return self.transform.postprocess(found, batch.image_sizes, sizes)  # type: ignore[operator]

    def maps(self, batch: Tensor) -> list[Tensor]:
        """Raw predictions ``(B, anchors * (5 + C), H, W)``, coarse to fine, for a normalised batch."""
        features = self.neck(self.backbone(batch))
        layers = zip(features, self.convs_bridge, self.yolo_output, strict=True)
        return [output(bridge(feature)) for feature, bridge, output in layers]

    def detections(
        self, maps: list[Tensor], priors: Priors, image_sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Boxes, labels and scores per image, in pixels of the batch."""
        predictions = flatten(maps, len(self.anchors) // 3)
        boxes = priors.decode(predictions[..., :4])
        objectness, classes = predictions[..., 4].sigmoid(), predictions[..., 5:].sigmoid()
        per_image = zip(boxes, objectness, classes, image_sizes, strict=True)
        return [self._best(*one) for one in per_image]

    def _best(self, boxes: Tensor, objectness: Tensor, classes: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """The detections among all places ``(P, ...)`` of one image."""
        assert self.options.score_threshold is not None
        assert self.options.nms is not None
        likely = objectness >= OBJECTNESS
        boxes, objectness, classes = boxes[likely], objectness[likely], classes[likely]
        place, label = torch.where(classes > self.options.score_threshold)
        certainty, order = classes[place, label].sort(descending=True)
        certainty, order = certainty[:CANDIDATES], order[:CANDIDATES]
        boxes, label, scores = boxes[place[order]], label[order], certainty * objectness[place[order]]
        keep = batched_nms(boxes, scores, label, self.options.nms)[: self.options.detections_per_image]
        return {"boxes": clip_boxes_to_image(boxes[keep], size), "labels": label[keep] + 1, "scores": scores[keep]}


def flatten(maps: list[Tensor], anchors: int) -> Tensor:
    """Raw maps ``(B, anchors * (5 + C), H, W)`` as one ``(B, places, 5 + C)`` float: coarse to fine, row by row."""
    parts = []
    for one in maps:
        batch, channels, height, width = one.shape
        parts.append(one.permute(0, 2, 3, 1).reshape(batch, height * width * anchors, channels // anchors).float())
    return torch.cat(parts, 1)


def log_odds(probability: float) -> float:
    """The logit of a probability."""
    return -math.log(1 / probability - 1)


def darknet_order(model: nn.Module) -> list[tuple[str, str | None]]:
    """The convolutions in the order of darknet's ``.weights``: module names of each and of its batch norm.

    A layer without batch norm (None) has a bias. The file holds (beta, gamma, mean, variance) or the bias, then the
    weight (pjreddie/darknet, src/parser.c, load_convolutional_weights).

    Args:
        model: a YOLOv3 with Darknet-53, or Darknet-53 alone under ``backbone``.
    """
    names = ["backbone.conv1"]
    for stage, repeats in enumerate(DARKNET_BLOCKS, 1):
        names.append(f"backbone.conv_res_block{stage}.conv")
        names += [f"backbone.conv_res_block{stage}.res{block}.conv{k}" for block in range(repeats) for k in (1, 2)]
    order: list[tuple[str, str | None]] = [(f"{name}.conv", f"{name}.bn") for name in names]
    if not hasattr(model, "yolo_output"):
        return order
    for scale in range(3):
        names = [f"neck.conv{scale}"] if scale else []
        names += [f"neck.detect{scale + 1}.conv{k}" for k in range(1, 6)] + [f"convs_bridge.{scale}"]
        order += [(f"{name}.conv", f"{name}.bn") for name in names] + [(f"yolo_output.{scale}", None)]
    return order


def yolov3_darknet53(num_classes: int, options: DetectorOptions) -> nn.Module:
    """YOLOv3 as published: 75 convolutions."""
    model = YOLOv3(Darknet53(), (512, 256, 128), (1024, 512, 256), num_classes, options)
    return finish(model, options, DARKNET_STAGES)


def yolov3_mobilenet(num_classes: int, options: DetectorOptions) -> nn.Module:
    """YOLOv3 with MobileNetV3-Large and narrow maps, for CPUs."""
    model = YOLOv3(MobileNet(), (96, 96, 96), (96, 96, 96), num_classes, options)
    return finish(model, options, MOBILENET_STAGES)


OUTPUT = r"yolo_output\.\d\.(weight|bias)"
MMDETECTION = "https://download.openmmlab.com/mmdetection/v2.0/yolo"
DARKNET_STAGES = (
    r"backbone\.conv1\.",
    *(rf"backbone\.conv_res_block{stage}\." for stage in range(1, len(DARKNET_BLOCKS) + 1)),
)

DARKNET = Detector(
    name="yolov3_darknet53",
    title="YOLOv3 Darknet-53",
    build=yolov3_darknet53,
    class_rows=(ClassRows(OUTPUT, fixed=5, background=False),),
    fields={"yolo_output": OUTPUT},
    parts=((r"backbone\.", "backbone"), (r"neck\.", "neck")),
    stages=DARKNET_STAGES,
    pretrained=(
        Pretrained(
            f"{MMDETECTION}/yolov3_d53_mstrain-608_273e_coco/yolov3_d53_mstrain-608_273e_coco_20210518_115020-a2c3acb8.pth",
            33.7,
        ),
        Pretrained("https://pjreddie.com/media/files/yolov3.weights", 33.0),
    ),
    # mmdetection: 0.001 on each of 8 GPUs for the sum over 8 images, which is 0.008 for the mean over 64.
    defaults={
        "learning_rate_per_image": 0.008 / 64,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "clip_norm": 35.0,
        "warmup_steps": 1000,
    },
    options={
        "min_size": 608,
        "max_size": 608,
        "image_mean": (0.0, 0.0, 0.0),
        "image_std": (1.0, 1.0, 1.0),
        "trainable_layers": 6,
        "norm": "batch",
        "norm_eps": 1e-5,
        "anchors": COCO_ANCHORS,
        "score_threshold": 0.05,
        "nms": 0.45,
        "detections_per_image": 100,
    },
)
ENTRIES = (
    DARKNET,
    replace(
        DARKNET,
        name="yolov3_mobilenet_v3",
        title="YOLOv3 MobileNetV3",
        build=yolov3_mobilenet,
        defaults={**DARKNET.defaults, "cpu_bfloat16": 0},
        stages=MOBILENET_STAGES,
        pretrained=(),
        options={
            **DARKNET.options,
            "min_size": 320,
            "max_size": 320,
            "image_mean": IMAGENET_MEAN,
            "image_std": IMAGENET_STD,
            "norm_eps": 1e-3,  # MobileNetV3's
            "anchors": MOBILENET_ANCHORS,
        },
    ),
)
