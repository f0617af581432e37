"""Carry a load plan out: the checkpoint's tensors, cut, turned and cast as the plan says."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.errors import WeightsError
from models.weights.containers import Checkpoint
from models.weights.darknet import with_names
from models.weights.plan import LoadPlan, PlannedTensor, shape_text


def apply_plan(plan: LoadPlan, state: Mapping[str, Tensor], checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The complete state that ``plan`` describes: the keys, shapes and dtypes of ``state``, so it loads strictly.

    Neither ``state`` nor the checkpoint is changed. Tensors that need no work are not copied: they share memory with
    the one they come from.

    Args:
        plan: made for this model and this checkpoint.
        state: the model's state dict with its initial values, not on the meta device.
        checkpoint: the checkpoint that the plan was made for.

    Raises:
        WeightsError: the plan was made for another model or another checkpoint.
    """
    checkpoint = with_names(checkpoint)
    planned = {tensor.key: tensor for tensor in plan.tensors}
    if list(planned) != list(state):
        strange = sorted(planned.keys() ^ state.keys())[:3]
        raise WeightsError(f"the plan was made for another model: they differ in {', '.join(strange) or 'order'}")
    return {key: _filled(planned[key], tensor, checkpoint) for key, tensor in state.items()}


def _filled(planned: PlannedTensor, initial: Tensor, checkpoint: Checkpoint) -> Tensor:
    """One tensor of the new state."""
    if tuple(initial.shape) != planned.shape:
        shapes = f"{shape_text(tuple(initial.shape))} and not {shape_text(planned.shape)}"
        raise WeightsError(f"the plan was made for another model: {planned.key} is {shapes}")
    if planned.action == "skipped":
        return initial
    source = checkpoint.tensors.get(planned.source or "")
    if source is None:
        raise WeightsError(f"the plan was made for another checkpoint: {checkpoint.path.name} has no {planned.source}")
    source = source.t() if planned.transpose else source
    if planned.runs:
        return _rows(planned, initial, source)
    if tuple(source.shape) != planned.shape:
        source = adapt_channels(source, planned)
    return source.to(device=initial.device, dtype=initial.dtype).contiguous()


def _rows(planned: PlannedTensor, initial: Tensor, source: Tensor) -> Tensor:
    """The initial tensor with the planned rows of the source in their places."""
    filled = initial.clone()
    for to, origin, count in planned.runs:
        filled[to : to + count] = source[origin : origin + count].to(device=initial.device, dtype=initial.dtype)
    return filled


def adapt_channels(source: Tensor, planned: PlannedTensor) -> Tensor:
    """A first convolution over RGB, adapted to another number of channels so that its responses keep their size.

    One channel takes the sum of the three: a grey image gives the response of the same image in RGB. Others take the
    three in turn, scaled by 3 / channels (timm's ``adapt_input_conv``).
    """
    if source.dim() != 4 or source.shape[1] != 3 or len(planned.shape) != 4:
        raise WeightsError(
            f"the plan was made for another checkpoint: {planned.source} is {shape_text(tuple(source.shape))}"
        )
    channels = planned.shape[1]
    if channels == 1:
        return source.sum(dim=1, keepdim=True)
    turn = torch.arange(channels) % 3
    return source[:, turn] * (3 / channels)
