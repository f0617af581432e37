"""What the detectors' backbones have in common: batch norm, frozen stages, and timm's models."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn
from torchvision.models.detection.backbone_utils import _mobilenet_extractor, _resnet_fpn_extractor
from torchvision.models.mobilenetv3 import mobilenet_v3_large
from torchvision.models.resnet import resnet50
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from models.zoo.options import DetectorOptions
from models.zoo.transform import ImageTransform

RESNET_STAGES = (
    r"backbone\.body\.(conv1|bn1)\.",
    *(rf"backbone\.body\.layer{stage}\." for stage in (1, 2, 3, 4)),
)
# The strided blocks of MobileNetV3-Large begin at 2, 4, 7 and 13; 16 is the last convolution.
MOBILENET_STAGES = tuple(
    rf"backbone\.body\.({'|'.join(map(str, blocks))})\."
    for blocks in (range(2), range(2, 4), range(4, 7), range(7, 13), range(13, 16), (16,))
)


def resnet50_fpn(
    levels: Sequence[int] = (1, 2, 3, 4),
    extra: ExtraFPNBlock | None = None,
    norm: type[nn.Module] | None = None,
) -> nn.Module:
    """ResNet-50 with a feature pyramid of 256 channels over the stages ``levels`` (stride ``2 ** (level + 1)``).

    Args:
        levels: stages to build the pyramid on.
        extra: further, coarser levels; a max pooling when None.
        norm: normalisation within the pyramid (torchvision's second versions have one).
    """
    return _resnet_fpn_extractor(resnet50(), 5, list(levels), extra, norm)


def mobilenet_fpn() -> nn.Module:
    """MobileNetV3-Large with a feature pyramid over its last two stages."""
    return _mobilenet_extractor(mobilenet_v3_large(), True, 6)


def freeze_norm(module: nn.Module, eps: float) -> None:
    """Replace every live batch norm by one with fixed statistics and weights.

    Args:
        module: changed in place; keys stay, apart from ``num_batches_tracked``, which goes.
        eps: the epsilon that the weights were trained with; torchvision's first COCO weights want 0
            (https://github.com/pytorch/vision/pull/2940).
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, eps=eps))
        else:
            freeze_norm(child, eps)


def freeze_stages(model: nn.Module, stages: Sequence[str], trainable: int) -> None:
    """Stop the gradients of all backbone stages but the last ``trainable`` ones (0: none of them trains)."""
    frozen = stages[: len(stages) - trainable]
    for name, parameter in model.named_parameters():
        if any(re.match(stage, name) for stage in frozen):
            parameter.requires_grad_(False)


def finish(model: nn.Module, options: DetectorOptions, stages: Sequence[str], *, size_divisible: int = 32) -> nn.Module:
    """What every builder ends with: our transform, the norm and the frozen stages that the options ask for.

    Args:
        model: a detector with torchvision's interface, changed in place.
        options: resolved options.
        stages: see :class:`models.zoo.detector.Detector`.
        size_divisible: what the batch is padded to a multiple of, pixels.
    """
    model.transform = ImageTransform(options, size_divisible=size_divisible)
    if options.norm == "frozen":
        freeze_norm(model, options.norm_eps or 0.0)
    freeze_stages(model, stages, options.trainable_layers or 0)
    return model
