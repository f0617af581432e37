"""How long a run takes that finds everything done, beside a Prefect flow of six tasks that do nothing.

Timed within the flows: at the end of every flow Prefect waits up to a second for its heartbeat, which would hide it.

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


@task
def nothing(number: int) -> int:
    return number


def six_tasks() -> None:
    for number in range(6):
        nothing(number)


@flow
def timed(run: Callable[[], object]) -> float:
    before = time.perf_counter()
    run()
    return time.perf_counter() - before


def median(run: Callable[[], object], times: int = 9) -> float:
    return statistics.median(timed(run) for _ in range(times))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        config, _ = load_config(tiny_recipe(Path(folder), tiny_scenes(Path(folder) / "data")))
        finetune(config)
        timed(six_tasks)
        cached, bare = median(lambda: finetune.fn(config)) * 1e3, median(six_tasks) * 1e3
        whole = time.perf_counter()
        timed(six_tasks)
        whole = (time.perf_counter() - whole) * 1e3
        print(f"cached run {cached:.0f} ms, six empty tasks {bare:.0f} ms: {cached - bare:.0f} ms more")
        print(f"an empty flow of six tasks, whole: {whole:.0f} ms")
