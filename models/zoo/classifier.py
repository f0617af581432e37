"""Classifiers: any model of timm or torchvision by name, under the interface that the detectors have.

``timm://resnet50d`` is PaddleClas's ResNet50_vd. State-dict keys are timm's (or torchvision's) own, so that published
weights load by name and what was fine-tuned loads there again. Which tensors depend on the classes is not written down
but found: those that change their shape with the number of classes.
"""

# mypy: untyped-calls-exclude="timm,torchvision"
# mypy: disable-error-code="attr-defined"
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from models.errors import DetectorError
from models.zoo.backbones import freeze_stages, parameters_by_stage
from models.zoo.detector import ClassRows, Detector, Pretrained
from models.zoo.options import DetectorOptions
from models.zoo.transform import ImageTransform, Target

MOST = 5  # classes that are named for each picture
IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
# What `annotune models` shows; every other name of timm and torchvision works as well. Top-1 is on ImageNet's
# validation images, as timm and torchvision publish it.
LISTED: dict[str, tuple[str, tuple[Pretrained, ...]]] = {
    "timm://resnet50d": (
        "ResNet-50-D, PaddleClas's ResNet50_vd",
        (Pretrained("timm://resnet50d.ra2_in1k", top1=80.5), Pretrained("timm://resnet50d.gluon_in1k", top1=79.1)),
    ),
    "timm://mobilenetv3_small_100": ("MobileNetV3-Small", (Pretrained("timm://mobilenetv3_small_100.lamb_in1k"),)),
    "timm://convnext_atto": ("ConvNeXt-Atto", (Pretrained("timm://convnext_atto.d2_in1k"),)),
    "torchvision://resnet50": (
        "ResNet-50",
        (Pretrained("torchvision://ResNet50_Weights.IMAGENET1K_V2", top1=80.9),),
    ),
    "torchvision://mobilenet_v3_small": (
        "MobileNetV3-Small",
        (Pretrained("torchvision://MobileNet_V3_Small_Weights.IMAGENET1K_V1", top1=67.7),),
    ),
    "torchvision://squeezenet1_0": (
        "SqueezeNet 1.0",
        (Pretrained("torchvision://SqueezeNet1_0_Weights.IMAGENET1K_V1", top1=58.1),),
    ),
}


class Classifier(nn.Module):
    """What makes a classification network speak as the detectors do; mixed into the network's own class.

    In training ``model(images, targets)`` returns ``{"classification": loss}``; a target's ``labels`` hold one label,
    from 1. In evaluation ``model(images)`` returns for each image ``labels (K,)`` and ``scores (K,)``, the K = 5 most
    probable classes (fewer where there are fewer), best first; scores are softmax probabilities.
    """

    transform: ImageTransform
    options: DetectorOptions

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> Any:
        """See the class. Images are ``(3, H, W)``, uint8 or float in 0..1, and of the model's input size."""
        pixels = self.transform(images)[0].tensors
        if not self.training or targets is None:
            return _ranked(_logits(super().forward(pixels)))
        labels = torch.cat([target["labels"][:1] for target in targets]) - 1
        pixels, wanted = _mixed(pixels, labels, self.options, classes=self.num_outputs)
        smoothing = self.options.label_smoothing or 0.0
        loss = nn.functional.cross_entropy(_logits(super().forward(pixels)), wanted, label_smoothing=smoothing)
        return {"classification": loss}

    num_outputs: int


def _logits(output: Any) -> Tensor:
    """(B, C) float; models with auxiliary heads return theirs first."""
    logits: Tensor = output[0] if isinstance(output, tuple) else output
    return logits.float()


def _ranked(logits: Tensor) -> list[dict[str, Tensor]]:
    scores, places = logits.softmax(1).topk(min(MOST, logits.shape[1]))
    return [{"labels": own + 1, "scores": score} for own, score in zip(places, scores, strict=True)]


def _mixed(pixels: Tensor, labels: Tensor, options: DetectorOptions, classes: int) -> tuple[Tensor, Tensor]:
    """The batch with pictures mixed (Zhang et al. 2018) or cut into each other (Yun et al. 2019), if asked for.

    Draws from torch's CPU generator, which the loop sets for every step.
    """
    ways = [
        kind(alpha=alpha, num_classes=classes)
        for kind, alpha in ((v2.MixUp, options.mixup), (v2.CutMix, options.cutmix))
        if alpha
    ]
    if not ways or len(pixels) < 2:
        return pixels, labels
    mixed: tuple[Tensor, Tensor] = ways[int(torch.randint(len(ways), ()))](pixels, labels)
    return mixed


