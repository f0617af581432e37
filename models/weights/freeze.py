"""What trains and what stays: frozen stages, learning rates per part, and the choice between them.

Two mistakes are common elsewhere and cannot happen here. Frozen parameters are left out of the optimizer, and after
unfreezing nothing trains them (mmengine), or they are added by comparing values and equal ones are taken for present
(Lightning): our groups hold every parameter from the start, because an optimizer passes over one without a gradient.
And ``model.train()`` wakes the batch norms of frozen parts, whose statistics then drift: ours stay in eval.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.errors import WeightsError
from models.zoo.detector import Detector

_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
AS_BUILT = "as built"
_SPECS = "none, stem, stages:N, backbone, all-but-head or re:PATTERN"


@dataclass(frozen=True)
class FreezeReport:
    """What a freeze did.

    Attributes:
        spec: as it was asked for.
        frozen: names of the parameters that stay, in the model's order.
        still: names of the batch norms whose statistics stay.
        trainable_elements: how many numbers train.
        frozen_elements: how many stay, buffers not counted.
    """

    spec: str
    frozen: tuple[str, ...]
    still: tuple[str, ...]
    trainable_elements: int
    frozen_elements: int

    def summary(self) -> str:
        """The same in a line."""
        share = self.frozen_elements / max(self.frozen_elements + self.trainable_elements, 1)
        text = f"{self.spec}: {len(self.frozen)} parameters ({share:.1%}) and {len(self.still)} batch norms stay"
        if self.spec != AS_BUILT or not (self.frozen or self.still):
            return text
        fixed = {f"{norm}.weight" for norm in self.still} - set(self.frozen)  # by their kind: no freeze releases them
        remedy = "train.freeze: none" + (" and detector.norm: batch" if fixed else "")
        return f"{text}, as suits weights from very many pictures; after less, try {remedy}"


def apply_freeze(model: nn.Module, detector: Detector, spec: str | None) -> FreezeReport:
    """Freeze what ``spec`` names and let everything else train; call it again to unfreeze.

    Frozen batch norms are in eval from now on and stay so through every ``model.train()``, with no further call. What
    a later spec releases trains at once, because :func:`param_groups` holds frozen parameters too. Under
    DistributedDataParallel wrap the model anew after releasing parameters: it looks at ``requires_grad`` only then.

    Args:
        model: changed in place.
        detector: its entry in the zoo.
        spec: ``none``, ``stem``, ``stages:N`` (the stem and the first N stages of the backbone, mmdetection's
            ``frozen_stages``), ``backbone``, ``all-but-head`` (backbone and neck) or ``re:PATTERN`` (searched in
            parameter names). None: as the builder left it, and batch norms of frozen parts are held in eval.

    Raises:
        WeightsError: an unknown spec, more stages than the backbone has, or a pattern that matches nothing.
    """
    parameters = dict(model.named_parameters())
    if spec is not None:
        frozen = frozen_names(spec, with_stages_of(model, detector), list(parameters))
        for name, parameter in parameters.items():
            parameter.requires_grad_(name not in frozen)
    stays = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    still = tuple(_hold_norms(model, set(stays)))
    sizes = {name: parameter.numel() for name, parameter in parameters.items()}
    held = sum(sizes[name] for name in stays)
    return FreezeReport(spec or AS_BUILT, tuple(stays), still, sum(sizes.values()) - held, held)


def with_stages_of(model: nn.Module, detector: Detector) -> Detector:
    """The detector with the stages that its model really has: those of another backbone, where the recipe chose one."""
    own = getattr(getattr(model, "backbone", None), "stages", None)
    return replace(detector, stages=tuple(own())) if callable(own) else detector


def frozen_names(spec: str, detector: Detector, names: Sequence[str]) -> set[str]:
    """The parameters that ``spec`` freezes; see :func:`apply_freeze`.

    Raises:
        WeightsError: an unknown spec, more stages than the backbone has, or a pattern that matches nothing.
    """
    frozen = {name for name in names if _freezes(spec, detector)(name)}
    if not frozen and spec != "none":
        raise WeightsError(f"freeze {spec!r} matches no parameter of {detector.name}", f"It is {_SPECS}")
    return frozen


def _freezes(spec: str, detector: Detector) -> Callable[[str], bool]:
    """A spec as a predicate on parameter names."""
    kind, _, value = spec.partition(":")
    if spec == "none":
        return lambda name: False
    if spec == "backbone":
        return lambda name: detector.part_of(name) == "backbone"
    if spec == "all-but-head":
        return lambda name: detector.part_of(name) != "head"
    if kind == "re":
        pattern = re.compile(value)
        return lambda name: pattern.search(name) is not None
    if spec == "stem" or (kind == "stages" and value.isdigit()):
        return _first_stages(detector, int(value or 0))
    raise WeightsError(f"freeze {spec!r} is not known", f"It is {_SPECS}")


def _first_stages(detector: Detector, count: int) -> Callable[[str], bool]:
    """The stem and the first ``count`` stages."""
    if count >= len(detector.stages):
        stages = max(len(detector.stages) - 1, 0)
        raise WeightsError(f"freeze stages:{count}: the backbone of {detector.name} has a stem and {stages} stages")
    patterns = [re.compile(stage) for stage in detector.stages[: count + 1]]
    return lambda name: any(pattern.match(name) for pattern in patterns)


def _hold_norms(model: nn.Module, frozen: set[str]) -> list[str]:
    """Hold the batch norms whose weight is frozen in eval, release the others; the names of those that stay."""
    held = []
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm):
            if hasattr(module, "running_mean"):  # of whatever kind, built to stay as it is
                held.append(name)
            continue
        module.__dict__.pop("train", None)
        if f"{name}.weight" in frozen:
            # On the instance, so that it survives model.train(), deepcopy (weight averages) and pickling.
            module.__dict__["train"] = partial(_stay, module)
            held.append(name)
            module.eval()
        else:
            module.train(model.training)
    return held


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """What ``train`` does to a frozen batch norm: nothing but ``eval``."""
    module.training = False
    return module


def param_groups(
    model: nn.Module,
    detector: Detector,
    lr: float,
    weight_decay: float,
    multipliers: Mapping[str, float] | Sequence[float] = (),
    *,
    norm_decay: bool = False,
    bias_decay: bool = False,
) -> list[dict[str, Any]]:
    """Every parameter of the model, frozen or not, in groups for an optimizer.

    Args:
        model: the detector.
        detector: its entry in the zoo.
        lr: the learning rate of a part without a multiplier.
        weight_decay: of weights.
        multipliers: factor on ``lr`` by part: ``re:PATTERN`` (searched, first hit wins) goes before ``stem`` and
            ``stage:N``, those before ``backbone``, ``neck`` and ``head``. A bare list is PaddleClas's
            ``lr_mult_list``: the stem, then each stage.
        norm_decay: also decay the weights of normalisation layers.
        bias_decay: also decay biases.

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay`` and ``name`` (part and factor), in the model's order. No group
        is empty, and no parameter appears twice.

    Raises:
        WeightsError: a multiplier that names nothing, or a longer list than the backbone has stages.
    """
    factors = _factors(multipliers, with_stages_of(model, detector))
    plain = _undecayed(model, norm_decay=norm_decay, bias_decay=bias_decay)
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    used: set[str] = set()
    for name, parameter in model.named_parameters():
        rule = next((rule for rule, (matches, _) in factors.items() if matches(name)), "")
        used.add(rule)
        factor = factors[rule][1] if rule else 1.0
        label = f"{rule or 'rest'} x{factor:g}" + (", no decay" if name in plain else "")
        group = groups.setdefault(
            (rule, name in plain),
            {"params": [], "lr": lr * factor, "weight_decay": 0.0 if name in plain else weight_decay, "name": label},
        )
        group["params"].append(parameter)
    unknown = [rule for rule in factors if rule not in used]
    if unknown:
        raise WeightsError(
            f"the learning-rate multiplier {unknown[0]!r} applies to no parameter of {detector.name}",
            "They are re:PATTERN, stem, stage:N, backbone, neck and head",
        )
    return list(groups.values())


def _factors(
    multipliers: Mapping[str, float] | Sequence[float], detector: Detector
) -> dict[str, tuple[Callable[[str], bool], float]]:
    """Rule -> (predicate, factor), the most particular rules first."""
    if not isinstance(multipliers, Mapping):
        names = ["stem", *(f"stage:{number}" for number in range(1, len(multipliers)))]
        multipliers = dict(zip(names, multipliers, strict=False))
    rank = {"re": 0, "stem": 1, "stage": 1}
    ordered = sorted(multipliers, key=lambda rule: rank.get(rule.partition(":")[0], 2))
    return {rule: (_part_rule(rule, detector), multipliers[rule]) for rule in ordered}


def _part_rule(rule: str, detector: Detector) -> Callable[[str], bool]:
    """A multiplier's rule as a predicate on parameter names."""
    kind, _, value = rule.partition(":")
    if rule == "stem" or (kind == "stage" and value.isdigit()):
        number = int(value or 0)
        stage = re.compile(detector.stages[number] if number < len(detector.stages) else r"(?!)")
        return lambda name: stage.match(name) is not None
    if kind == "re":
        pattern = re.compile(value)
        return lambda name: pattern.search(name) is not None
    return lambda name: detector.part_of(name) == rule


