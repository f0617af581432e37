"""Stages as Prefect tasks: when a result may be reused, when a failure is worth another try, what a person sees."""

from __future__ import annotations

import errno
import inspect
import re
from asyncio import CancelledError
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx
from prefect import Task, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.task_engine import TaskRunTimeoutError

from models.errors import TrainingCrash
from tasks.stage import HEARD_BY, Stage
from tasks.store import Product
from tasks.timeouts import StageTimeoutError, Timeouts
from tasks.training_page import TrainingPage

P = ParamSpec("P")
T = TypeVar("T")
DEFAULT_TIMEOUTS = Timeouts()

# What asking again does not heal, although Python calls it an OSError.
PERMANENT = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENOSPC,
    errno.EROFS,
    errno.EDQUOT,
}


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether the world may heal what failed: a network or file system fault, a child process that died.

    Bad data, a wrong configuration, a full disk or a timeout fail at once, with their own message.
    """
    error = state.data
    if isinstance(error, TaskRunTimeoutError):
        return False
    if isinstance(error, OSError):
        return error.errno not in PERMANENT
    return isinstance(error, TrainingCrash | httpx.TransportError)  # the latter: Prefect's server is away


# Seconds before each further attempt, spread by up to a half.
RETRY_AFTER: dict[str, tuple[float, ...]] = {
    "look": (1, 5),
    "convert": (1, 5),
    "convert_shard": (1, 5),
    "check": (1, 5),
    "holdout": (1, 5),
    "fetch": (2, 4, 8, 16),
    "adapt": (1, 5),
    "train": (2, 10, 30),
    "evaluate": (1, 5),
    "report": (1, 5),
}


def as_task(
    stage: Stage[P, T], workspace: Path, timeouts: Timeouts = DEFAULT_TIMEOUTS
) -> Callable[Concatenate[Path, P], State[T]]:
    """The stage as a Prefect task that returns its state."""
    wrapped = task_of(stage, workspace, timeouts)
    return lambda *args, **kwargs: wrapped(*args, **kwargs, return_state=True)


def task_of(stage: Stage[P, T], workspace: Path, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> Task[..., T]:
    """The stage as a Prefect task; results are small JSON in ``<workspace>/results``.

    A timeout interrupts whatever the stage waits for where the flow runs in its process's main thread, as it does on a
    worker; in other threads it strikes when the wait is over.
    """
    delays = RETRY_AFTER[stage.name]

    def key(context: TaskRunContext, inputs: dict[str, Any]) -> str | None:
        return stage.key({name: value for name, value in inputs.items() if name != "workspace"})

    return Task(
        _with_artifact(stage),
        name=stage.name,
        description=(stage.__doc__ or "").split("\n", maxsplit=1)[0],
        cache_key_fn=key if stage.cached else None,
        persist_result=stage.cached,
        result_storage=workspace / "results",
        result_serializer="json",
        retries=len(delays),
        retry_delay_seconds=list(delays),
        retry_jitter_factor=0.5,
        retry_condition_fn=is_transient,
        timeout_seconds=getattr(timeouts, stage.name) * 3600,
    )


def refuse_timeout(name: str, state: State[Any], timeouts: Timeouts, seconds: float) -> None:
    """Say what it was where Prefect takes a stage for timed out; it was stopped, with the processes it had started.

    Raises:
        StageTimeoutError: its time had run out.
        CancelledError: it had not: Prefect ended the run, having lost its place under the limit of concurrent runs.
    """
    if state.name != "TimedOut" or not isinstance(state.result(raise_on_failure=False), TaskRunTimeoutError):
        return
    hours = getattr(timeouts, name)
    if seconds < hours * 3600:
        raise CancelledError(f"{name} was cancelled after {seconds:.0f} s")
    kept = "; the next run goes on from its last checkpoint" if name == "train" else ""
    raise StageTimeoutError(f"{name} was stopped after {hours:g} h, its timeout{kept}. Raise timeouts.{name}")


def _with_artifact(stage: Stage[P, T]) -> Callable[Concatenate[Path, P], T]:
    def run(workspace: Path, /, *args: P.args, **kwargs: P.kwargs) -> T:
        heard = HEARD_BY.set(TrainingPage())
        try:
            result = stage(workspace, *args, **kwargs)
        finally:
            HEARD_BY.reset(heard)
        if isinstance(result, Product):
            first, _, more = (result.path / "summary.md").read_text().partition("\n")
            get_run_logger().info("%s: %s", stage.name, first)
            text = f"{more.strip()}\n\nAll of it: `{result.path}`\n".lstrip()
            key = re.sub(r"[^a-z0-9]+", "-", f"annotune-{stage.name}")
            create_markdown_artifact(text, key=key, description=first)
        return result

    run.__name__ = stage.name
    run.__doc__ = stage.__doc__
    run.__signature__ = inspect.signature(stage.run)  # type: ignore[attr-defined]
    return run
