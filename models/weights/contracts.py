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
from torchvision.models.detection.anchor_utils import AnchorGenerator

from models.weights.containers import Checkpoint
from models.weights.keymaps import KeyMap

_CAFFE = "its ResNet strides in the 1x1 convolutions (Caffe style), ours in the 3x3"
_BGR = "it was trained on BGR images of 0..255, ours are RGB and normalised"


def contract_problems(model: nn.Module | Mapping[str, Tensor], checkpoint: Checkpoint, key_map: KeyMap) -> list[str]:
    """Why the checkpoint's numbers mean something else in this model, though they fit; empty where nothing is known.

    Known are the configuration that mmdetection writes into its checkpoints, the pixel statistics of detectron2's, and
    the options in our own. Anchors are compared where ``model`` is a module.
    """
    said = _text(checkpoint.metadata)
    msra = _is_msra(checkpoint.tensors, key_map)
    problems = []
    if msra or re.search(r"""style['"]?\s*[=:]\s*['"]caffe['"]""", said):
        problems.append(_CAFFE)
    if msra or re.search(r"""(bgr_to_rgb|to_rgb)['"]?\s*[=:]\s*(False|false)""", said):
        problems.append(_BGR)
    return problems + _other_anchors(model, checkpoint.metadata)


def _text(value: Any) -> str:
    """All that the metadata says, as text: a configuration is kept as text or as nested values, by version."""
    return "\n".join(f"{key}={entry!r}\n{entry}" for key, entry in value.items())


def _is_msra(tensors: Mapping[str, Tensor], key_map: KeyMap) -> bool:
    """Whether it is a detectron2 ResNet on MSRA's weights, which nearly all of its published ones are.

    The shapes do not tell; the pixel statistics do where the file has them: standard deviations of 1 are MSRA's.
    """
    if key_map.name != "detectron2" or not any(key.endswith("stem.conv1.weight") for key in tensors):
        return False
    deviation = tensors.get("pixel_std")
    return deviation is None or bool((deviation.flatten() == 1).all())


def _other_anchors(model: nn.Module | Mapping[str, Tensor], metadata: Mapping[str, Any]) -> list[str]:
    """The problem of a checkpoint of ours whose options name other anchors than the model has."""
    meta = metadata.get("meta")
    options = meta.get("options") if isinstance(meta, Mapping) else None
    if not isinstance(options, Mapping):
        return []
    problems = []
    for option, mine in _anchors(model).items():
        theirs = _rounded(options.get(option))
        if theirs is not None and theirs != mine:
            problems.append(f"its {option} are {theirs}, ours {mine}")
    return problems


def _anchors(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Any]:
    """The anchor options that the built model shows; see :class:`models.zoo.options.DetectorOptions`."""
    if not isinstance(model, nn.Module):
        return {}
    for module in model.modules():
        if isinstance(module, AnchorGenerator):
            return {"anchors": _rounded(module.sizes), "aspect_ratios": _rounded(module.aspect_ratios[0])}
        anchors = getattr(module, "anchors", None)
        if isinstance(anchors, tuple | list):
            return {"anchors": _rounded(anchors)}
    return {}


def _rounded(value: Any) -> Any:
    """Numbers in nested lists to six digits, so that JSON and Python agree."""
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return round(float(value), 6) if isinstance(value, int | float) else None