def _undecayed(model: nn.Module, *, norm_decay: bool, bias_decay: bool) -> set[str]:
    """Names of the parameters that are not decayed."""
    names = set()
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(prefix=prefix, recurse=False):
            is_norm = isinstance(module, _NORMS)
            if (is_norm and not norm_decay) or (not is_norm and name.endswith("bias") and not bias_decay):
                names.add(name)
    return names


@dataclass(frozen=True)
class Strategy:
    """How to fine-tune, and why.

    Attributes:
        name: which of the four rules applied.
        freeze: the spec for :func:`apply_freeze`.
        reason: the rule in words, with the numbers it was judged by.
    """

    name: Literal["head-only", "shallow-frozen", "full", "from-scratch"]
    freeze: str
    reason: str


def choose_strategy(images: int, classes: int, shared: int | None, backbone_coverage: float) -> Strategy:
    """Pick among the four rules that PaddleClas teaches, by the size of the data and its likeness to the source.

    A set is small below 1,000 images, and alike when at least half of its classes are the checkpoint's. With little
    data that is alike only the head trains; little and different: the shallow stages stay, whose edges and textures
    serve any picture; much data trains everything, from scratch where nothing is pretrained.

    Args:
        images: training images.
        classes: classes of the dataset.
        shared: how many of them the checkpoint knows; None: its classes are unknown, taken for different.
        backbone_coverage: share of the backbone's elements that the checkpoint supplies.
    """
    if backbone_coverage < 0.5:
        reason = f"only {backbone_coverage:.0%} of the backbone is pretrained: there is nothing worth keeping"
        return Strategy("from-scratch", "none", reason)
    alike = shared is not None and 2 * shared >= classes
    likeness = f"{shared if shared is not None else 'an unknown number'} of {classes} classes are the checkpoint's"
    if images >= 1000:
        return Strategy("full", "none", f"{images} images are enough to train every layer; {likeness}")
    if alike:
        return Strategy("head-only", "all-but-head", f"{images} images are few and alike: {likeness}")
    return Strategy("shallow-frozen", "stages:1", f"{images} images are few and different: {likeness}")
