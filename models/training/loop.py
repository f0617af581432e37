"""The training run: one visible loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NoReturn, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.errors import TrainingError, TrainingStopped
from models.training.compiling import compilation_failed, reason
from models.training.dataset import Batch
from models.training.detect import detect
from models.training.evaluation import quick_scores
from models.training.folder import BEST, LAST, TrainSummary, claim, read_summary, run_inputs, write_summary
from models.training.journal import Journal, Line
from models.training.optimizer import rate_at, set_rate
from models.training.options import DetectionData, TrainOptions
from models.training.precision import trusted
from models.training.process import Interrupted, StopSignal, join_processes, stop_on_sigterm
from models.training.randomness import seed_everything
from models.training.run import (
    Clock,
    Run,
    checkpoint,
    halve_micro_batch,
    least_images,
    prepare,
    resume,
    say_uncompiled,
    unfreeze,
    write_best,
)
from models.training.scores import Result
from models.training.trackers import trackers

CHECKPOINT_SECONDS = 300  # at most, of work that a crash can undo; and a step more
SLOWER = 0.1  # of the learning rate, after a loss that was not finite


def finetune(
    init: Path,
    train: DetectionData,
    val: DetectionData | None,
    options: TrainOptions,
    folder: Path,
    *,
    echo: Callable[[Line], None] | None = None,
    stop: StopSignal | None = None,
) -> TrainSummary:
    """Train from ``init``; continue by itself where ``folder`` holds an unfinished run of the same inputs.

    Args:
        init: complete checkpoint of ours to start from.
        train: images to learn from.
        val: images to choose the best checkpoint by; None: the last is the best.
        options: see :class:`TrainOptions`.
        folder: of the run: checkpoints, ``metrics.jsonl``, ``config.json``, ``summary.json``.
        echo: gets every line of ``metrics.jsonl`` as it is written.
        stop: to end the run from another thread; SIGTERM does the same in the main thread.

    Raises:
        TrainingStopped: it was asked to stop; a checkpoint to continue from is written.
        TrainingError: a loss that is not finite, too many unreadable images.
        ValueError: data, options or folder that do not fit.
    """
    with join_processes(options) as process, stop_on_sigterm(stop or StopSignal()) as asked:
        inputs = run_inputs(init, train, val, options, process.world)
        if process.main:
            claim(folder, inputs, options)
        if (finished := read_summary(folder)) is not None:
            return finished
        journal = Journal(folder / "metrics.jsonl" if process.main else None, echo)
        with trackers(options.track if process.main else (), folder, inputs, journal.tell) as track:
            journal.listeners.append(track)
            try:
                return take_steps(prepare(init, train, val, options, folder, process, journal, asked))
            finally:
                (folder / f".decoded-{process.rank}").unlink(missing_ok=True)  # what cache_mb kept


def take_steps(run: Run) -> TrainSummary:
    """The loop: from where the run stands to its end."""
    options, process = run.options, run.process
    batches = run.batches()
    while True:
        if run.evaluation_due():
            evaluate_now(run)
        if run.step == run.plan.steps or run.patience_spent():
            return finish(run)
        with undone_if_stopped(run):
            if process.any(run.stop.asked):
                raise Interrupted
            if run.unfreezing_due():
                unfreeze(run)
            batch = run.next_of(batches)
            seed_everything(options.seed, "step", run.step, process.rank)
            rate = run.plan.rate * run.rate_factor * rate_at(run.step, run.plan, options)
            set_rate(run.optimizer, rate)
            losses = forward_backward(run, batch)
            norm = clip(run)
            spoiled = process.any(not all(map(math.isfinite, [*losses.values(), norm])))
        if spoiled:
            give_up_or_go_back(run, losses, norm, batch)
            batches = run.batches()
            continue
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.step += 1
        if run.average is not None:
            run.average.update(run.model, run.step)
        run.log_step(losses, rate, len(batch))
        if checkpoint_due(run):
            checkpoint(run)


@contextmanager
def undone_if_stopped(run: Run) -> Iterator[None]:
    """What a step does before it changes the weights: a stop leaves the run as if the step had not begun.

    Of all that a checkpoint holds, only the statistics of live norms change in there. Of many processes each leaves by
    itself, without waiting for the others, whose next collective call fails.

    Raises:
        TrainingStopped: this process was asked to stop, or another one that has left.
    """
    before = [(buffer, buffer.clone()) for buffer in run.model.buffers()] if interruptible(run) else []
    try:
        yield
    except (Interrupted, RuntimeError) as error:
        told = run.process.stopping(run.stop.asked)
        if not told and not isinstance(error, Interrupted):
            raise
        for buffer, value in before:
            buffer.copy_(value)
        stopped(run)


def interruptible(run: Run) -> bool:
    """Whether a stop ends a step; on a GPU steps are short, and the copies above would take a part of them."""
    return run.process.device.type == "cpu"


def checkpoint_due(run: Run) -> bool:
    """Every so many steps, and where they take long every so many minutes; an evaluation writes its own."""
    late = run.process.any(time.monotonic() - run.saved > CHECKPOINT_SECONDS)
    return (late or run.step % run.options.checkpoint_every_steps == 0) and not run.evaluation_due()


def forward_backward(run: Run, batch: Batch) -> dict[str, float]:
    """Add up the gradients of the step, ``micro_batch`` images at a time; the losses are means over the images."""
    while True:
        try:
            with run.stop.at_once(interruptible(run)):
                return _forward_backward(run, batch)
        except (torch.OutOfMemoryError, MemoryError) as error:
            if run.options.on_out_of_memory == "fail" or run.micro_batch <= least_images(run):
                raise
            out_of_memory, problem = True, str(error).partition("\n")[0] or "out of memory"
        except RuntimeError as error:
            if not compilation_failed(run.model, error):
                raise
            out_of_memory, problem = False, reason(error)
        # outside of the handler: the traceback in it holds the tensors of the failed attempt
        if out_of_memory:
            halve_micro_batch(run, problem)
        else:
            say_uncompiled(run, problem)
        seed_everything(run.options.seed, "step", run.step, run.process.rank)


def forward_passes(images: int, most: int, least: int) -> list[tuple[int, int]]:
    """Cut a step's images into forward passes, (start, stop) each.

    A rest of fewer than ``least`` joins the pass before it, which then has more than ``most``.
    """
    starts = list(range(0, images, most))
    if len(starts) > 1 and images - starts[-1] < least:
        del starts[-1]
    return list(zip(starts, [*starts[1:], images], strict=True))


def _forward_backward(run: Run, batch: Batch) -> dict[str, float]:
    device = run.process.device
    sums: dict[str, Tensor] = {}
    parts = forward_passes(len(batch), run.micro_batch, least_images(run))
    for start, stop in parts:
        images, targets = batch.part(start, stop, device)
        half = run.half and trusted(images, run.assembled.detector)
        alone = run.process.world == 1 or stop == len(batch)
        with nullcontext() if alone else cast("DistributedDataParallel", run.forward).no_sync():
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                losses = run.forward(images, targets)
            share = len(images) / len(batch)
            total = torch.stack([loss * share for loss in losses.values()]).sum()
            total.backward()  # type: ignore[no-untyped-call]
        for name, loss in losses.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + loss.detach() * share
    values = torch.stack(list(sums.values())).tolist()  # one wait for the device
    return dict(zip(sums, values, strict=True))


def clip(run: Run) -> float:
    """Clip the gradient and return its L2 norm before that."""
    parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, run.options.largest_norm(run.assembled.detector))
    return float(norm)


def give_up_or_go_back(run: Run, losses: dict[str, float], norm: float, batch: Batch) -> None:
    """Where a step would have spoiled the weights: once, if the options say so, continue slower from the checkpoint.

    Raises:
        TrainingError: a loss or the gradient is not finite; names step, images and losses.
    """
    table = run.images.table
    parts = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    ids = ", ".join(f"{int(table.image_ids[index])} ({table.name(index)})" for index in batch.indices)
    problem = f"the loss is not finite at step {run.step}: {parts}; gradient norm {norm:g}; images {ids}"
    if run.options.on_nonfinite == "fail" or run.rate_factor < 1:
        raise TrainingError(
            f"{problem}. Lower learning_rate, lengthen warmup_steps, or look at the boxes of these images"
        )
    run.optimizer.zero_grad(set_to_none=True)
    resume(run)
    run.rate_factor = SLOWER
    run.notes = [*run.notes, f"{problem}: continued from step {run.step} at {SLOWER} of the learning rate"]
    checkpoint(run)
    run.journal.write("nonfinite", step=run.step, rate_factor=SLOWER, problem=problem)


def evaluate_now(run: Run) -> None:
    """Score the weights on the validation images, keep them if they are the best so far, and checkpoint."""
    assert run.validation is not None
    process, options = run.process, run.options
    own = range(process.rank, len(run.validation), process.world)  # each image in one process only
    results: list[Result] | None = None
    with weights_to_score(run), suppress(Interrupted):
        process.agree(run.model)
        with run.stop.at_once():
            results = detect(
                run.model, run.validation, process.device, indices=own, batch_size=options.batch_size,
                workers=options.workers, between=lambda: _leave_if_asked(run),
            )  # fmt: skip
    process.stopping(run.stop.asked)  # so that those who still evaluate hear of it
    if process.any(results is None):
        stopped(run)  # only now: the weights that are trained are back in the model
    assert results is not None
    together = [result for part in process.gather(results) for result in part]
    together.sort(key=lambda result: int(result["image_id"]))  # the order in which one process finds them
    scores = quick_scores(run.truth, together, run.assembled.detector) if process.main else {}
    take_scores(run, process.gather(scores)[0])
    checkpoint(run)
    run.clock = Clock()


def _leave_if_asked(run: Run) -> None:
    if run.process.stopping(run.stop.asked):
        raise Interrupted


@contextmanager
def weights_to_score(run: Run) -> Iterator[None]:
    """The averaged weights are in the model, where there are any, and afterwards those that are trained again."""
    trained = None
    if run.average is not None:
        trained = {key: value.clone() for key, value in run.model.state_dict().items()}
        run.model.load_state_dict(run.average.state)
    try:
        yield
    finally:
        if trained is not None:
            run.model.load_state_dict(trained)
        run.forward.train()


def take_scores(run: Run, scores: dict[str, float]) -> None:
    """Note an evaluation; write best.pt if it is the best."""
    value = scores[run.options.metric(run.assembled.detector)]
    run.evaluated = run.step
    better = value > run.best
    run.without_gain = 0 if better else run.without_gain + 1
    run.journal.write(
        "eval", step=run.step, epoch=run.step / run.plan.steps_per_epoch, metrics=scores, best=better,
        seconds=run.clock.seconds(),
    )  # fmt: skip
    if better:
        run.best, run.best_step, run.best_metrics = value, run.step, scores
        write_best(run)


def stopped(run: Run) -> NoReturn:
    """Checkpoint and leave the loop, waiting for no other process.

    Raises:
        TrainingStopped: always.
    """
    checkpoint(run, leaving=True)
    run.journal.write("stopped", step=run.step)
    raise TrainingStopped(f"stopped at step {run.step} of {run.plan.steps}; {run.folder} continues from there")


def finish(run: Run) -> TrainSummary:
    """Write the last files of the run."""
    if run.step < run.plan.steps:
        note = f"stopped early at step {run.step} of {run.plan.steps}: no gain in {run.without_gain} evaluations"
        run.notes = [*run.notes, note]
    if run.validation is None:
        run.best_step = run.step
        write_best(run)
    checkpoint(run)
    summary = TrainSummary(
        best=run.folder / BEST, last=run.folder / LAST, steps=run.step,
        epochs=round(run.step / run.plan.steps_per_epoch, 4), best_step=run.best_step, metrics=run.best_metrics,
        images=len(run.images), unreadable=tuple(run.images.table.name(index) for index in sorted(run.unreadable)),
        notes=tuple(run.notes),
    )  # fmt: skip
    if run.process.main:
        write_summary(run.folder, summary)
    run.journal.write("end", step=run.step, best_step=run.best_step, metrics=run.best_metrics, notes=run.notes)
    run.process.barrier()
    return summary
