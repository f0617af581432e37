"""A run that several machines share: one leads and writes, the others join it through a folder that all of them see."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from models.training.options import TrainOptions

MEETING = "machines"  # folder in that of the run, while several machines train it


@dataclass(frozen=True)
class Place:
    """One machine's place in a run, as ``torch.distributed.run`` is told it; number 0 leads."""

    processes: int
    machines: int = 1
    number: int = 0
    host: str = "localhost"
    port: int = 0

    def launcher(self) -> list[str]:
        """The command that starts this machine's processes, without what they run."""
        start = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={self.processes}"]
        if self.machines == 1:
            return [*start, "--standalone"]
        # Static places: rank 0, which writes and tells, must be the leader's.
        where = [f"--master-addr={self.host}", f"--master-port={self.port}"]
        return [*start, f"--nnodes={self.machines}", f"--node-rank={self.number}", *where]


def leader(options: TrainOptions, processes: int) -> Place:
    """The first place of a run; its port is free now."""
    if options.machines == 1:
        return Place(processes)
    with socket.socket() as listener:
        listener.bind(("", 0))
        port = listener.getsockname()[1]
    return Place(processes, options.machines, 0, options.address or socket.gethostname(), port)


@contextmanager
def meeting_folder(run: Path) -> Iterator[str]:
    """An empty folder in that of the run, where the others find the job; gone afterwards."""
    folder = run / MEETING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def take_place(job: Path) -> Place | None:
    """Take a place that is still free in a run that wants more machines; None where there is none.

    Args:
        job: ``machines/job.json`` in the folder of the run. Of two who want one place, one gets it.
    """
    with suppress(FileNotFoundError):  # the run has ended meanwhile
        first = Place(**orjson.loads(job.read_bytes())["place"])
        for number in range(1, first.machines):
            with suppress(FileExistsError):
                job.with_name(f"place-{number}").touch(exist_ok=False)
                return replace(first, number=number)
    return None
