"""Our own checkpoint: a state dict and everything needed to build the model around it, nothing else.

The file is ``{"model": {key: tensor}, "meta": {...JSON...}, ...}``: tensors and JSON-able values only, so that it loads
with ``weights_only=True`` now and after the next torch release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import WeightsError
from models.files import whole_file


@dataclass(frozen=True)
class CheckpointMeta:
    """What a checkpoint knows about itself: a checkpoint alone predicts.

    Attributes:
        detector: the detector's name in the zoo.
        classes: category names in label order, without the background: label 1 is ``classes[0]``.
        options: the detector options it was built with, as JSON (image size, normalisation, anchors, ...).
        history: where it came from and how far it went, as JSON (source digest, epoch, metrics, ...).
    """

    detector: str
    classes: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, state: Mapping[str, Tensor], meta: CheckpointMeta, **extra: Any) -> None:
    """Write a checkpoint so that ``path`` is always a whole file: temporary name, flush to disk, rename.

    Args:
        path: the final name; its folder must exist.
        state: complete state dict; tensors are written as they are, on CPU or not.
        meta: see :class:`CheckpointMeta`.
        extra: further top-level entries (optimizer, scheduler, ...): tensors and JSON-able values only.

    Raises:
        OSError: the disk is full or not writable; ``path`` is as it was.
    """
    content = {
        "model": {key: value.contiguous() for key, value in state.items()},  # however a device had it in memory
        "meta": {
            "detector": meta.detector,
            "classes": list(meta.classes),
            "options": dict(meta.options),
            "history": dict(meta.history),
        },
        **extra,
    }
    try:
        with whole_file(path) as part, part.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        raise _disk_error(error) or error from None


def _disk_error(error: BaseException | None) -> OSError | None:
    """The operating system's own error (a full disk, say), which torch hides behind one of its archive writer."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def load_checkpoint(path: Path) -> tuple[dict[str, Any], CheckpointMeta]:
    """Read a checkpoint written by :func:`save_checkpoint` onto the CPU.

    Returns:
        The whole content (``content["model"]`` is the state dict) and its meta.

    Raises:
        WeightsError: the file is damaged, or is no checkpoint of ours.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        meta = content["meta"]
        return content, CheckpointMeta(meta["detector"], tuple(meta["classes"]), meta["options"], meta["history"])
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such checkpoint") from None
    except Exception as error:
        raise WeightsError(
            f"{path}: not a whole annotune checkpoint ({type(error).__name__}: {str(error).splitlines()[0][:200]})",
            "Foreign checkpoints are read by `weights` and adapted first",
        ) from error
