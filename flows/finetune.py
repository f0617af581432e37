"""The finetune flow: the chain of stages as Prefect tasks, cached, retried and shown."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from pydantic import BaseModel

from flows.chain import chain
from flows.config import FinetuneConfig
from flows.runs import publish
from tasks.as_task import as_task, refuse_timeout
from tasks.evaluate import read_headline
from tasks.gc import under_way
from tasks.runners import map_task
from tasks.shards import ConvertOptions
from tasks.stage import Stage
from tasks.store import Product

P = ParamSpec("P")
T = TypeVar("T")


class Outcome(BaseModel):
    """What a run came to: figures, and where its products are."""

    name: str
    metrics: dict[str, float]  # COCO box metrics or accuracy, 0..1
    reused: tuple[str, ...]  # stages whose results were there already
    folder: Path  # best.pt, report.html, metrics.json and the rest under the run's name
    products: dict[str, Product]

    @property
    def checkpoint(self) -> Path:
        """The best checkpoint, in the store."""
        return self.products["train"].path / "best.pt"

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"


@flow(name="finetune", flow_run_name="{config.name}")
def finetune(config: FinetuneConfig, baseline: Product | None = None, baseline_title: str = "baseline") -> Outcome:
    """Turn annotations and a pretrained checkpoint into a fine-tuned, evaluated detector.

    Every stage is reused where its result for the same content is there and whole; a run that was killed goes on
    where it was.

    Args:
        config: the recipe; docs/config.md tells about every key.
        baseline: an earlier evaluation to compare with in the report.
        baseline_title: what the report calls it.
    """
    reused: list[str] = []
    with under_way(config.workspace):
        results = dict(chain(config, as_tasks(config, reused), baseline, baseline_title))
        products = {name: result for name, result in results.items() if isinstance(result, Product)}
        folder = publish(config.workspace, config.name, config.as_yaml(), products)
    outcome = Outcome(
        name=config.name,
        folder=folder,
        metrics=scores_of(products["evaluate"]),
        reused=tuple(reused),
        products=products,
    )
    say(f"report: {outcome.report}")
    return outcome


def scores_of(evaluated: Product) -> dict[str, float]:
    """COCO's box metrics of an evaluation, or a classifier's accuracy, 0..1."""
    return read_headline(evaluated.path / "metrics.json")


class as_tasks:  # noqa: N801 - the way of a chain: chain(config, as_tasks(config))
    """Runs stages as Prefect tasks in the workspace; the names of those that were cached go to ``reused``.

    It raises StageTimeoutError where a stage took too long.
    """

    def __init__(self, config: FinetuneConfig, reused: list[str] | None = None) -> None:
        self.workspace, self.timeouts = config.workspace, config.timeouts
        self.reused = [] if reused is None else reused

    def __call__(self, stage: Stage[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``stage``, or find it done."""
        began = time.monotonic()
        state = as_task(stage, self.workspace, self.timeouts)(self.workspace, *args, **kwargs)
        refuse_timeout(stage.name, state, self.timeouts, time.monotonic() - began)
        result: Any = state.result()
        if state.name == "Cached":
            self.reused.append(stage.name)
        say(f"{stage.name:9s} {'cached' if state.name == 'Cached' else 'done  '} {_headline(result)}")
        return result  # type: ignore[no-any-return]

    def map(self, stage: Stage[P, T], calls: Sequence[tuple[Any, ...]], how: ConvertOptions) -> list[T]:
        """Run ``stage`` for each of ``calls`` with the task runner that ``how`` names."""
        results = map_task(stage, self.workspace, calls, how, self.timeouts)
        say(f"{stage.name:9s} done   {len(results)} by {how.runner}")
        return results


def _headline(result: Any) -> str:
    if isinstance(result, Product):
        return (result.path / "summary.md").read_text().split("\n", maxsplit=1)[0]
    if hasattr(result, "sha256"):
        return f"{result.path.name}, {result.size:,} bytes"
    return f"{result.files:,} files, {result.size:,} bytes" if hasattr(result, "files") else ""


def say(text: str) -> None:
    """To the flow run's log, and to whoever listens to the `annotune` logger (the command line does)."""
    get_run_logger().info(text)
    logging.getLogger("annotune").info(text)


def start_server() -> None:
    """Start Prefect's temporary server, where none is set, deaf to SIGINT.

    A terminal sends Ctrl-C to every process; a server that ended with it could not be told that the run was stopped. A
    mask of signals is inherited, and Prefect ends its server with SIGTERM.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        get_client(sync_client=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
