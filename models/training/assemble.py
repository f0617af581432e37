"""From a checkpoint to the model it describes, and the size that model works at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.checkpoint import CheckpointMeta, load_checkpoint
from models.errors import WeightsError
from models.training.transforms import WorkingSize
from models.zoo import Detector, DetectorOptions, build_detector, get_detector


@dataclass(frozen=True)
class Assembled:
    """A model with its weights, as a checkpoint describes it.

    Attributes:
        model: on the CPU, taking uint8 pictures of the working size.
        detector: its entry in the zoo.
        meta: detector, classes, options, history.
        size: the working size.
    """

    model: nn.Module
    detector: Detector
    meta: CheckpointMeta
    size: WorkingSize


def assemble(path: Path) -> Assembled:
    """Build the model of one of our checkpoints and load its weights, strictly.

    A checkpoint of a run in progress holds averaged weights beside those that are trained; the averaged ones are
    loaded, as in ``best.pt``.

    Raises:
        WeightsError: not a whole checkpoint of ours, or its weights are not those of the model it describes.
    """
    content, meta = load_checkpoint(path)
    detector = get_detector(meta.detector)
    model = build_detector(DetectorOptions(**{**meta.options, "name": meta.detector}), len(meta.classes) + 1)
    try:
        model.load_state_dict(content.get("ema") or content["model"])
    except RuntimeError as error:
        raise WeightsError(f"{path}: its weights do not fit {meta.detector} ({str(error)[:300]})") from error
    return Assembled(model, detector, meta, _working_size(model))


def _working_size(model: nn.Module) -> WorkingSize:
    """Read the working size off the model's transform, and leave the resizing and the drawing of masks to others."""
    transform: Any = model.transform
    transform.resize_images = transform.paste_masks = False
    fixed = transform.fixed_size  # (width, height)
    size = (fixed[1], fixed[0]) if fixed else None
    return WorkingSize(transform.min_size[-1], transform.max_size, size, transform.options.crop)


def pick_device(name: str = "auto") -> torch.device:
    """The device that ``auto`` means here, or the named one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def placed(model: nn.Module, device: torch.device, *, channels_last: bool | None = None) -> nn.Module:
    """The model on a device; ``channels_last`` says how its feature maps lie in memory there.

    None: channels last on a CPU, where a training step of SSDlite then takes three quarters of the time.
    """
    last = device.type == "cpu" if channels_last is None else channels_last
    transform: Any = model.transform
    transform.channels_last = last
    return model.to(device).to(memory_format=torch.channels_last if last else torch.contiguous_format)
