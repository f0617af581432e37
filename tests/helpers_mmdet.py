"""mmdetection as an oracle: its own code on torchvision's compiled operators, because mmcv-lite brings none."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import re
import sys
import types
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torchvision
from torch import Tensor, nn


class RoIAlign(nn.Module):
    """mmcv.ops.RoIAlign: sampling_ratio 0 means as many samples as the region has pixels."""

    def __init__(self, output_size: int, spatial_scale: float, sampling_ratio: int = 0) -> None:
        super().__init__()
        self.output_size = (output_size, output_size)
        self.spatial_scale, self.sampling_ratio = spatial_scale, sampling_ratio

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        return roi_align(features, rois, self.output_size, self.spatial_scale, self.sampling_ratio)


def roi_align(
    features: Tensor,
    rois: Tensor,
    size: Any,
    scale: float = 1.0,
    sampling: int = 0,
    mode: str = "avg",
    aligned: bool = True,
) -> Tensor:
    assert mode == "avg"
    return torchvision.ops.roi_align(features, rois, size, scale, sampling or -1, aligned)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, config: Any, class_agnostic: bool = False) -> Any:
    if class_agnostic:
        groups = torch.zeros_like(groups)
    keep = torchvision.ops.batched_nms(boxes, scores, groups, config["iou_threshold"])
    return torch.cat((boxes[keep], scores[keep, None]), 1), keep


class Operators(types.ModuleType):
    """``mmcv.ops`` and what is below it: three operators that work, and names that can only be imported."""

    RoIAlign, roi_align, batched_nms = RoIAlign, staticmethod(roi_align), staticmethod(batched_nms)
    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``mmcv.ops`` and everything below it in :class:`Operators`."""

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name == "mmcv.ops" or name.startswith("mmcv.ops."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Operators(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def mmdetection() -> types.SimpleNamespace:
    """What the tests need of mmdetection; the calling test module is skipped where it is not installed."""
    reason = "mmdetection 3.3.0 is not installed here; `make parity` runs this"
    package = pytest.importorskip("mmdet", reason=reason, exc_type=ImportError)
    sys.meta_path.insert(0, Finder())
    import_module("mmdet.utils").register_all_modules(init_default_scope=True)
    return types.SimpleNamespace(
        MODELS=import_module("mmdet.registry").MODELS,
        DetDataSample=import_module("mmdet.structures").DetDataSample,
        BitmapMasks=import_module("mmdet.structures.mask").BitmapMasks,
        bbox2roi=import_module("mmdet.structures.bbox").bbox2roi,
        InstanceData=import_module("mmengine.structures").InstanceData,
        Config=import_module("mmengine.config").Config,
        configs=Path(package.__file__).parent / ".mim" / "configs",
    )


def agree(what: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Compare, and print the largest difference for the record (`pytest -rP`)."""
    assert ours.shape == theirs.shape
    difference = (ours - theirs).abs().max().item()
    print(f"{what}: {difference:.1e} (largest value {theirs.abs().max().item():.3g}, allowed {tolerance:.0e})")
    assert difference <= tolerance, what


def shaken(model: nn.Module) -> nn.Module:
    """Weights that are not the initial ones, so that every layer says something."""
    draw = torch.Generator().manual_seed(5)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=draw)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1, generator=draw)
        elif re.search(r"fc_(cls|reg)|rpn_(cls|reg)", name):
            tensor.normal_(0, 0.05, generator=draw)
    return model
