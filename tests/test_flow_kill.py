"""Runs that are killed: the flow's process, and the training child below it. Real processes and a real server."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import orjson
import pytest
from helpers_flow import tiny_recipe, tiny_scenes

from flows.config import load_config
from flows.serve import environment, serving
from tasks.store import sha256_of

pytestmark = pytest.mark.slow

# One epoch is one step and one checkpoint, so that there is something to resume from wherever the run is killed.
TRAIN = {"epochs": 4, "batch_size": 24, "threads": 1, "workers": 0, "learning_rate": 0.01, "checkpoint_every_steps": 1}
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
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory, server_url: str) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    return finish(folder, data, server_url)


@pytest.fixture(scope="module")
def server_url(prefect_server: None) -> str:
    from prefect.settings import PREFECT_API_URL  # noqa: PLC0415 - slow

    return str(PREFECT_API_URL.value())


def start(folder: Path, data: Path, server_url: str) -> subprocess.Popen[str]:
    """A flow run in a process of its own."""
    recipe = tiny_recipe(folder, data, train=TRAIN)
    environ = {**os.environ, "PREFECT_API_URL": server_url, "PREFECT_HOME": str(folder / "prefect")}
    command = [sys.executable, "-c", RUN, str(recipe)]
    return subprocess.Popen(
        command,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder: Path, data: Path, server_url: str) -> str:
    """Run to the end; the hash of the best checkpoint."""
    with start(folder, data, server_url) as process:
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    best = next(line.partition(" ")[2] for line in said.splitlines() if line.startswith("reached"))
    return sha256_of(Path(best))


def wait_for_steps(folder: Path, process: subprocess.Popen[str]) -> Path:
    """Block until training has written a checkpoint; the folder of the unfinished product."""
    while process.poll() is None:
        if found := list((folder / "workspace/store").glob(".train-*.part/last.pt")):
            return found[0].parent
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    raise AssertionError(process.communicate()[0])


def children_of(pid: int) -> list[int]:
    """Processes below ``pid``, however deep, whose command is the training child."""
    below, found = {pid}, []
    for entry in sorted((path for path in Path("/proc").iterdir() if path.name.isdigit()), key=lambda p: int(p.name)):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if parent in below:
            below.add(int(entry.name))
            if b"models.training.child" in command and b"torch.distributed.run" not in command:
                found.append(int(entry.name))
    return found


@contextmanager
def ending_within(seconds: float, pid: int) -> Iterator[None]:
    """The process is gone within so many seconds after the block; whoever reuses its number does not count."""
    handle = os.pidfd_open(pid)
    try:
        yield
        assert select.select([handle], [], [], seconds)[0], "the training child lives on"
    finally:
        os.close(handle)


def test_a_killed_flow_process_is_taken_up_again_to_the_same_bytes(
    data: Path, tmp_path: Path, server_url: str, undisturbed: str
) -> None:
    with start(tmp_path, data, server_url) as process:
        part = wait_for_steps(tmp_path, process)
        (child,) = children_of(process.pid)
        with ending_within(15, child):
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert part.is_dir()  # nothing half-written has the final name

    assert finish(tmp_path, data, server_url) == undisturbed
    assert not part.exists()


def test_a_killed_training_child_is_retried_and_resumes_to_the_same_bytes(
    data: Path, tmp_path: Path, server_url: str, undisturbed: str
) -> None:
    with start(tmp_path, data, server_url) as process:
        wait_for_steps(tmp_path, process)
        (child,) = children_of(process.pid)
        os.kill(child, signal.SIGKILL)
        said, _ = process.communicate(timeout=300)

    assert process.returncode == 0, said
    assert "ended by SIGKILL" in said
    best = next(line.partition(" ")[2] for line in said.splitlines() if line.startswith("reached"))
    assert sha256_of(Path(best)) == undisturbed


def test_a_cancelled_run_frees_its_device_and_can_be_resumed(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, data, train={**TRAIN, "epochs": 200})
    given = orjson.dumps({"config": load_config(recipe)[0].model_dump(mode="json")}).decode()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(tmp_path / "prefect", Path(__file__).parents[1] / "deployments/prefect.yaml", port) as api:
        command = ["deployment", "run", "finetune/finetune", "--params", given, "--watch"]
        with subprocess.Popen(
            [sys.executable, "-m", "prefect", "--no-prompt", *command],
            env=environment(tmp_path / "prefect", api),
            stdout=subprocess.PIPE,
            text=True,
        ) as watching:
            part = wait_for_steps(tmp_path, watching)
            (child,) = children_of(os.getpid())
            (run,) = httpx.post(f"{api}/flow_runs/filter", json={}).json()
            with ending_within(15, child):
                cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
                httpx.post(f"{api}/flow_runs/{run['id']}/set_state", json=cancelling).raise_for_status()
            watching.communicate(timeout=120)
        assert httpx.get(f"{api}/flow_runs/{run['id']}").json()["state_type"] == "CANCELLED"
    assert (part / "last.pt").is_file()  # where the next run goes on
