"""The training process: one rank, started by :func:`models.training.launch.run_training` through torch.distributed.run.

It tells its parent what happens as JSON lines on stdout, and how it ended in a file. When the parent dies, stdin ends:
then it checkpoints and leaves, as on SIGTERM.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import orjson

from models.errors import DetectorError, OutOfMemory, TrainingError, TrainingStopped, WeightsError
from models.files import write_json
from models.training.journal import Line
from models.training.loop import finetune
from models.training.options import DetectionData, TrainOptions
from models.training.process import StopSignal, die_with, stop_on_sigterm

GRACE = 10.0  # seconds to checkpoint in, once the parent is gone
# What a person can mend comes through as what it is; the nearest of these, most particular first.
USER_ERRORS: tuple[type[Exception], ...] = (
    OutOfMemory,
    WeightsError,
    DetectorError,
    TrainingStopped,
    TrainingError,
    ValueError,
    OSError,
)


def main(path: Path, stop: StopSignal) -> int:
    """Run the job that the file describes; the exit status is 0 when it is done."""
    faulthandler.enable()
    job = orjson.loads(path.read_bytes())
    die_with(os.getppid())  # the launcher between us and the parent
    threading.Thread(target=_watch_stdin, daemon=True).start()
    try:
        finetune(
            Path(job["init"]),
            DetectionData(*map(Path, job["train"])),
            DetectionData(*map(Path, job["val"])) if job["val"] else None,
            TrainOptions.model_validate(job["options"]),
            Path(job["folder"]),
            echo=_tell,
            stop=stop,
        )
    except Exception as error:
        kind = next((known.__name__ for known in USER_ERRORS if isinstance(error, known)), "crash")
        outcome = {"kind": kind, "message": str(error), "traceback": traceback.format_exc()}
        write_json(path.with_name(f"outcome-{os.environ.get('RANK', '0')}.json"), outcome)
        return 1
    return 0


def _tell(line: Line) -> None:
    """One JSON line to the parent; where it is gone, the folder has it all."""
    try:
        sys.stdout.buffer.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        pass


def _watch_stdin() -> None:
    """Ask for a stop when the parent closes stdin by dying, and leave in any case soon after."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


if __name__ == "__main__":
    with stop_on_sigterm(StopSignal()) as asked:  # on the way out too: the launcher sends it to those that still run
        if code := main(Path(sys.argv[1]), asked):
            os._exit(code)  # to take the interpreter and its gigabytes apart took up to 5 seconds on a busy machine
