"""SSD300 and SSDlite320: detectors of one image size."""

from __future__ import annotations

from torch import nn
from torchvision.models import vgg16
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, _vgg_extractor

from models.errors import DetectorError
from models.zoo.backbones import finish
from models.zoo.dense import selection
from models.zoo.detector import ClassRows, Detector, Pretrained
from models.zoo.options import DetectorOptions
from models.zoo.rcnn import RECIPE

# VGG-16's convolutions between its poolings; what follows conv4 lives in the first extra block.
VGG_STAGES = (
    r"backbone\.features\.[0-3]\.",
    r"backbone\.features\.[4-8]\.",
    r"backbone\.features\.(9|1[0-5])\.",
    r"backbone\.features\.(1[6-9]|2[0-2])\.",
    r"backbone\.extra\.0\.[0-6]\.",
)
# MobileNetV3-Large, cut open inside its 13th block, whose expansion is the first feature map.
SSDLITE_STAGES = (
    r"backbone\.features\.0\.[01]\.",
    r"backbone\.features\.0\.[23]\.",
    r"backbone\.features\.0\.[456]\.",
    r"backbone\.features\.0\.([789]|1[012])\.",
    r"backbone\.features\.(0\.13|1\.[012])\.",
    r"backbone\.features\.1\.3\.",
)


def ssd300(num_classes: int, options: DetectorOptions) -> nn.Module:
    """SSD300 with VGG-16 (https://arxiv.org/abs/1512.02325).

    Raises:
        DetectorError: another size than 300 x 300, which its feature maps and box scales are made for.
    """
    if options.fixed_size != (300, 300):
        raise DetectorError(f"ssd300_vgg16: fixed_size {options.fixed_size}, but its boxes are made for (300, 300)")
    boxes = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )
    model = SSD(_vgg_extractor(vgg16(), False, 5), boxes, (300, 300), num_classes, **selection(options))
    return finish(model, options, VGG_STAGES, size_divisible=1)


def ssdlite(num_classes: int, options: DetectorOptions) -> nn.Module:
    """SSDlite with MobileNetV3-Large of reduced tail (https://arxiv.org/abs/1905.02244)."""
    model = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=num_classes, topk_candidates=300, **selection(options)
    )
    return finish(model, options, SSDLITE_STAGES, size_divisible=1)


SSD300 = Detector(
    name="ssd300_vgg16",
    title="SSD300 VGG-16",
    build=ssd300,
    class_rows=(ClassRows(r"head\.classification_head\.module_list\.\d\.(weight|bias)"),),
    # The seed's expression would drop localisation as well, which no class owns.
    fields={"^conv2d_": r"head\.classification_head\.module_list\.\d\.(weight|bias)"},
    parts=((r"backbone\.(features|scale_weight|extra\.0\.)", "backbone"), (r"backbone\.extra\.", "neck")),
    stages=VGG_STAGES,
    pretrained=(Pretrained("torchvision://SSD300_VGG16_Weights.COCO_V1", 25.1),),
    # torchvision references/detection: 0.002 for 32 images.
    defaults=RECIPE | {"learning_rate_per_image": 6.25e-5, "weight_decay": 5e-4},
    options={
        "fixed_size": (300, 300),
        "image_mean": (0.48235, 0.45882, 0.40784),
        "image_std": (1 / 255, 1 / 255, 1 / 255),  # its VGG was trained on 0..255
        "trainable_layers": 4,
        "score_threshold": 0.01,
        "nms": 0.45,
        "detections_per_image": 200,
    },
)
SSDLITE = Detector(
    name="ssdlite320_mobilenet_v3_large",
    title="SSDlite320 MobileNetV3",
    build=ssdlite,
    class_rows=(ClassRows(r"head\.classification_head\.module_list\.\d\.1\.(weight|bias)"),),
    fields={"^conv2d_": r"head\.classification_head\.module_list\.\d\.1\.(weight|bias)"},
    parts=((r"backbone\.features", "backbone"), (r"backbone\.extra\.", "neck")),
    stages=SSDLITE_STAGES,
    pretrained=(Pretrained("torchvision://SSDLite320_MobileNet_V3_Large_Weights.COCO_V1", 21.3, norm_eps=1e-3),),
    # torchvision references/detection: 0.15 for 192 images, cosine.
    defaults=RECIPE | {"learning_rate_per_image": 0.15 / 192, "weight_decay": 4e-5, "cpu_bfloat16": 0},
    options={
        "fixed_size": (320, 320),
        "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5),
        "trainable_layers": 6,
        "norm": "batch",
        "norm_eps": 1e-3,
        "score_threshold": 0.001,
        "nms": 0.55,
        "detections_per_image": 300,
    },
)
ENTRIES = (SSD300, SSDLITE)
