"""Who converts shards: Prefect's task runners by name, those of Dask and Ray imported only when they are asked for."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import get_run_logger
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from converters.errors import DatasetError
from tasks.as_task import DEFAULT_TIMEOUTS, task_of
from tasks.shards import ConvertOptions
from tasks.stage import Stage
from tasks.timeouts import Timeouts

P = ParamSpec("P")
T = TypeVar("T")
ROUNDS = 3
LOST = {"BrokenProcessPool", "KilledWorker", "WorkerCrashedError", "NodeDiedError", "CrashedRun"}
"""How process pools, Dask, Ray and Prefect say that a worker died; some of them need not be installed."""


def map_task(
    stage: Stage[P, T],
    workspace: Path,
    calls: Sequence[tuple[Any, ...]],
    options: ConvertOptions,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> list[T]:
    """Run ``stage`` as a Prefect task for each of ``calls``; what is there already is found, not made again.

    Where workers died, the rest is given to new ones, up to :data:`ROUNDS` times.

    Raises:
        DatasetError: as :func:`task_runner`.
    """
    task, names = task_of(stage, workspace, timeouts), list(inspect.signature(stage.run).parameters)
    parameters = [dict(zip(names, (workspace, *call), strict=False)) for call in calls]
    for left in reversed(range(ROUNDS)):
        try:
            with task_runner(options) as runner:
                futures = [runner.submit(task, given) for given in parameters]
                return [future.result() for future in futures]
        except Exception as error:
            if not left or type(error).__name__ not in LOST:
                raise
            get_run_logger().warning("workers died: %s. What they had not finished is given to new ones", error)
    raise AssertionError("the last round returns or raises")


def task_runner(options: ConvertOptions) -> Any:
    """The Prefect task runner that ``convert.runner`` names, not yet started.

    Raises:
        DatasetError: it is Dask's or Ray's, which is not installed.
    """
    workers = options.workers or os.cpu_count() or 1
    match options.runner:
        case "dask":
            where = {"address": options.address} if options.address else {"cluster_kwargs": _dask_cluster(workers)}
            return _extra("prefect_dask", "dask").DaskTaskRunner(**where)
        case "ray":
            more = {"address": options.address} if options.address else {"init_kwargs": {"num_cpus": workers}}
            return _extra("prefect_ray", "ray").RayTaskRunner(**more)
        case "processes":
            return ProcessPoolTaskRunner(max_workers=workers)
        case "threads":
            return ThreadPoolTaskRunner(max_workers=workers)
        case "inline":
            return ThreadPoolTaskRunner(max_workers=1)


def _dask_cluster(workers: int) -> dict[str, Any]:
    """Processes of one thread: reading holds Python's lock. No dashboard, which would ask for a port of its own."""
    return {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}


def _extra(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise DatasetError(
            f"convert.runner is {extra}, but {error.name} is not installed: pip install 'annotune[{extra}]'"
        ) from error
