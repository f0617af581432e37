"""Which images make which step: a function of seed and step, so a run continues in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from models.training.randomness import mix


def aspect_groups(sizes: Tensor) -> Tensor:
    """Group images that pad each other little: upright, square-ish, wide, very wide.

    Args:
        sizes: (N, 2) width, height in pixels.
    """
    ratio = sizes[:, 0] / sizes[:, 1].clamp(min=1)
    return torch.bucketize(ratio, torch.tensor([0.75, 1.0, 1.5]))


def epoch_steps(groups: Tensor, per_step: int, seed: int, epoch: int) -> Tensor:
    """The images of every step of an epoch, ``(steps, per_step)``.

    Each image comes once; the last step is filled up from the beginning of the shuffled order. Steps hold images of
    one group, but for the leftovers.
    """
    generator = torch.Generator().manual_seed(mix(seed, "order", epoch))
    order = torch.randperm(len(groups), generator=generator)
    whole, rest = [], []
    for group in torch.unique(groups):
        members = order[groups[order] == group]
        full = len(members) // per_step * per_step
        whole.append(members[:full])
        rest.append(members[full:])
    left = torch.cat(rest)
    missing = -len(left) % per_step
    filled = torch.cat([left, order.repeat(missing // len(order) + 1)[:missing]])
    steps = torch.cat([*whole, filled]).view(-1, per_step)
    return steps[torch.randperm(len(steps), generator=generator)]


class StepSampler(Sampler[list[tuple[int, int]]]):
    """For every step from ``start`` to ``stop``, this process's images as ``(epoch, index)``."""

    def __init__(
        self, groups: Tensor, per_process: int, *, seed: int, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> None:
        self.groups, self.seed, self.start, self.stop = groups, seed, start, stop
        self.per_step, self.own = per_process * world, slice(rank * per_process, (rank + 1) * per_process)
        self.steps_per_epoch = len(epoch_steps(groups, self.per_step, seed, 0))

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        steps, drawn = torch.empty(0), -1
        for step in range(self.start, self.stop):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != drawn:
                steps, drawn = epoch_steps(self.groups, self.per_step, self.seed, epoch), epoch
            yield [(epoch, int(index)) for index in steps[position][self.own]]
