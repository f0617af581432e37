"""The folder of a run: what it was made of, what it has reached, and its checkpoints."""

from __future__ import annotations

import os
import platform
import subprocess
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import torch

from models.checkpoint import CheckpointMeta, load_checkpoint, save_checkpoint
from models.errors import WeightsError
from models.files import UNFINISHED, sha256_of, write_readable_json
from models.training.options import DetectionData, TrainOptions

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
MICRO_BATCH = "micro_batch.json"  # images per forward pass that memory had room for, after it had not


@dataclass(frozen=True)
class TrainSummary:
    """What a finished run reached.

    Attributes:
        best: the checkpoint to use: the best by ``best_by``, or the last without evaluation.
        last: the checkpoint of the last step.
        steps: optimizer steps taken.
        epochs: passes over the images, with fraction.
        best_step: step of ``best``.
        metrics: scores of ``best`` (``bbox/AP`` ...), 0..1.
        images: images trained on, empty ones included unless left out.
        unreadable: file names that could not be read.
        notes: what a reader of the result should know: early stop, halved batches, ...
    """

    best: Path
    last: Path
    steps: int
    epochs: float
    best_step: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    images: int = 0
    unreadable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def run_inputs(
    init: Path, train: DetectionData, val: DetectionData | None, options: TrainOptions, world: int
) -> dict[str, Any]:
    """What decides the weights of a run, by content: two runs with equal inputs are one run."""
    return {
        "init": sha256_of(init),
        "train": sha256_of(train.coco),
        "val": sha256_of(val.coco) if val else None,
        "processes": world,
        "options": options.binding(),
    }


def claim(folder: Path, inputs: dict[str, Any], options: TrainOptions) -> None:
    """Make the folder this run's, or find that it is already.

    Raises:
        ValueError: the folder holds another run; names the first difference.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(UNFINISHED):
        leftover.unlink()
    path = folder / "config.json"
    if path.exists():
        before = orjson.loads(path.read_bytes())["inputs"]
        if (difference := _difference(before, inputs)) is not None:
            raise ValueError(f"{folder} holds another run: {difference}. Name another folder, or delete this one")
    write_readable_json(path, {"inputs": inputs, "options": options.model_dump(mode="json")})
    write_readable_json(folder / "environment.json", environment())


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    flat_before = {**before, **before["options"], "options": None}
    flat_now = {**now, **now["options"], "options": None}
    for key in sorted({*flat_before, *flat_now}):
        if flat_before.get(key) != flat_now.get(key):
            return f"{key} was {flat_before.get(key)!r} there and is {flat_now.get(key)!r} now"
    return None


def save_run(folder: Path, state: Mapping[str, torch.Tensor], meta: CheckpointMeta, **extra: Any) -> None:
    """Write ``last.pt``; what was there before becomes ``previous.pt``. At every moment one of the two is whole."""
    last = folder / LAST
    if last.exists():
        link = folder / f".{PREVIOUS}.{os.getpid()}.part"
        link.unlink(missing_ok=True)
        link.hardlink_to(last)
        link.replace(folder / PREVIOUS)
    save_checkpoint(last, state, meta, **extra)


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint to resume from, and a sentence for each broken one that was passed over."""
    problems: list[str] = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if path.exists():
            if (problem := _damage(path)) is None:
                return path, problems
            problems.append(f"{name} is damaged ({problem})")
    return None, problems


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, checksums of all its tensors included; None if nothing is."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:
                return f"checksum of {member}"
        content, _ = load_checkpoint(path)
        return None if "run" in content else "it is no checkpoint of a run"
    except (
        zipfile.BadZipFile,
        WeightsError,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        return str(error) or type(error).__name__


def write_summary(folder: Path, summary: TrainSummary) -> None:
    """Write ``summary.json``: the sign that the run is finished."""
    names = {"best": summary.best.name, "last": summary.last.name}
    write_readable_json(folder / "summary.json", {**asdict(summary), **names})


def read_summary(folder: Path) -> TrainSummary | None:
    """The summary of a finished run whose checkpoints are still there, or None."""
    try:
        found = orjson.loads((folder / "summary.json").read_bytes())
        paths = {"best": folder / found["best"], "last": folder / found["last"]}
        lists = {"unreadable": tuple(found["unreadable"]), "notes": tuple(found["notes"])}
        summary = TrainSummary(**{**found, **paths, **lists})
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return summary if summary.best.exists() and summary.last.exists() else None


def environment() -> dict[str, Any]:
    """What the run ran on."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    """Commit of the working folder and whether it has changes; None outside git."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "changed": bool(status.stdout.strip())}
