"""Runs that are killed while they train: when to strike, whom, and what must be gone afterwards."""

import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import httpx

from flows.config import FinetuneConfig

# One epoch is one step and one checkpoint, so that there is something to resume from wherever the run is killed.
TRAIN = {"epochs": 4, "batch_size": 24, "threads": 1, "workers": 0, "learning_rate": 0.01, "checkpoint_every_steps": 1}


def free_port() -> int:
    """A port of this machine that nobody has now."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])


def wait_until(done: Callable[[], object], seconds: float = 400, every: float = 0.1) -> None:
    """Block until ``done()``."""
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"not within {seconds:g} seconds"
        Event().wait(every)


def begin_run(api: str, config: FinetuneConfig) -> str:
    """Ask a server with our deployments for a run of finetune; its id."""
    deployment = ask("GET", f"{api}/deployments/name/finetune/finetune")["id"]
    given = {"parameters": {"config": config.model_dump(mode="json")}}
    return str(ask("POST", f"{api}/deployments/{deployment}/create_flow_run", json=given)["id"])


def ask(method: str, url: str, **given: Any) -> Any:
    """What Prefect's server answers; asked again while its database is busy (503), as Prefect's own client does."""
    answers: list[httpx.Response] = []

    def answered() -> bool:
        answers[:] = [httpx.request(method, url, timeout=30, **given)]
        return answers[0].status_code != httpx.codes.SERVICE_UNAVAILABLE

    wait_until(answered, every=1)
    return answers[0].raise_for_status().json()


def wait_for_steps(workspace: Path, process: subprocess.Popen[Any]) -> Path:
    """Block until training below ``process`` has written a checkpoint; the folder of the unfinished product."""
    found: list[Path] = []

    def there() -> bool:
        found[:] = workspace.glob("store/.train-*.part/last.pt")
        return bool(found) or process.poll() is not None

    wait_until(there)
    assert found, "the run ended before it had a checkpoint"
    return found[0].parent


def processes_below(pid: int, module: str) -> list[int]:
    """Processes below ``pid``, however deep, that run ``python -m module``."""
    parents: dict[int, int] = {}
    runs: list[int] = []
    for entry in (path for path in Path("/proc").iterdir() if path.name.isdigit()):
        with suppress(OSError):  # it has ended meanwhile
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            if "-m" in words and words[words.index("-m") + 1] == module:
                runs.append(int(entry.name))

    def below(process: int) -> bool:
        parent = parents.get(process, 0)
        return parent == pid or (parent > 1 and below(parent))

    return sorted(filter(below, runs))


def training_below(pid: int) -> list[int]:
    """The processes below ``pid`` that train."""
    return processes_below(pid, "models.training.child")


@contextmanager
def ending_within(seconds: float, *pids: int) -> Iterator[None]:
    """The processes are gone within so many seconds after the block; whoever reuses their numbers does not count."""
    handles = [os.pidfd_open(pid) for pid in pids]
    try:
        yield
        for pid, handle in zip(pids, handles, strict=True):
            assert select.select([handle], [], [], seconds)[0], f"process {pid} lives on"
    finally:
        for handle in handles:
            os.close(handle)


def best_of(workspace: Path) -> Path:
    """The one checkpoint that was reached."""
    (best,) = workspace.glob("store/train-*/best.pt")
    return best
