"""torch.compile for a detector's backbone: where the shapes are few and most of the time goes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SHOWN = 300  # characters of a compiler's message that are shown


def compile_backbone(model: nn.Module, device: torch.device, *, one_shape: bool) -> str | None:
    """Compile the backbone's forward pass; the reason why not, where this machine cannot.

    Only the method is replaced: modules, parameters and the names of the state dict stay. Compilation itself happens
    at the first pass.

    Args:
        model: a detector; changed in place.
        device: where it is.
        one_shape: whether all batches have one size; else the compiled code takes any.
    """
    try:
        torch.compile(_probe)(torch.ones(8, device=device))
    except Exception as error:  # no compiler, no Triton, an old card: as many kinds as there are machines
        return reason(error)
    backbone: Any = model.backbone
    backbone.forward = torch.compile(backbone.forward, dynamic=False if one_shape else None)
    return None


def compilation_failed(model: nn.Module, error: Exception) -> bool:
    """Whether a pass failed because the backbone cannot be compiled; then it is as it was before."""
    backbone: Any = model.backbone
    if "forward" not in vars(backbone):
        return False
    from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415 - seconds to import, and only here

    if not isinstance(error, TorchDynamoException):
        return False
    del backbone.forward
    return True


def reason(error: Exception) -> str:
    """What a compiler has against it, in a line."""
    return f"the backbone is not compiled ({type(error).__name__}: {' '.join(str(error).split())[:SHOWN]})"


def _probe(values: Tensor) -> Tensor:
    return values * 2 + 1
