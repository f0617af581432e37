"""Which parameters learn, how fast, and how the rate rises and falls; each derivation as a sentence for the log."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from models.training.options import TrainOptions
from models.weights.freeze import param_groups
from models.zoo import Detector

RATE_PER_IMAGE = 0.00125  # torchvision's and mmdetection's detection recipes: 0.02 for 16 images, SGD
ADAMW_FACTOR = 1 / 12.5  # the same recipes with AdamW: 1e-4 where SGD has 1.25e-3


@dataclass(frozen=True)
class Plan:
    """What follows from options, data and devices.

    Attributes:
        steps: optimizer steps of the run.
        steps_per_epoch: optimizer steps of one pass over the images.
        rate: peak learning rate.
        warmup: steps of warm-up.
        mixed_epochs: epochs from the start with mosaic and mixup.
        derivations: how each came about, in words.
    """

    steps: int
    steps_per_epoch: int
    rate: float
    warmup: int
    mixed_epochs: int
    derivations: dict[str, str]


def make_plan(options: TrainOptions, detector: Detector, steps_per_epoch: int, world: int) -> Plan:
    """Derive what the options leave open.

    Args:
        options: the run's options.
        detector: what is trained, with its own recipe.
        steps_per_epoch: optimizer steps of one pass over the images.
        world: processes.
    """
    wanted = options.epochs * steps_per_epoch
    steps = max(wanted, options.min_steps)
    said = {"steps": f"{options.epochs} epochs x {steps_per_epoch} steps = {wanted}"}
    if steps > wanted:
        said["steps"] += f", raised to min_steps {steps} ({steps / steps_per_epoch:.1f} epochs)"
    rate, said["learning_rate"] = _peak_rate(options, detector, world)
    warmup = options.warmup_steps
    said["warmup_steps"] = f"{warmup} as set"
    if warmup is None:
        warmup = max(1, min(500, steps_per_epoch, steps // 2))
        said["warmup_steps"] = f"one epoch, at most 500 steps and half the run = {warmup}"
    mixing = options.mosaic > 0 or options.mixup > 0
    mixed_epochs = _mixed_epochs(options, math.ceil(steps / steps_per_epoch)) if mixing else 0
    if mixing:
        said["mixing"] = f"mosaic {options.mosaic:g}, mixup {options.mixup:g} in the first {mixed_epochs} epochs"
    return Plan(steps, steps_per_epoch, rate, warmup, mixed_epochs, said)


def _mixed_epochs(options: TrainOptions, epochs: int) -> int:
    """How many epochs from the start have mosaic and mixup."""
    return max(0, epochs + options.mix_until if options.mix_until < 0 else min(epochs, options.mix_until))


def _peak_rate(options: TrainOptions, detector: Detector, world: int) -> tuple[float, str]:
    if options.learning_rate is not None:
        return options.learning_rate, f"{options.learning_rate:g} as set"
    per_image = detector.defaults.get("learning_rate_per_image", RATE_PER_IMAGE)
    images = options.batch_size * options.accumulate * world
    said = f"{per_image:g} per image x {images} images per step"
    if options.accumulate > 1 or world > 1:
        said += f" ({options.batch_size} x {options.accumulate} accumulated x {world} processes)"
    rate = per_image * images
    if options.optimizer == "adamw":
        rate *= ADAMW_FACTOR
        said += f" x {ADAMW_FACTOR:g} for AdamW"
    return rate, f"{said} = {rate:g}"


def rate_at(step: int, plan: Plan, options: TrainOptions) -> float:
    """The factor on the learning rate at a step (from 0): a function, so that a resumed run has no state to restore."""
    warm = min(1.0, (step + 1) / (plan.warmup + 1)) if plan.warmup else 1.0
    done = step / max(1, plan.steps)
    if options.schedule == "cosine":
        after = max(0.0, (step - plan.warmup) / max(1, plan.steps - plan.warmup))
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, after))))
    return float(warm * 0.1 ** sum(done >= share for share in options.step_at))


def make_optimizer(model: nn.Module, detector: Detector, options: TrainOptions) -> torch.optim.Optimizer:
    """The optimizer over every parameter; ``factor`` in a group multiplies the rate, norms and biases do not decay."""
    groups = param_groups(model, detector, 1.0, options.decay(detector), options.lr_multipliers)
    for group in groups:
        group["factor"] = group["lr"]
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"freeze {options.freeze!r} leaves nothing to train")
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(options.momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, momentum=options.momentum, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


class WeightAverage:
    """Exponential moving average of the weights, with a decay that grows in from the first steps (as TensorFlow's)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after ``step`` steps; counters and other integers are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value.detach(), 1 - decay)
            else:
                self.state[key].copy_(value)
