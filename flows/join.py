"""One machine more for the runs of others: it takes a place in each run of a workspace that wants machines."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from models.errors import TrainingCrash, TrainingError, TrainingStopped
from models.training.launch import run_place
from models.training.machines import take_place

log = logging.getLogger("annotune")


def join_runs(workspace: Path, *, once: bool = False, pause: float = 2.0) -> None:
    """Train along wherever ``train.machines`` asks for more than one machine, until stopped.

    Args:
        workspace: that of the runs, under the same path as on the machine that leads.
        once: return after one run, and raise what it ended with.
        pause: seconds between looks.

    Raises:
        TrainingCrash, TrainingStopped, TrainingError: how the run ended, with ``once``; else it is logged.
    """
    log.info("waiting for runs in %s that want more machines", workspace)
    while True:
        for job in sorted(workspace.glob("store/.train-*.part/machines/job.json")):
            if (place := take_place(job)) is None:
                continue
            log.info("joined %s as machine %d of %d", job.parents[1].name, place.number + 1, place.machines)
            try:
                run_place(place, job)
                log.info("the run is done")
            except (TrainingCrash, TrainingStopped, TrainingError) as error:
                if once:
                    raise
                log.warning("the run ended: %s", error)
            if once:
                return
        time.sleep(pause)
