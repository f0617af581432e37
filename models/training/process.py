"""This process among those of the run: its rank, its device, and what it is told by signals."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import Store  # type: ignore[attr-defined]  # it is there, and documented
from torch.distributed.rendezvous import rendezvous

from models.training.options import TrainOptions

STOP = "annotune/stop"


@dataclass(frozen=True)
class Process:
    """One of ``world`` processes; the one of rank 0 writes."""

    rank: int
    world: int
    device: torch.device
    store: Store | None = None  # where there are several: what they tell each other between collective calls

    @property
    def main(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    @property
    def leaves_alone(self) -> bool:
        """Whether it may leave in the middle of a step: nobody is left waiting, or gloo tells them; NCCL does not."""
        return self.world == 1 or self.device.type == "cpu"

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process; all must ask."""
        if self.world == 1:
            return flag
        shared = torch.tensor([flag], dtype=torch.int32, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return bool(shared.item())

    def stopping(self, asked: bool) -> bool:
        """Whether any process is asked to stop, as far as is known by now: waits for none of them."""
        if self.store is None:
            return asked
        if asked:
            self.store.set(STOP, "1")
        return asked or self.store.check([STOP])

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, by rank; all must ask."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def agree(self, model: nn.Module) -> None:
        """Give every process the buffers of the first, which writes them; each one's batch norms saw other images."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def join_processes(options: TrainOptions) -> Iterator[Process]:
    """Take this process's place: alone when called in-process, one of many under ``torch.distributed.run``."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    gpu = options.devices != 0 and torch.cuda.is_available()
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads or before)
    store = None
    if world > 1:
        store, rank, world = next(rendezvous("env://"))
        dist.init_process_group("nccl" if gpu else "gloo", store=store, rank=rank, world_size=world)
    try:
        yield Process(rank, world, device, store)
    finally:
        torch.set_num_threads(before)
        if world > 1:
            dist.destroy_process_group()


class Interrupted(BaseException):
    """SIGTERM came where nothing is lost by leaving. Not an Exception: no one on the way may take it for one."""


class StopSignal:
    """Whether this process was asked to stop: SIGTERM, or ``stop`` from another thread."""

    def __init__(self) -> None:
        self.asked = False
        self.heard_at_once = False

    def stop(self) -> None:
        """Ask the loop to checkpoint and end."""
        self.asked = True

    @contextmanager
    def at_once(self, possible: bool = True) -> Iterator[None]:
        """SIGTERM ends what is inside by raising Interrupted; it must change nothing that cannot be put back.

        Between the operators of a forward pass the handler does that. In a backward pass, which runs without Python,
        :meth:`listen_to` gives it the occasions.
        """
        self.heard_at_once = possible
        try:
            self.interrupt()
            yield
        finally:
            self.heard_at_once = False

    def interrupt(self) -> None:
        """Leave what may be left at once, if a stop was asked for.

        Raises:
            Interrupted: inside of :meth:`at_once`.
        """
        if self.asked and self.heard_at_once:
            raise Interrupted

    def listen_to(self, model: nn.Module) -> None:
        """Hear a signal during backward passes too: whenever the gradient of one of the parameters is done."""
        for parameter in model.parameters():
            learns = parameter.requires_grad
            parameter.requires_grad_(True)  # only then it takes a hook; what is held as built may learn later
            hear: Any = parameter.register_post_accumulate_grad_hook
            hear(lambda _: self.interrupt())
            parameter.requires_grad_(learns)


@contextmanager
def stop_on_sigterm(stop: StopSignal) -> Iterator[StopSignal]:
    """SIGTERM asks the loop to stop instead of ending the process; in the main thread only, as signals are."""
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        again, stop.asked = stop.asked, True
        if not again:  # a second one finds the first on its way out
            stop.interrupt()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def die_with(parent: int) -> None:
    """Be killed when the parent dies (Linux): nobody else would end this process then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def begin_loading(worker: int) -> None:
    """Begin a loading process (``worker_init_fn``): it ends with its parent, not by a SIGTERM to all of a job.

    Such a one, where it ended the loading processes, would fail the training process, which is to checkpoint. A second
    one ends them.
    """

    def spare(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))

    die_with(os.getppid())
    signal.signal(signal.SIGTERM, spare)
