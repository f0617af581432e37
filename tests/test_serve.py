"""`annotune serve` as a person runs it: it starts everything, says why it cannot, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from helpers_flow import tiny_recipe, tiny_scenes
from helpers_kill import TRAIN, begin_run, free_port, wait_for_steps, wait_until

from flows.config import load_config
from flows.serve import DEPLOYMENTS

ROOT = Path(__file__).parents[1]


def serve(home: Path, port: int, *options: str) -> subprocess.Popen[str]:
    """The command, from an empty folder."""
    folder, environment = home.parent / "empty", {**os.environ, "PYTHONPATH": str(ROOT)}
    folder.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-c",
        "from flows.cli import main; main()",
        "serve",
        "--home",
        str(home),
        "--port",
        str(port),
        *options,
    ]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def processes_with(home: Path) -> list[str]:
    """Command lines of the processes whose environment names this folder as Prefect's home."""
    mark, found = f"PREFECT_HOME={home}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_a_port_that_is_taken_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with serve(tmp_path / "home", port) as process:
            said, _ = process.communicate(timeout=120)

    assert process.returncode == 1
    assert f"port {port} of this machine is taken" in said
    assert "--port" in said
    assert not (tmp_path / "home").exists()


def test_deployments_that_are_not_there_are_said(tmp_path: Path) -> None:
    with serve(tmp_path / "home", free_port(), "--prefect-file", str(tmp_path / "none.yaml")) as process:
        said, _ = process.communicate(timeout=120)

    assert process.returncode == 1
    assert "none.yaml: no deployments there. Give the file with --prefect-file" in said.replace("\n", " ")


def test_a_file_of_the_working_directory_is_not_deployed_unasked(tmp_path: Path) -> None:
    foreign = tmp_path / "empty/deployments/prefect.yaml"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("deployments: []\n")
    with socket.socket() as other:  # it says what it would deploy, and ends
        other.bind(("127.0.0.1", 0))
        other.listen()
        with serve(tmp_path / "home", other.getsockname()[1]) as process:
            said, _ = process.communicate(timeout=120)

    assert f"with the deployments of {DEPLOYMENTS}" in said


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM, a run under way"])
def test_it_stops_with_all_that_it_started(tmp_path: Path, stop: signal.Signals) -> None:
    home, port = tmp_path / "home", free_port()
    with serve(home, port) as process:
        assert process.stdout
        assert any(line.startswith("export PREFECT_API_URL=") for line in process.stdout)
        if stop == signal.SIGTERM:
            recipe = tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data"), train={**TRAIN, "epochs": 10_000})
            begin_run(f"http://127.0.0.1:{port}/api", load_config(recipe)[0])
            wait_for_steps(tmp_path / "workspace", process)
            assert any("models.training.child" in command for command in processes_with(home))
        process.send_signal(stop)
        said, _ = process.communicate(timeout=120)

    assert (process.returncode, said.splitlines()[-1]) == (0, "stopped")
    wait_until(lambda: not processes_with(home), 15)


@pytest.mark.slow
def test_it_ends_with_what_the_server_said_when_that_dies(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serve(home, free_port()) as process:
        assert process.stdout
        assert any(line.startswith("export PREFECT_API_URL=") for line in process.stdout)
        (server,) = [
            int(entry.name)
            for entry in Path("/proc").glob("[0-9]*")
            if b"prefect\0server\0start" in (entry / "cmdline").read_bytes()
            and f"PREFECT_HOME={home}".encode() in (entry / "environ").read_bytes()
        ]
        os.kill(server, signal.SIGKILL)
        said, _ = process.communicate(timeout=120)

    assert process.returncode == 1
    assert "the server has ended, with status -9" in said
    wait_until(lambda: not processes_with(home), 15)
