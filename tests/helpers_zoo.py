"""Every model's tensors without their memory, for tests of what depends on the classes."""

from functools import cache

import torch
from torch import Tensor

from models.zoo import DetectorOptions, build_detector


@cache
def state(name: str, classes: int) -> dict[str, Tensor]:
    """The state dict on the meta device of a model of so many classes."""
    with torch.device("meta"):
        built: dict[str, Tensor] = build_detector(DetectorOptions(name=name), classes + 1).state_dict()
    return built


def class_dependent(name: str) -> set[str]:
    """The keys whose shape changes with the number of classes."""
    few, many = state(name, 3), state(name, 7)
    return {key for key in few if few[key].shape != many[key].shape}
