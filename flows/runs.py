"""Runs as people look for them: a folder by name, and a table of what differs between them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from models.report import ReportInputs, compare
from tasks.evaluate import LAST_METRICS, read_headline
from tasks.fetch import WeightsOptions
from tasks.store import Product

FILES = {
    "train": ("best.pt", "last.pt", "metrics.jsonl", "environment.json"),
    "evaluate": ("metrics.json", "detections.json", LAST_METRICS),
    "adapt": ("plan.json",),
    "check": ("problems.html", "problems.json", "train.json", "val.json", "test.json"),
    "report": ("report.html",),
}


DEFAULTS = {"weights": "given"} | {
    f"weights.{name}": value
    for name, value in WeightsOptions.model_construct(source="").model_dump(mode="json").items()
    if name != "source"
}
"""Of the one section that a recipe may leave out."""


@dataclass(frozen=True)
class RunFolder:
    """A finished run under its name."""

    name: str
    path: Path
    metrics: Mapping[str, float]  # COCO box metrics or accuracy, 0..1
    config: Mapping[str, Any]  # dotted key -> value


def publish(workspace: Path, name: str, config: str, products: Mapping[str, Product]) -> Path:
    """Put what a person wants of a run into ``<workspace>/runs/<name>``; the run before under that name is replaced.

    The files are hard links to the store's where the file system can, so they cost nothing.

    Args:
        workspace: the run's workspace.
        name: of the run.
        config: its resolved configuration, as YAML.
        products: the run's products by stage.
    """
    folder = workspace / "runs" / name
    part, old = folder.with_name(f".{name}.{os.getpid()}.part"), folder.with_name(f".{name}.{os.getpid()}.old")
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    (part / "config.yaml").write_text(config)
    for stage, names in FILES.items():
        for file in names:
            if products[stage].has(file):
                (part / file).parent.mkdir(exist_ok=True)
                _link(products[stage].path / file, part / file)
    for events in sorted(products["train"].path.glob("tensorboard/*")):
        (part / "tensorboard").mkdir(exist_ok=True)
        _link(events, part / "tensorboard" / events.name)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def list_runs(workspace: Path) -> list[RunFolder]:
    """All published runs of a workspace, by name."""
    return [_read_run(path) for path in sorted((workspace / "runs").glob("[!.]*")) if _is_run(path)]


def _is_run(folder: Path) -> bool:
    return (folder / "metrics.json").is_file() and (folder / "config.yaml").is_file()


def _read_run(folder: Path) -> RunFolder:
    return RunFolder(
        name=folder.name,
        path=folder,
        metrics=read_headline(folder / "metrics.json") | _last_scores(folder / LAST_METRICS),
        config=_flat(yaml.safe_load((folder / "config.yaml").read_text())),
    )


def _last_scores(path: Path) -> dict[str, float]:
    """What the last checkpoint reached, where that is not the best one."""
    return {f"last {name}": value for name, value in read_headline(path).items()} if path.is_file() else {}


def figures(scores: Iterable[Mapping[str, float]]) -> list[str]:
    """The columns of a table of runs: what comes first of detectors and of classifiers, and of last checkpoints."""
    named = {name for own in scores for name in own}
    return [name for name in ("AP", "AP50", "top1", "mean_class", "last AP", "last top1") if name in named]


def cells(scores: Mapping[str, float], columns: Iterable[str], digits: int = 3) -> list[str]:
    """A row of such a table."""
    return [f"{scores[name]:.{digits}f}" if name in scores else "-" for name in columns]


def differences(runs: Sequence[RunFolder]) -> list[list[str]]:
    """For each run what it has of the configuration, apart from its name, that is not the same in all: `key: value`.

    Where one run has a section that another leaves out, only what somebody chose in it counts.
    """
    keys = sorted({key for run in runs for key in run.config} - {"name"})
    differ = [key for key in keys if len({repr(run.config.get(key, DEFAULTS.get(key))) for run in runs}) > 1]
    return [[_told(key, run.config[key]) for key in differ if key in run.config] for run in runs]


def _told(key: str, value: Any) -> str:
    return f"{key}: {'none' if value is None else value}"


def compare_runs(folders: Sequence[Path], page: Path) -> None:
    """Write a page that puts published runs side by side; the first is what the others are measured against.

    Raises:
        ReportError: fewer than two runs, or a folder that is none.
    """
    runs = [_read_run(folder) for folder in folders if _is_run(folder)]
    notes = {run.path: ", ".join(own) for run, own in zip(runs, differences(runs), strict=True)}
    compare([_inputs(folder, notes.get(folder, "")) for folder in folders], page)


def _inputs(folder: Path, note: str) -> ReportInputs:
    held_out = folder / "test.json"  # as in the chain: where there is a test split, it was evaluated
    return ReportInputs(
        title=folder.name,
        note=note,
        val=held_out if held_out.is_file() else folder / "val.json",
        metrics=folder / "metrics.json",
        last=folder / LAST_METRICS,
        train=folder / "train.json",
        detections=folder / "detections.json",
        history=folder / "metrics.jsonl",
        plan=folder / "plan.json",
        problems=folder / "problems.json",
        config=(folder / "config.yaml").read_text() if (folder / "config.yaml").is_file() else "",
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