@cache
def classifier(name: str) -> Detector:
    """The entry of a classifier, made from the model itself.

    Raises:
        DetectorError: timm or torchvision has no such model.
    """
    with torch.device("meta"):
        few, many = (_network(name, classes, None) for classes in (2, 3))
        sizes = {key: tensor.shape for key, tensor in many.state_dict().items()}
        head = [key for key, tensor in few.state_dict().items() if tensor.shape != sizes[key]]
        own = _own_options(name)
        stages = _stages(few, head, own["fixed_size"][0])
    keys = "|".join(map(re.escape, head))
    title, pretrained = LISTED.get(name, (name.partition("://")[2], ()))
    return Detector(
        name=name,
        title=title,
        build=_build,
        class_rows=(ClassRows(keys, background=False),),
        fields={"fc": keys},
        parts=((rf"(?!(?:{keys})$)", "backbone"),),
        stages=stages,
        pretrained=pretrained,
        task="classification",
        # PaddleClas's recipe for flowers102: 0.00375 for 32 images, twenty epochs
        defaults={"learning_rate_per_image": 0.00375 / 32},
        options={**own, "trainable_layers": len(stages), "label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0},
    )


def _build(num_classes: int, options: DetectorOptions) -> nn.Module:
    """Build the network and mix :class:`Classifier` into its class."""
    if num_classes < 3:
        raise DetectorError(f"{options.name}: a classifier needs two classes to tell apart, here is {num_classes - 1}")
    model: Any = _network(options.name, num_classes - 1, options.fixed_size)
    freeze_stages(model, classifier(options.name).stages, options.trainable_layers or 0)
    # Not a wrapper around it: that would prefix every key of the state dict.
    model.__class__ = type(f"{type(model).__name__}Classifier", (Classifier, type(model)), {})
    model.transform = ImageTransform(options, size_divisible=1)
    model.options, model.num_outputs = options, num_classes - 1
    return model  # type: ignore[no-any-return]


def _network(name: str, classes: int, size: tuple[int, int] | None) -> nn.Module:
    """The bare network with untrained weights."""
    library, _, model = name.partition("://")
    if library == "torchvision":
        from torchvision import models as theirs  # noqa: PLC0415  only some recipes want it

        known = theirs.list_models(module=theirs)
        if model not in known:
            raise DetectorError(_unknown(name, known))
        network: nn.Module = theirs.get_model(model, weights=None, num_classes=classes)
        return network
    import timm  # noqa: PLC0415  seconds to import, and only some recipes want it

    if not timm.is_model(model.partition(".")[0]):
        raise DetectorError(_unknown(name, timm.list_models()))
    fixed = bool((timm.get_pretrained_cfg(model, allow_unregistered=True) or _NOTHING).fixed_input_size)
    changes: dict[str, Any] = {"img_size": size} if fixed and size else {}
    return timm.create_model(model, pretrained=False, num_classes=classes, **changes)


def _unknown(name: str, known: Sequence[str]) -> str:
    library, _, model = name.partition("://")
    near = get_close_matches(model, known, n=1)
    return f"{library} has no classifier {model!r}" + (f". Did you mean {library}://{near[0]}?" if near else "")


class _NOTHING:
    """What is assumed of a timm model without a configuration."""

    input_size, crop_pct, fixed_input_size = (3, 224, 224), 0.875, False
    mean, std = IMAGENET["image_mean"], IMAGENET["image_std"]


def _own_options(name: str) -> dict[str, Any]:
    """Input size, centre crop and normalisation that the network was made for."""
    library, _, model = name.partition("://")
    if library == "torchvision":
        return {"fixed_size": (224, 224), "crop": 0.875, **IMAGENET}
    import timm  # noqa: PLC0415  seconds to import, and only some recipes want it

    trained = timm.get_pretrained_cfg(model, allow_unregistered=True) or _NOTHING
    size = tuple(trained.input_size[1:])
    return {"fixed_size": size, "crop": trained.crop_pct, "image_mean": trained.mean, "image_std": trained.std}


def _stages(model: Any, head: Sequence[str], size: int) -> tuple[str, ...]:
    """Regular expressions for the parameters of the stem and of each stage."""
    features = getattr(model, "feature_info", None)
    if features is None:
        found = _by_stride(model, size)
    else:
        found = parameters_by_stage(model, [feature["module"] for feature in features])
        matcher = model.group_matcher() if hasattr(model, "group_matcher") else {}
        stem = re.compile(
            matcher["stem"] if isinstance(matcher, dict) and isinstance(matcher["stem"], str) else r"(?!)"
        )
        first = [key for keys in found for key in keys if stem.match(key)]
        found = [first, *([key for key in keys if key not in first] for keys in found)]
    bodies = [[key for key in keys if key not in head] for keys in found]
    return tuple(rf"({'|'.join(map(re.escape, keys))})$" for keys in bodies if keys)


def _by_stride(model: nn.Module, size: int) -> list[list[str]]:
    """Parameters by the stride of the maps that their layers write: a stage ends where the map is halved."""
    strides: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[-1] > 1:
            strides[module] = round(math.log2(size / output.shape[-1]))

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    model.eval()
    model(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    found: dict[int, list[str]] = {}
    reached = 0
    for name, module in model.named_modules():
        own = [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)]
        if own:
            reached = max(reached, strides.get(module, reached))
            found.setdefault(max(reached, 1), []).extend(own)
    return list(found.values())
