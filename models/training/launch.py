"""Training in a process of its own: a fault of the GPU or the OOM killer ends that process, not the flow."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import torch

from models.errors import OutOfMemory, TrainingCrash, TrainingStopped
from models.files import write_json
from models.training.child import GRACE, USER_ERRORS
from models.training.folder import TrainSummary, claim, read_summary, run_inputs
from models.training.journal import Line
from models.training.machines import Place, leader, meeting_folder
from models.training.options import DetectionData, TrainOptions

ENVIRONMENT = {
    # Else the folder that a person happens to be in comes before our packages, and a models.py of their own is found.
    "PYTHONSAFEPATH": "1",
    # Threads that wait by spinning starve each other on a shared machine: a step took 2 to 6 times as long.
    "OMP_WAIT_POLICY": "PASSIVE",
    # glibc gives every block of more than 32 MB back to the system, to have its pages cleared and mapped anew in the
    # next step: 8 % of the time of a step of Faster R-CNN on a CPU. Kept, the peak is 3 % higher.
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}


def run_training(
    init: Path,
    train: DetectionData,
    val: DetectionData | None,
    options: TrainOptions,
    folder: Path,
    *,
    on_line: Callable[[Line], None] | None = None,
) -> TrainSummary:
    """Do what :func:`models.training.finetune` does, in child processes through ``torch.distributed.run``.

    Args:
        init: complete checkpoint of ours to start from.
        train: images to learn from.
        val: images to choose the best checkpoint by, or None.
        options: see :class:`TrainOptions`; ``devices`` says how many processes.
        folder: of the run; an unfinished run of the same inputs in it is continued.
        on_line: gets every line of ``metrics.jsonl`` as it is written.

    Raises:
        TrainingCrash: the processes died (signal, out of memory, a fault); calling again continues the run.
        TrainingStopped: they were told to stop from outside; likewise.
        TrainingError: a loss that is not finite, too many unreadable images.
        ValueError: data, options or folder that do not fit.
    """
    if (finished := _finished(init, train, val, options, folder)) is not None:
        return finished
    job = _job(init, train, val, options, folder)
    while True:
        try:
            _attempt(job, options, folder, on_line or (lambda line: None))
            break
        except OutOfMemory:  # of one among several processes; each time with half the images, so this ends
            continue
    summary = read_summary(folder)
    if summary is None:
        raise TrainingCrash(f"the training process ended without a summary in {folder}")
    return summary


def _attempt(job: dict[str, Any], options: TrainOptions, folder: Path, on_line: Callable[[Line], None]) -> None:
    """Train in processes of their own until they end; raises what they ended with."""
    place = leader(options, process_count(options))
    alone = options.machines == 1
    with tempfile.TemporaryDirectory(prefix="annotune-") if alone else meeting_folder(folder) as scratch:
        path = Path(scratch) / "job.json"
        write_json(path, {**job, "place": asdict(place)})
        run_place(place, path, on_line)


def run_place(place: Place, job: Path, on_line: Callable[[Line], None] = lambda line: None) -> None:
    """Run one machine's processes of a job to their end.

    Args:
        place: the machine's, from :func:`models.training.machines.take_place` where it does not lead.
        job: the file that tells the processes what to do.
        on_line: gets every line of ``metrics.jsonl``, on the machine that leads.

    Raises:
        TrainingCrash, TrainingStopped, TrainingError, ValueError: as :func:`run_training`.
    """
    options = TrainOptions.model_validate(orjson.loads(job.read_bytes())["options"])
    threads = options.threads or max(1, len(os.sched_getaffinity(0)) // place.processes)
    # The launcher's own logs go where the job goes; elsewhere it would leave a folder behind for every run.
    command = [*place.launcher(), f"--log-dir={job.parent}", "-m", "models.training.child", str(job)]
    code, said = _run(command, threads, on_line)
    if code:
        raise _failure(code, said, job.parent)


def process_count(options: TrainOptions) -> int:
    """How many processes train on this machine: one per GPU, or as many as ``devices`` says.

    Raises:
        ValueError: more devices than there are GPUs, where there are some.
    """
    gpus = torch.cuda.device_count()
    if options.devices is None:
        return max(1, gpus)
    if gpus and options.devices > gpus:
        raise ValueError(f"devices: {options.devices}, but this machine has {gpus} GPUs. Leave it out to use them all")
    return max(1, options.devices)


def _finished(
    init: Path, train: DetectionData, val: DetectionData | None, options: TrainOptions, folder: Path
) -> TrainSummary | None:
    """The summary of this very run, if it is finished: no process needs to start."""
    if (summary := read_summary(folder)) is None:
        return None
    claim(folder, run_inputs(init, train, val, options, process_count(options) * options.machines), options)
    return summary


def _job(
    init: Path, train: DetectionData, val: DetectionData | None, options: TrainOptions, folder: Path
) -> dict[str, Any]:
    def both(data: DetectionData) -> list[str]:
        return [str(data.coco.absolute()), str(data.images.absolute())]

    return {
        "init": str(init.absolute()),
        "train": both(train),
        "val": both(val) if val else None,
        "options": options.model_dump(mode="json"),
        "folder": str(folder.absolute()),
    }


def _run(command: list[str], threads: int, on_line: Callable[[Line], None]) -> tuple[int, list[str]]:
    """Run to the end, passing on the metrics; exit status, and the last of what else was said.

    The child's stdin stays open as long as this process lives, which is how the child knows.
    """
    said: deque[str] = deque(maxlen=60)
    environ = {"OMP_NUM_THREADS": str(threads), **ENVIRONMENT, **os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for raw in process.stdout:
                if raw.startswith(b'{"event":'):
                    on_line(orjson.loads(raw))
                else:
                    said.append(raw.decode(errors="replace").rstrip())
            return process.wait(), list(said)
        except BaseException:  # Ctrl-C or a cancelled flow among them: nothing may go on alone
            _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, time to checkpoint, SIGKILL."""
    with suppress(ProcessLookupError):
        process.terminate()
        try:
            process.wait(GRACE + 2)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _failure(code: int, said: list[str], scratch: Path) -> Exception:
    """The error that the processes ended with: a user's error as itself, everything else as a crash."""
    paths = sorted(scratch.glob("outcome-*.json"), reverse=True)
    outcomes = {outcome["kind"]: outcome for outcome in (orjson.loads(path.read_bytes()) for path in paths)}
    # When one process leaves, the others fail, or are told to stop: the most particular error is the cause.
    for kind in USER_ERRORS:
        if kind is not TrainingStopped and kind.__name__ in outcomes:
            return kind(outcomes[kind.__name__]["message"])
    if crash := outcomes.get("crash"):
        return TrainingCrash(f"the training process failed: {crash['message']}\n{crash['traceback']}")
    text = "\n".join(said)
    if signals := re.findall(r"exitcode\s*:\s*-(\d+)", text):
        name = signal.Signals(int(signals[0])).name
        hint = ". Perhaps memory ran out: lower batch_size or workers" if name == "SIGKILL" else ""
        return TrainingCrash(f"the training process was ended by {name}{hint}")
    if stopped := outcomes.get(TrainingStopped.__name__):
        return TrainingStopped(stopped["message"])
    return TrainingCrash(f"the training process ended with status {code}:\n{text}")
