"""Train: fine-tune in a child process that may die and goes on where it was."""

from __future__ import annotations

import logging
from pathlib import Path

import orjson

from models.training.folder import TrainSummary
from models.training.journal import Line
from models.training.launch import run_training
from models.training.options import DetectionData, TrainOptions
from models.training.progress import TrainingDisplay, shown_metrics
from models.weights.freeze import choose_strategy
from models.weights.plan import LoadPlan
from tasks.convert import Images
from tasks.stage import HEARD_BY, as_text, product
from tasks.store import FileRef, Product

log = logging.getLogger("annotune")


@product("models.training.child", resume=True)
def train(folder: Path, init: FileRef, train: FileRef, val: FileRef, images: Images, options: TrainOptions) -> None:
    """Fine-tune ``init``: ``best.pt``, ``last.pt``, ``metrics.jsonl`` and what the run was made of.

    A folder left by a killed run is taken up again from its last checkpoint.

    Raises:
        TrainingError: the run cannot go on (a loss that is not finite, too many unreadable images).
        TrainingCrash: the child died (killed, out of memory, a CUDA fault); calling again resumes.
    """
    learn, choose = DetectionData(train.path, images.root), DetectionData(val.path, images.root)
    if options.machines > 1:
        log.info("waiting for machines to join, %d in all: `annotune join WORKSPACE` there", options.machines)
    heard_by = HEARD_BY.get()
    with TrainingDisplay() as show:

        def tell(line: Line) -> None:
            show(line)
            heard_by(folder, line)

        summary = run_training(init.path, learn, choose, options, folder, on_line=tell)
    (folder / "summary.md").write_text(train_text(summary))


def choose_freeze(options: TrainOptions, adapted: Product, checked: Product) -> TrainOptions:
    """Put a rule in the place of ``freeze: auto``, by the size of the data and what the checkpoint knows of it.

    The rule and its reason go to the `annotune` logger.
    """
    if options.freeze != "auto":
        return options
    train = orjson.loads((checked.path / "train.json").read_bytes())
    plan = (
        LoadPlan.from_json(orjson.loads((adapted.path / "plan.json").read_bytes()))
        if adapted.has("plan.json")
        else None
    )
    known = plan.classes.checkpoint is not None if plan else False
    strategy = choose_strategy(
        images=len(train["images"]),
        classes=len(train["categories"]),
        shared=len(plan.classes.shared) if plan and known else None,
        backbone_coverage=plan.coverage.backbone if plan else 0.0,
    )
    log.info("strategy %s: freeze %s, because %s", strategy.name, strategy.freeze, strategy.reason)
    return options.model_copy(update={"freeze": strategy.freeze})


def train_text(summary: TrainSummary) -> str:
    """What was reached in a line, and what a reader should know."""
    reached = ", ".join(f"{name} {value:.3f}" for name, value in shown_metrics(summary.metrics).items())
    first = (
        f"{summary.steps:,} steps, {summary.epochs:.1f} epochs; best at step {summary.best_step:,}: {reached or '-'}"
    )
    notes = [*summary.notes, *(f"not readable: {name}" for name in summary.unreadable)]
    return "\n".join([first, "", *(f"- {as_text(note)}" for note in notes)]) + "\n"
