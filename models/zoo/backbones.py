"""What the detectors' backbones have in common: batch norm, frozen stages, and timm's models."""

# mypy: untyped-calls-exclude="timm"
from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import _mobilenet_extractor, _resnet_fpn_extractor
from torchvision.models.mobilenetv3 import MobileNetV3, mobilenet_v3_large
from torchvision.models.resnet import resnet50
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from models.errors import DetectorError
from models.zoo.norm import freeze_norm
from models.zoo.options import DetectorOptions
from models.zoo.transform import ImageTransform

# torchvision gives anchors the type of the feature maps, and decodes boxes in that of the deltas. Under autocast both
# would be bfloat16, which knows no pixel between 512 and 516: what comes out of these is float32 again.
COORDINATES_FOLLOW = frozenset({"backbone", "rpn.head", "head"})
CHANNELS = 256  # of every feature pyramid level
Coarser = Literal["pool", "pyramid", "backbone"]
Norm = type[nn.Module] | None

RESNET_STAGES = (
    r"backbone\.body\.(conv1|bn1)\.",
    *(rf"backbone\.body\.layer{stage}\." for stage in (1, 2, 3, 4)),
)
# The strided blocks of MobileNetV3-Large begin at 2, 4, 7 and 13; 16 is the last convolution.
MOBILENET_STAGES = tuple(
    rf"backbone\.body\.({'|'.join(map(str, blocks))})\."
    for blocks in (range(2), range(2, 4), range(4, 7), range(7, 13), range(13, 16), (16,))
)


class TimmPyramid(nn.Module):
    """A timm model's feature maps of stride 4 to 32 with a feature pyramid over some of them.

    Keys are ``backbone.body.*`` (timm's own names) and ``backbone.fpn.*``.
    """

    def __init__(self, name: str, levels: Sequence[int], coarser: Coarser, norm: Norm) -> None:
        """``name`` as timm lists it; the rest as for :func:`pyramid`.

        Raises:
            DetectorError: timm has no such model, or it has no maps of these strides.
        """
        super().__init__()
        self.body = timm_maps(name)
        self.levels = tuple(levels)
        self.channels = self.body.feature_info.channels()  # type: ignore[union-attr, operator]
        channels = [self.channels[level - 1] for level in levels]
        self.fpn = FeaturePyramidNetwork(channels, CHANNELS, _coarser(coarser, channels[-1]), norm)
        self.out_channels = CHANNELS

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps ``(B, 256, H, W)`` by name, fine to coarse."""
        maps = self.body(x)
        chosen = OrderedDict((str(place), maps[level - 1]) for place, level in enumerate(self.levels))
        for place, level in enumerate(self.levels):
            if chosen[str(place)].shape[1] != self.channels[level - 1]:  # some transformers put the channels last
                chosen[str(place)] = chosen[str(place)].permute(0, 3, 1, 2).contiguous()
        pyramid: dict[str, Tensor] = self.fpn(chosen)
        return pyramid

    def freeze_norm(self) -> None:
        """Fix the statistics and weights of the body's batch norms; their epsilon stays timm's."""
        from timm.layers.norm_act import freeze_batch_norm_2d  # noqa: PLC0415  timm is imported by now

        self.body = freeze_batch_norm_2d(self.body)

    def stages(self) -> tuple[str, ...]:
        """Regular expressions for the keys of the stem and of each of the four stages, as ResNet's are told apart."""
        ends = self.body.feature_info.module_name()  # type: ignore[union-attr, operator]
        first, *rest = parameters_by_stage(self.body, ends)
        within = [key for key in first if key.replace(".", "_").startswith(ends[0].replace(".", "_") + "_")]
        found = ([key for key in first if key not in within], within, *rest)
        return tuple(rf"backbone\.body\.({'|'.join(map(re.escape, keys))})$" for keys in found)


def parameters_by_stage(model: nn.Module, ends: Sequence[str]) -> list[list[str]]:
    """The names of a timm model's parameters by stage, given the module that ends each; the last takes what follows.

    Feature extractors write a list's member ``stages.0`` as ``stages_0``: the two are taken for one.
    """
    flat_ends = [end.replace(".", "_") for end in ends]
    found: list[list[str]] = [[] for _ in ends]
    passed = -1
    for name, module in model.named_modules():
        flat = name.replace(".", "_") + "_"
        within = next((k for k, end in enumerate(flat_ends) if flat.startswith(f"{end}_")), None)
        passed = passed if within is None else within
        stage = min(passed + 1, len(ends) - 1) if within is None else within
        own = (key for key, _ in module.named_parameters(recurse=False))
        found[stage] += [f"{name}.{key}" if name else key for key in own]
    return found


