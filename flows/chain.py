"""The chain of stages, from annotations to a fine-tuned, evaluated model; it never heard of Prefect.

``finetune.py`` runs it with Prefect tasks; single-stage commands run it with plain calls, up to their stage.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from converters.fingerprint import Fingerprint
from flows.config import FinetuneConfig
from tasks.adapt import adapt
from tasks.check import check, classes_of, refuse_errors
from tasks.convert import convert, images_of
from tasks.evaluate import evaluate, last_of
from tasks.fetch import fetch
from tasks.gc import under_way
from tasks.look import look
from tasks.report import ReportOptions, report
from tasks.shards import ConvertOptions, Shards, convert_shard
from tasks.stage import Stage
from tasks.store import Product
from tasks.train import choose_freeze, train

P = ParamSpec("P")
T = TypeVar("T")


class Runner(Protocol):
    """How a stage is run: as a plain call, or as a Prefect task."""

    def __call__(self, stage: Stage[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``stage`` in the workspace with these arguments."""

    def map(self, stage: Stage[P, T], calls: Sequence[tuple[Any, ...]], how: ConvertOptions) -> list[T]:
        """Run ``stage`` once for each of ``calls``, side by side where ``how`` says so and the runner can."""


def chain(
    config: FinetuneConfig, run: Runner, baseline: Product | None = None, baseline_title: str = "the baseline"
) -> Iterator[tuple[str, Any]]:
    """Run the stages one after the other and yield each one's name and result as it is there.

    Whoever stops asking stops the chain; what is reused is decided by content, not by time.
    """
    seen = run(look, config.source)
    yield "look", seen
    converted = run(convert, config.data, seen, _shards(config, run, seen))
    yield "convert", converted
    images = images_of(config.source, converted, seen)
    checked = run(check, converted, images, config.check)
    yield "check", refuse_errors(checked)
    weights = run(fetch, config.weights.source, config.weights.sha256) if config.weights else None
    yield "fetch", weights
    train_json, val_json = checked.file("train.json"), checked.file("val.json")
    boxes = train_json if config.detector.anchors == "auto" else None
    adapted = run(adapt, weights, config.weights, config.detector, classes_of(checked), config.train.seed, boxes)
    yield "adapt", adapted
    trained = run(
        train, adapted.file("init.pt"), train_json, val_json, images, choose_freeze(config.train, adapted, checked)
    )
    yield "train", trained
    # val chose the best checkpoint; where there is a test split, the figures come from images that chose nothing.
    held_out = "test.json" if checked.has("test.json") else "val.json"
    evaluated = run(
        evaluate, trained.file("best.pt"), checked.file(held_out), images, config.evaluate, last_of(trained)
    )
    yield "evaluate", evaluated
    page = run(
        report,
        ReportOptions(title=config.name, config=config.as_yaml(), split=held_out, baseline=baseline_title),
        checked,
        images,
        adapted,
        trained,
        evaluated,
        baseline,
    )
    yield "report", page


def _shards(config: FinetuneConfig, run: Runner, seen: Fingerprint) -> Shards:
    count = config.convert.shards
    calls = [(config.source, seen, index, count) for index in range(count)] if count > 1 else []
    return Shards(products=tuple(run.map(convert_shard, calls, config.convert))) if calls else Shards()


class Plainly:
    """Runs stages as plain calls in ``workspace``, without Prefect; what the store has is not made again."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace

    def __call__(self, stage: Stage[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``stage``."""
        return stage(self.workspace, *args, **kwargs)

    def map(self, stage: Stage[P, T], calls: Sequence[tuple[Any, ...]], how: ConvertOptions) -> list[T]:
        """One call after the other, whatever ``how`` says."""
        call: Callable[..., T] = stage
        return [call(self.workspace, *arguments) for arguments in calls]


def up_to(stage: str, config: FinetuneConfig) -> dict[str, Any]:
    """Run the stages up to this one as plain calls; the result of each by its name, in their order."""
    results: dict[str, Any] = {}
    with under_way(config.workspace):
        for name, results[name] in chain(config, Plainly(config.workspace)):
            logging.getLogger("annotune").info("%-9s %s", name, getattr(results[name], "path", ""))
            if name == stage:
                break
    return results
