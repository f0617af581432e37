"""Which images make which step: a function of seed and step, so a run continues in the middle of an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from models.training.coco import CocoTable
from models.training.randomness import mix

Address = tuple[int, int] | tuple[int, int, int]
"""Epoch and image; a third number where the image comes more than once in the epoch."""


def step_groups(table: CocoTable) -> Tensor:
    """Which images make a step together: those that pad each other little; a classifier's are all of one size."""
    return torch.zeros(len(table)) if table.cut else aspect_groups(torch.from_numpy(table.sizes))


def aspect_groups(sizes: Tensor) -> Tensor:
    """Group images that pad each other little: upright, square-ish, wide, very wide.

    Args:
        sizes: (N, 2) width, height in pixels.
    """
    ratio = sizes[:, 0] / sizes[:, 1].clamp(min=1)
    return torch.bucketize(ratio, torch.tensor([0.75, 1.0, 1.5]))


def repeat_factors(table: CocoTable, balance: float) -> Tensor | None:
    """How often each image comes in an epoch, (N,) float64 from 1; None where all come once.

    An image comes as often as its rarest class asks for: the root of ``balance`` over the share of the images that have
    that class, and once at least (Gupta, Dollar, Girshick 2019, LVIS, appendix B.2). The factors above 1 are raised a
    little, so that an epoch has a whole number of images.

    Args:
        table: the training images.
        balance: the share of the images below which a class is rare.
    """
    images = np.repeat(np.arange(len(table)), np.diff(table.starts))
    pairs = np.unique(np.stack([images, table.labels])[:, ~table.crowds], axis=1)
    share = np.bincount(pairs[1], minlength=len(table.category_of)) / max(1, len(table))
    factors = np.ones(len(table))
    np.maximum.at(factors, pairs[0], np.sqrt(balance / share[pairs[1]]))
    more = factors.sum() - len(table)
    if more <= 0:
        return None
    return torch.from_numpy(1 + (factors - 1) * math.ceil(more) / more)


def images_per_epoch(table: CocoTable, factors: Tensor | None) -> int:
    """How many images an epoch has, those that come again included."""
    return len(table) if factors is None else round(float(factors.sum()))


def epoch_steps(groups: Tensor, per_step: int, seed: int, epoch: int, factors: Tensor | None = None) -> Tensor:
    """The images of every step of an epoch, ``(steps, per_step)``; the n-th further copy of one has N x n added to it.

    Each image comes once, or as often as its factor says: 1.3 is once, and twice in three epochs of ten. The last step
    is filled up from the beginning of the shuffled order. Steps hold images of one group, but for the leftovers.
    """
    generator = torch.Generator().manual_seed(mix(seed, "order", epoch))
    count = len(groups)
    order = torch.randperm(count, generator=generator)
    if factors is not None:
        order = _with_copies(order, factors, generator)
    whole, rest = [], []
    for group in torch.unique(groups):
        members = order[groups[order % count] == group]
        full = len(members) // per_step * per_step
        whole.append(members[:full])
        rest.append(members[full:])
    left = torch.cat(rest)
    missing = -len(left) % per_step
    filled = torch.cat([left, order.repeat(missing // len(order) + 1)[:missing]])
    steps = torch.cat([*whole, filled]).view(-1, per_step)
    return steps[torch.randperm(len(steps), generator=generator)]


def _with_copies(order: Tensor, factors: Tensor, generator: torch.Generator) -> Tensor:
    """The order with further copies in it: systematic sampling, so that every epoch has the same number of images."""
    reached = factors[order].cumsum(0)
    reached[-1] = reached[-1].round()
    passed = (reached + torch.rand(1, generator=generator, dtype=torch.float64)).floor().long()
    times = passed.diff(prepend=passed.new_zeros(1))
    copies = torch.cat([torch.arange(number) for number in times.tolist()])
    order = order.repeat_interleave(times) + len(order) * copies
    return order[torch.randperm(len(order), generator=generator)]


class StepSampler(Sampler[list[Address]]):
    """For every step from ``start`` to ``stop``, the addresses of this process's images."""

    def __init__(
        self,
        groups: Tensor,
        per_process: int,
        *,
        seed: int,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
        factors: Tensor | None = None,
    ) -> None:
        self.groups, self.factors, self.seed, self.start, self.stop = groups, factors, seed, start, stop
        self.per_step, self.own = per_process * world, slice(rank * per_process, (rank + 1) * per_process)
        self.steps_per_epoch = len(epoch_steps(groups, self.per_step, seed, 0, factors))

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Address]]:
        steps, drawn = torch.empty(0), -1
        for step in range(self.start, self.stop):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != drawn:
                steps, drawn = epoch_steps(self.groups, self.per_step, self.seed, epoch, self.factors), epoch
            yield [self._address(epoch, place) for place in steps[position][self.own].tolist()]

    def _address(self, epoch: int, place: int) -> Address:
        copy, index = divmod(place, len(self.groups))
        return (epoch, index, copy) if copy else (epoch, index)