def timm_maps(name: str) -> nn.Module:
    """A timm model that returns its feature maps of stride 4, 8, 16 and 32.

    Raises:
        DetectorError: there is no such model, or it has no maps of these strides.
    """
    import timm  # noqa: PLC0415  seconds to import, and only some recipes want it

    if name not in timm.list_models(name):
        near = get_close_matches(name, timm.list_models(), n=1)
        raise DetectorError(f"timm has no model {name!r}" + (f". Did you mean {near[0]!r}?" if near else ""))
    try:
        with torch.device("meta"):
            strides = _create(name).feature_info.reduction()  # type: ignore[union-attr, operator]
        places = [strides.index(stride) for stride in (4, 8, 16, 32)]
    except (RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise DetectorError(f"timm://{name} has no feature maps of stride 4, 8, 16 and 32 ({error})") from error
    return _create(name, out_indices=places)


def _create(name: str, **changes: Any) -> nn.Module:
    """A timm model without its classifier, for images of any size where it is particular about that."""
    import timm  # noqa: PLC0415  seconds to import, and only some recipes want it

    try:
        return timm.create_model(name, features_only=True, strict_img_size=False, **changes)
    except TypeError:  # most models have no such argument
        return timm.create_model(name, features_only=True, **changes)


def pyramid(
    options: DetectorOptions, levels: Sequence[int] = (1, 2, 3, 4), coarser: Coarser = "pool", norm: Norm = None
) -> nn.Module:
    """ResNet-50, or the options' backbone, with a feature pyramid of 256 channels.

    Args:
        options: resolved options.
        levels: backbone stages to build the pyramid on, of stride ``2 ** (level + 1)``.
        coarser: what comes after them: a max pooling, or two convolutions on the pyramid's or the backbone's last map.
        norm: normalisation within the pyramid (torchvision's second versions have one).
    """
    if options.backbone is None:
        return _resnet_fpn_extractor(resnet50(), 5, list(levels), _coarser(coarser, 2048), norm)
    return TimmPyramid(options.backbone.removeprefix("timm://"), levels, coarser, norm)


def _coarser(kind: Coarser, channels: int) -> ExtraFPNBlock:
    if kind == "pool":
        return LastLevelMaxPool()
    return LastLevelP6P7(CHANNELS if kind == "pyramid" else channels, CHANNELS)


def mobilenet_fpn() -> nn.Module:
    """MobileNetV3-Large with a feature pyramid over its last two stages."""
    return _mobilenet_extractor(mobilenet(), True, 6)


def mobilenet() -> MobileNetV3:
    """MobileNetV3-Large whose live batch norms follow within some ten steps.

    torchvision's own momentum of 0.01 is for ImageNet: after the few hundred steps of a fine-tuning its running
    statistics are still those of long gone weights, and a network that has learned finds nothing in evaluation.
    """
    model: MobileNetV3 = mobilenet_v3_large()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return model


def freeze_stages(model: nn.Module, stages: Sequence[str], trainable: int) -> None:
    """Stop the gradients of all backbone stages but the last ``trainable`` ones (0: none of them trains)."""
    frozen = stages[: max(0, len(stages) - trainable)]
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
    if isinstance(model.backbone, TimmPyramid):
        stages = model.backbone.stages()
    model.transform = ImageTransform(options, size_divisible=size_divisible)
    if options.norm == "frozen":
        if isinstance(model.backbone, TimmPyramid):
            model.backbone.freeze_norm()
        freeze_norm(model, options.norm_eps or 0.0)
    freeze_stages(model, stages, options.trainable_layers or 0)
    for name, part in model.named_modules():
        if name in COORDINATES_FOLLOW:
            part.register_forward_hook(_in_float32)
    return model


def _in_float32(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return type(output)((name, _in_float32(_module, _inputs, one)) for name, one in output.items())
    return type(output)(_in_float32(_module, _inputs, one) for one in output)
