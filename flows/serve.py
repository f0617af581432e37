"""A Prefect server, a work pool, a worker and our deployments on one machine, started and stopped as one.

Everything is Prefect's own command line; what is here is the order, and that nothing outlives its starter.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

POOL = "local"
QUEUES = {"gpu": 1, "cpu": 2}  # runs at once; the first is the number of GPUs
GRACE = 20  # seconds for a process to end after SIGTERM


class ServeError(RuntimeError):
    """Prefect's command line failed; the message holds what it said."""


@contextmanager
def serving(home: Path, prefect_file: Path, port: int = 4200, queues: Mapping[str, int] = QUEUES) -> Iterator[str]:
    """Run server and worker with everything deployed until the block ends.

    Args:
        home: folder for Prefect's database, results and the logs of server and worker; made if absent.
        prefect_file: the deployments.
        port: of the server, on loopback.
        queues: work queues and how many runs each lets run at once.

    Yields:
        The URL of the server's API.

    Raises:
        ServeError: a command failed, or the server does not start; with what it said.
    """
    home.mkdir(parents=True, exist_ok=True)
    api = f"http://127.0.0.1:{port}/api"
    environ = environment(home, api)
    with ExitStack() as running:
        server = running.enter_context(
            _process(["server", "start", "--host", "127.0.0.1", "--port", str(port)], environ, home / "server.log")
        )
        _wait_for(api, server, home / "server.log")
        prepare(prefect_file, environ, queues)
        running.enter_context(
            _process(["worker", "start", "--pool", POOL, "--type", "process"], environ, home / "worker.log")
        )
        yield api


def environment(home: Path, api: str) -> dict[str, str]:
    """The environment for Prefect's commands: our own home and server, nobody asked, nothing sent home."""
    ours = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_CLI_COLORS": "false",
    }
    polling = {"PREFECT_WORKER_QUERY_SECONDS": "2"}  # 10 by default, which feels slow by hand
    return {**polling, **os.environ, **ours}


def prepare(prefect_file: Path, environ: Mapping[str, str], queues: Mapping[str, int] = QUEUES) -> None:
    """Make the pool and its queues unless they are there, and deploy everything.

    Raises:
        ServeError: a command failed.
    """
    api = environ["PREFECT_API_URL"]
    if httpx.get(f"{api}/work_pools/{POOL}").is_error:
        prefect(["work-pool", "create", POOL, "--type", "process"], environ)
    for name, limit in queues.items():
        queue = {"name": name, "concurrency_limit": limit}
        if httpx.post(f"{api}/work_pools/{POOL}/queues", json=queue).is_error:  # it is there
            httpx.patch(f"{api}/work_pools/{POOL}/queues/{name}", json=queue).raise_for_status()
    prefect(["deploy", "--all", "--prefect-file", str(prefect_file)], environ)


def prefect(arguments: list[str], environ: Mapping[str, str], stdin: str = "") -> str:
    """Run one of Prefect's commands and return what it printed.

    Raises:
        ServeError: it failed; with its output.
    """
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(  # noqa: PLW1510 - the output says more than CalledProcessError
        command, env=dict(environ), input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise ServeError(f"prefect {' '.join(arguments)} failed:\n{done.stdout}")
    return done.stdout


@contextmanager
def _process(arguments: list[str], environ: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "prefect", *arguments]
    with (
        log.open("ab") as said,
        subprocess.Popen(
            command, env=dict(environ), stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, time to finish, then the whole group: a server's services are children of its own."""
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def _wait_for(api: str, server: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    for _ in range(int(seconds * 5)):
        try:
            if server.poll() is None and httpx.get(f"{api}/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        if server.poll() is not None:
            break
        time.sleep(0.2)
    raise ServeError(f"the server does not answer at {api}:\n{log.read_text(errors='replace')[-2000:]}")
