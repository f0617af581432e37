"""Two models can have the same tensors and not be the same: what a checkpoint was made for, against what it will meet.

A ResNet that strides in its 1x1 convolutions (the original Caffe weights, and detectron2's) has the very shapes of one
that strides in the 3x3 ones, and weights for BGR images of 0..255 fit a network for normalised RGB. Both load without a
word and cost many points of AP. The same holds for a head trained on other anchors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from models.weights.containers import Checkpoint
from models.weights.keymaps import KeyMap

_CAFFE = "its ResNet strides in the 1x1 convolutions (Caffe style), ours in the 3x3"
_BGR = "it was trained on BGR images without scaling (0..255), ours are RGB and normalised"


def contract_problems(model: nn.Module | Mapping[str, Tensor], checkpoint: Checkpoint, key_map: KeyMap) -> list[str]:
    """Why the checkpoint's numbers mean something else in this model, though they fit; empty where nothing is known."""
    said = _text(checkpoint.metadata)
    problems = []
    if re.search(r"style\s*[=:]\s*['\"]caffe['\"]", said) or _is_msra(checkpoint.tensors, key_map):
        problems.append(_CAFFE)
    if re.search(r"(bgr_to_rgb|to_rgb)['\"]?\s*[=:]\s*False", said) or _is_msra(checkpoint.tensors, key_map):
        problems.append(_BGR)
    return problems


def _text(metadata: Mapping[str, Any]) -> str:
    """All strings of the metadata (a configuration is kept as text), newest frameworks and old ones alike."""
    return "\n".join(str(value) for value in metadata.values())


def _is_msra(tensors: Mapping[str, Tensor], key_map: KeyMap) -> bool:
    """Whether it is a detectron2 ResNet on MSRA's weights, which nearly all of its published ones are.

    The shapes do not tell; the pixel statistics do where the file has them: standard deviations of 1 are MSRA's.
    """
    if key_map.name != "detectron2" or not any(key.endswith("stem.conv1.weight") for key in tensors):
        return False
    deviation = tensors.get("pixel_std")
    return deviation is None or bool((deviation.flatten() == 1).all())
