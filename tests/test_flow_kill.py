"""Runs that are killed: the flow's process, and the training child below it. Real processes and a real server."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers_flow import tiny_recipe, tiny_scenes
from helpers_kill import TRAIN, ending_within, training_below, wait_for_steps, wait_until

from tasks.store import sha256_of

pytestmark = pytest.mark.slow

RUN = """
import sys
from pathlib import Path
from flows.config import load_config
from flows.finetune import finetune
outcome = finetune(load_config(Path(sys.argv[1]))[0])
print("reached", outcome.folder / "best.pt", flush=True)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scenes(tmp_path_factory.mktemp("kill") / "data")


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    return finish(folder, data, prefect_server)


def start(folder: Path, data: Path, prefect_server: str, **sections: Any) -> subprocess.Popen[str]:
    """A flow run in a process of its own."""
    recipe = tiny_recipe(folder, data, **{"train": TRAIN, **sections})
    environ = {**os.environ, "PREFECT_API_URL": prefect_server, "PREFECT_HOME": str(folder / "prefect")}
    command = [sys.executable, "-c", RUN, str(recipe)]
    return subprocess.Popen(
        command,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder: Path, data: Path, prefect_server: str) -> str:
    """Run to the end; the hash of the best checkpoint."""
    with start(folder, data, prefect_server) as process:
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    best = next(line.partition(" ")[2] for line in said.splitlines() if line.startswith("reached"))
    return sha256_of(Path(best))


def test_a_killed_flow_process_is_taken_up_again_to_the_same_bytes(
    data: Path, tmp_path: Path, prefect_server: str, undisturbed: str
) -> None:
    with start(tmp_path, data, prefect_server) as process:
        part = wait_for_steps(tmp_path / "workspace", process)
        (child,) = training_below(process.pid)
        with ending_within(15, child):
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert part.is_dir()  # nothing half-written has the final name

    assert finish(tmp_path, data, prefect_server) == undisturbed
    assert not part.exists()


def test_a_killed_training_child_is_retried_and_resumes_to_the_same_bytes(
    data: Path, tmp_path: Path, prefect_server: str, undisturbed: str
) -> None:
    with start(tmp_path, data, prefect_server) as process:
        wait_for_steps(tmp_path / "workspace", process)
        (child,) = training_below(process.pid)
        os.kill(child, signal.SIGKILL)
        said, _ = process.communicate(timeout=300)

    assert process.returncode == 0, said
    assert "ended by SIGKILL" in said
    best = next(line.partition(" ")[2] for line in said.splitlines() if line.startswith("reached"))
    assert sha256_of(Path(best)) == undisturbed


def test_training_that_takes_too_long_is_stopped_and_nothing_lives_on(
    data: Path, tmp_path: Path, prefect_server: str
) -> None:
    limits = {"train": 20 / 3600}  # hours
    with start(tmp_path, data, prefect_server, train={**TRAIN, "epochs": 10_000}, timeouts=limits) as process:
        wait_until(lambda: training_below(process.pid) or process.poll() is not None)
        (child,) = training_below(process.pid)
        with ending_within(15, child):
            said, _ = process.communicate(timeout=300)

    assert process.returncode == 1
    assert "StageTimeoutError: train was stopped after 0.00555556 h, its timeout; the next run goes on from" in said
    assert said.count("Beginning flow run") == 1
