"""A Prefect server, a work pool, a worker and our deployments on one machine, started and stopped as one.

Everything is Prefect's own command line; what is here is the order, and that nothing outlives its starter.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import yaml

DEPLOYMENTS = Path(__file__).with_name("prefect.yaml")
"""Those that come with Annotune, with ``automations.yaml`` beside them."""
POOL = "local"
QUEUES = {"gpu": 1, "cpu": 2}  # runs at once; the first is the number of GPUs
GRACE = 20  # seconds for a process to end after SIGTERM


class ServeError(RuntimeError):
    """Prefect's command line failed; the message holds what it said."""


@dataclass(frozen=True)
class Serving:
    """What runs: the URL of the server's API, and the processes by name."""

    api: str
    processes: Mapping[str, subprocess.Popen[bytes]]
    logs: Path  # a folder

    def wait(self) -> None:
        """Block as long as all of them run.

        Raises:
            ServeError: one has ended; with its status and what it said last.
        """
        while all(process.poll() is None for process in self.processes.values()):
            time.sleep(1)
        name, process = next((name, process) for name, process in self.processes.items() if process.poll() is not None)
        said = (self.logs / f"{name}.log").read_text(errors="replace")[-2000:]
        raise ServeError(f"the {name} has ended, with status {process.returncode}:\n{said}")


@contextmanager
def serving(home: Path, prefect_file: Path, port: int = 4200, queues: Mapping[str, int] = QUEUES) -> Iterator[Serving]:
    """Run server and worker with everything deployed until the block ends.

    Args:
        home: folder for Prefect's database, results and the logs of server and worker; made if absent.
        prefect_file: the deployments.
        port: of the server, on loopback.
        queues: work queues and how many runs each lets run at once.

    Raises:
        ServeError: the port is taken, a command failed, or the server does not start; with what it said.
        FileNotFoundError: no such deployments.
    """
    if not prefect_file.is_file():
        raise FileNotFoundError(
            errno.ENOENT, "no deployments there. Give the file with --prefect-file", str(prefect_file)
        )
    environ = environment(home, f"http://127.0.0.1:{port}/api")
    with server(environ) as serves:
        prepare(prefect_file, environ, queues)
        with worker(environ) as works:
            yield Serving(environ["PREFECT_API_URL"], {"server": serves, "worker": works}, home)


@contextmanager
def server(environ: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server that ``environ`` names, on the database in its home, until the block ends.

    Raises:
        ServeError: the port is taken, or the server does not answer; with what it said.
    """
    api, home = environ["PREFECT_API_URL"], Path(environ["PREFECT_HOME"])
    port = urlsplit(api).port or 0
    _refuse_taken(port)
    home.mkdir(parents=True, exist_ok=True)
    command = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with _process(command, environ, home / "server.log") as process:
        _wait_for(api, process, home / "server.log")
        yield process


def _refuse_taken(port: int) -> None:
    """Whoever answers there would be taken for our server."""
    with socket.socket() as it:
        it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just ended does not count
        try:
            it.bind(("127.0.0.1", port))
        except OSError as error:
            remedy = "Another Prefect server, perhaps: stop it, or take another port with --port"
            raise ServeError(f"port {port} of this machine is taken. {remedy}") from error


@contextmanager
def worker(environ: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of our pool until the block ends."""
    log = Path(environ["PREFECT_HOME"]) / "worker.log"
    with _process(["worker", "start", "--pool", POOL, "--type", "process"], environ, log) as process:
        yield process


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
    """Make the pool, its queues and the automations unless they are there, and deploy everything.

    Args:
        prefect_file: the deployments; the automations are ``automations.yaml`` beside it, if there are any.
        environ: names the server in ``PREFECT_API_URL``.
        queues: work queues and how many runs each lets run at once.

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
    _automate(prefect_file.with_name("automations.yaml"), api)


def _automate(file: Path, api: str) -> None:
    """Make the automations whose names are not there yet; somebody may have changed or switched off those that are."""
    wanted = yaml.safe_load(file.read_text())["automations"] if file.exists() else []
    there = {row["name"] for row in httpx.post(f"{api}/automations/filter", json={}).raise_for_status().json()}
    for automation in wanted:
        if automation["name"] not in there:
            answer = httpx.post(f"{api}/automations/", json=automation)
            if answer.is_error:
                raise ServeError(f"{file}: {automation['name']}: the server refused it:\n{answer.text}")


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
