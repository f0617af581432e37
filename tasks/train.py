"""Train: fine-tune in a child process that may die and goes on where it was."""

from __future__ import annotations

import logging
from pathlib import Path

from models.training.data import DetectionData
from models.training.launch import run_training
from models.training.options import TrainOptions
from tasks.convert import Images
from tasks.stage import product
from tasks.store import FileRef

log = logging.getLogger(__name__)


@product("models.training.child", resume=True)
def train(folder: Path, init: FileRef, train: FileRef, val: FileRef, images: Images, options: TrainOptions) -> None:
    """Fine-tune ``init``: ``best.pt``, ``last.pt``, ``metrics.jsonl`` and what the run was made of.

    A folder left by a killed run is taken up again from its last checkpoint.

    Raises:
        TrainingError: the run cannot go on (a loss that is not finite, too many unreadable images).
        TrainingCrash: the child died (killed, out of memory, a CUDA fault); calling again resumes.
    """
    summary = run_training(
        init.path, DetectionData(train.path, images.root), DetectionData(val.path, images.root), options, folder
    )
    (folder / "summary.md").write_text(summary.text() + "\n")
