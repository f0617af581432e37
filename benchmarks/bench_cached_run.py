"""How long a run takes that finds everything done, beside a Prefect flow of six tasks that do nothing.

Once start to end, and once within the flows: at the end of every flow Prefect waits up to a second for its heartbeat,
which hides most of the difference.

python benchmarks/bench_cached_run.py
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="annotune-bench-")
os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "180"
sys.path.append(str(Path(__file__).parents[1] / "tests"))

from helpers_flow import tiny_recipe, tiny_scenes
from prefect import flow, task

from flows.config import load_config
from flows.finetune import finetune

ROUNDS = 7


@task
def nothing(number: int) -> int:
    return number


def six_tasks() -> None:
    for number in range(6):
        nothing(number)


@flow
def empty() -> None:
    six_tasks()


@flow
def within(run: Callable[[], object]) -> float:
    """Seconds that ``run`` takes inside a flow."""
    return seconds(run)


def seconds(run: Callable[[], object]) -> float:
    before = time.perf_counter()
    run()
    return time.perf_counter() - before


def medians(*runs: Callable[[], float]) -> list[float]:
    """Of each, taken in turns, so that what else the machine does falls on all of them."""
    taken = [[run() for run in runs] for _ in range(ROUNDS)]
    return [statistics.median(times) for times in zip(*taken, strict=True)]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        config, _ = load_config(tiny_recipe(Path(folder), tiny_scenes(Path(folder) / "data")))
        finetune(config)
        empty()
        assert "train" in finetune(config).reused
        run, floor = medians(lambda: seconds(lambda: finetune(config)), lambda: seconds(empty))
        print(
            f"start to end: cached run {run:.2f} s, an empty flow of six tasks {floor:.2f} s: {run / floor:.2f} times"
        )
        run, floor = medians(lambda: within(lambda: finetune.fn(config)), lambda: within(six_tasks))
        print(f"within the flow: {run * 1e3:.0f} ms, six empty tasks {floor * 1e3:.0f} ms: {run / floor:.1f} times")
