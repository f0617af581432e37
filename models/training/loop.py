"""The training run: one visible loop, and the state that makes it continue to the bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from models.checkpoint import CheckpointMeta, load_checkpoint, save_checkpoint
from models.errors import TrainingError, TrainingStopped
from models.training.assemble import Assembled, assemble
from models.training.coco import CocoTable, load_coco, read_coco
from models.training.dataset import Batch, Loaded, PlainImages, TrainingImages, collate
from models.training.detect import detect, loading_processes
from models.training.evaluation import has_outlines, quick_scores
from models.training.folder import (
    BEST,
    LAST,
    TrainSummary,
    claim,
    newest_checkpoint,
    read_summary,
    run_inputs,
    save_run,
    write_summary,
)
from models.training.journal import Journal, Line
from models.training.optimizer import Plan, WeightAverage, make_optimizer, make_plan, rate_at, set_rate
from models.training.options import DetectionData, TrainOptions
from models.training.process import Process, StopSignal, join_processes, stop_on_sigterm
from models.training.randomness import seed_everything
from models.training.sampling import StepSampler, aspect_groups
from models.training.scores import complete_truth
from models.training.transforms import Augment
from models.weights.freeze import apply_freeze


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
        run = prepare(init, train, val, options, folder, process, echo)
        batches = iter(run.loader())
        while True:
            if run.evaluation_due():
                evaluate_now(run, asked)
            if run.step == run.plan.steps or run.patience_spent():
                return finish(run)
            if process.any(asked.asked):
                stopped(run)
            waited = time.perf_counter()
            batch = next(batches)
            run.clock.waited += time.perf_counter() - waited
            run.count_unreadable(batch)
            seed_everything(options.seed, "step", run.step, process.rank)
            rate = run.plan.rate * run.rate_factor * rate_at(run.step, run.plan, options)
            set_rate(run.optimizer, rate)
            losses = forward_backward(run, batch)
            require_finite(run, losses, clip(run), batch)
            run.optimizer.step()
            run.optimizer.zero_grad(set_to_none=True)
            run.step += 1
            if run.average is not None:
                run.average.update(run.model, run.step)
            run.log_step(losses, rate, len(batch))
            if run.step % options.checkpoint_every_steps == 0 and not run.evaluation_due():
                checkpoint(run)


@dataclass
class Clock:
    """Time since the last log line, seconds, and what it was spent on."""

    since: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    images: int = 0


@dataclass
class Run:
    """Everything a run holds; what is not derived from its inputs goes into each checkpoint (:func:`progress`)."""

    options: TrainOptions
    plan: Plan
    process: Process
    folder: Path
    journal: Journal
    assembled: Assembled
    model: nn.Module  # bare, on the device
    forward: nn.Module  # the same, wrapped for many processes
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    images: TrainingImages
    validation: PlainImages | None
    truth: dict[str, Any]
    micro_batch: int
    step: int = 0
    evaluated: int = -1  # step of the last evaluation
    best: float = -2.0  # below every score, -1 (no truth) included
    best_step: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    without_gain: int = 0  # evaluations since the best
    rate_factor: float = 1.0
    unreadable: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def loader(self) -> DataLoader[Loaded]:
        """The steps that are still to come, from this one on."""
        options, device = self.options, self.process.device
        workers = loading_processes(options.workers, device)
        return DataLoader(
            self.images,
            batch_sampler=self.sampler(),
            collate_fn=collate,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator().manual_seed(options.seed),  # else the loader draws from the global one
        )

    def sampler(self) -> StepSampler:
        """This process's images for the steps still to come."""
        return StepSampler(
            aspect_groups(torch.from_numpy(self.images.table.sizes)),
            self.options.batch_size * self.options.accumulate,
            seed=self.options.seed,
            start=self.step,
            stop=self.plan.steps,
            rank=self.process.rank,
            world=self.process.world,
        )

    def evaluation_due(self) -> bool:
        """At the end of every ``eval_every`` epochs and of the run, once."""
        if self.validation is None or self.step in (0, self.evaluated):
            return False
        return self.step % (self.plan.steps_per_epoch * self.options.eval_every) == 0 or self.step == self.plan.steps

    def patience_spent(self) -> bool:
        """Whether the last ``patience`` evaluations brought nothing."""
        return 0 < self.options.patience <= self.without_gain

    def count_unreadable(self, batch: Batch) -> None:
        """Note images that could not be read.

        Raises:
            TrainingError: they are more than the options allow.
        """
        fresh = set(batch.unreadable) - self.unreadable
        if not fresh:
            return
        self.unreadable |= fresh
        names = [self.images.table.name(index) for index in sorted(self.unreadable)]
        self.journal.write("unreadable", step=self.step, images=names)
        share = len(names) / len(self.images)
        if share > self.options.max_unreadable:
            raise TrainingError(
                f"{len(names)} of {len(self.images)} training images ({share:.1%}) cannot be read, more than "
                f"max_unreadable {self.options.max_unreadable:.1%}: {', '.join(names[:5])}. "
                "Run the check on the data, repair the images or take them out"
            )

    def log_step(self, losses: dict[str, float], rate: float, images: int) -> None:
        """Write a line every ``log_every`` steps and at the last one."""
        self.clock.images += images * self.process.world
        if self.step % self.options.log_every and self.step != self.plan.steps:
            return
        seconds = max(1e-9, time.perf_counter() - self.clock.since)
        self.journal.write(
            "step",
            step=self.step,
            epoch=round(self.step / self.plan.steps_per_epoch, 4),
            steps=self.plan.steps,
            lr=rate,
            loss=sum(losses.values()),
            losses=losses,
            images_per_second=self.clock.images / seconds,
            data_wait=self.clock.waited / seconds,
            gpu_memory=torch.cuda.max_memory_allocated() if self.process.device.type == "cuda" else 0,
        )
        self.clock = Clock()


def prepare(
    init: Path,
    train: DetectionData,
    val: DetectionData | None,
    options: TrainOptions,
    folder: Path,
    process: Process,
    echo: Callable[[Line], None] | None,
) -> Run:
    """Assemble the run, at its start or where its last whole checkpoint left it."""
    assembled = assemble(init)
    classes = assembled.meta.classes
    table = read_coco(train.coco, classes, masks=assembled.detector.masks, skip_empty=options.skip_empty)
    require_objects(table, train)
    model = assembled.model.to(process.device)
    frozen = apply_freeze(model, assembled.detector, options.freeze)
    optimizer = make_optimizer(model, assembled.detector, options)
    images = TrainingImages(
        table, train.images, Augment(options.augment, assembled.size), options.seed, masks=assembled.detector.masks
    )
    require_metric(options, assembled, val)
    validation = PlainImages(read_coco(val.coco, classes), val.images, assembled.size) if val else None
    per_step = options.batch_size * options.accumulate * process.world
    plan = make_plan(options, assembled.detector, math.ceil(len(table) / per_step), process.world)
    plan.derivations["freeze"] = frozen.summary()
    run = Run(
        options=options, plan=plan, process=process, folder=folder,
        journal=Journal(folder / "metrics.jsonl" if process.main else None, echo),
        assembled=assembled, model=model, forward=distributed(model, options, process), optimizer=optimizer,
        average=WeightAverage(model, options.ema) if options.ema else None,
        images=images, validation=validation, truth=complete_truth(load_coco(val.coco)) if val else {},
        micro_batch=options.batch_size,
    )  # fmt: skip
    run.forward.train()
    resume(run)
    return run


def require_objects(table: CocoTable, train: DetectionData) -> None:
    """Refuse a set that nothing can be learned from."""
    if not len(table):
        raise ValueError(f"{train.coco}: no images to train on")
    if not len(table.labels):
        raise ValueError(f"{train.coco}: {len(table)} images and not one object in them")


def require_metric(options: TrainOptions, assembled: Assembled, val: DetectionData | None) -> None:
    """Refuse a choice of the best that the evaluation cannot make."""
    if val is None or options.best_by.startswith("bbox/"):
        return
    if not assembled.detector.masks:
        raise ValueError(f"best_by {options.best_by}: {assembled.meta.detector} predicts no masks. Use bbox/AP")
    if not has_outlines(load_coco(val.coco)):
        raise ValueError(f"best_by {options.best_by}: {val.coco} has objects without segmentation. Use bbox/AP")


def distributed(model: nn.Module, options: TrainOptions, process: Process) -> nn.Module:
    """The model as many processes train it together; itself where there is one."""
    if process.world == 1:
        return model
    if options.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(model, device_ids=[process.device] if process.device.type == "cuda" else None)


def forward_backward(run: Run, batch: Batch) -> dict[str, float]:
    """Add up the gradients of the step, ``micro_batch`` images at a time; the losses are means over the images."""
    while True:
        try:
            return _forward_backward(run, batch)
        except (torch.OutOfMemoryError, MemoryError) as error:
            if run.options.on_out_of_memory == "fail" or run.micro_batch == 1 or run.process.world > 1:
                raise
            problem = str(error).splitlines()[0] if str(error) else "out of memory"
        # outside of the handler: the traceback in it holds the tensors of the failed attempt
        run.optimizer.zero_grad(set_to_none=True)
        run.micro_batch = math.ceil(run.micro_batch / 2)
        torch.cuda.empty_cache()
        run.notes.append(f"out of memory at step {run.step}: {run.micro_batch} images per forward pass from there on")
        run.journal.write("out_of_memory", step=run.step, micro_batch=run.micro_batch, problem=problem)
        seed_everything(run.options.seed, "step", run.step, run.process.rank)


def _forward_backward(run: Run, batch: Batch) -> dict[str, float]:
    device = run.process.device
    sums: dict[str, Tensor] = {}
    for start in range(0, len(batch), run.micro_batch):
        images, targets = batch.part(start, start + run.micro_batch, device)
        last = start + run.micro_batch >= len(batch)
        alone = run.process.world == 1 or last
        with nullcontext() if alone else cast("DistributedDataParallel", run.forward).no_sync():
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast(run.options, device)):
                losses = run.forward(images, targets)
            share = len(images) / len(batch)
            total = torch.stack([loss * share for loss in losses.values()]).sum()
            total.backward()  # type: ignore[no-untyped-call]
        for name, loss in losses.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + loss.detach() * share
    values = torch.stack(list(sums.values())).tolist()  # one wait for the device
    return dict(zip(sums, values, strict=True))


def autocast(options: TrainOptions, device: torch.device) -> bool:
    """Whether to compute in bfloat16."""
    if options.amp == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return options.amp == "on"


def clip(run: Run) -> float:
    """Clip the gradient and return its L2 norm before that."""
    parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, run.options.largest_norm(run.assembled.detector))
    return float(norm)


def require_finite(run: Run, losses: dict[str, float], norm: float, batch: Batch) -> None:
    """Stop before a step that would spoil the weights.

    Raises:
        TrainingError: a loss or the gradient is not finite; names step, images and losses.
    """
    if all(map(math.isfinite, [*losses.values(), norm])):
        return
    table = run.images.table
    parts = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    ids = ", ".join(f"{int(table.image_ids[index])} ({table.name(index)})" for index in batch.indices)
    raise TrainingError(
        f"the loss is not finite at step {run.step}: {parts}; gradient norm {norm:g}; images {ids}. "
        "Lower learning_rate, lengthen warmup_steps, or look at the boxes of these images"
    )


def evaluate_now(run: Run, stop: StopSignal) -> None:
    """Score the weights on the validation images, keep them if they are the best so far, and checkpoint."""
    assert run.validation is not None
    process, options = run.process, run.options

    def stop_if_asked() -> None:
        if stop.asked and process.world == 1:
            stopped(run)

    trained = {key: value.clone() for key, value in run.model.state_dict().items()} if run.average else None
    if run.average is not None:
        run.model.load_state_dict(run.average.state)
    own = range(process.rank, len(run.validation), process.world)  # each image in one process only
    try:
        results = detect(
            run.model, run.validation, process.device, indices=own,
            batch_size=options.batch_size, workers=options.workers, between=stop_if_asked,
        )  # fmt: skip
    finally:
        if trained is not None:
            run.model.load_state_dict(trained)
        run.forward.train()
    together = [result for part in process.gather(results) for result in part]
    scores = quick_scores(run.truth, together, masks=run.assembled.detector.masks) if process.main else {}
    scores = process.gather(scores)[0]
    take_scores(run, scores)
    checkpoint(run)
    run.clock = Clock()


def take_scores(run: Run, scores: dict[str, float]) -> None:
    """Note an evaluation; write best.pt if it is the best."""
    value = scores[run.options.best_by]
    run.evaluated = run.step
    better = value > run.best
    run.without_gain = 0 if better else run.without_gain + 1
    run.journal.write("eval", step=run.step, epoch=run.step / run.plan.steps_per_epoch, metrics=scores, best=better)
    if better:
        run.best, run.best_step, run.best_metrics = value, run.step, scores
        write_best(run)


def write_best(run: Run) -> None:
    """Write the weights to use: the average where there is one."""
    if run.process.main:
        state = run.average.state if run.average is not None else run.model.state_dict()
        save_checkpoint(run.folder / BEST, state, meta_now(run))


def meta_now(run: Run) -> CheckpointMeta:
    """The meta of the checkpoint to be written."""
    meta = run.assembled.meta
    history = {**meta.history, "step": run.step, "steps": run.plan.steps, "metrics": run.best_metrics}
    return CheckpointMeta(meta.detector, meta.classes, meta.options, history)


def checkpoint(run: Run) -> None:
    """Write what the run continues from."""
    if run.process.main:
        save_run(
            run.folder,
            run.model.state_dict(),
            meta_now(run),
            optimizer=run.optimizer.state_dict(),
            ema=run.average.state if run.average is not None else None,
            run=progress(run),
        )
    run.process.barrier()


PROGRESS = (
    "step",
    "evaluated",
    "best",
    "best_step",
    "best_metrics",
    "without_gain",
    "rate_factor",
    "micro_batch",
    "notes",
)


def progress(run: Run) -> dict[str, Any]:
    """What is not derived from the inputs, as JSON. Schedule, order and random numbers follow from ``step`` alone."""
    return {**{name: getattr(run, name) for name in PROGRESS}, "unreadable": sorted(run.unreadable)}


def resume(run: Run) -> None:
    """Continue from the newest whole checkpoint of the folder, if there is one, and say so."""
    path, problems = newest_checkpoint(run.folder)
    if path is not None:
        content, _ = load_checkpoint(path)
        run.model.load_state_dict(content["model"])
        run.optimizer.load_state_dict(content["optimizer"])
        if run.average is not None:
            run.average.state = {key: value.to(run.process.device) for key, value in content["ema"].items()}
        for name in PROGRESS:
            setattr(run, name, content["run"][name])
        run.unreadable = set(content["run"]["unreadable"])
    run.journal.back_to(run.step if path is not None else -1)
    for problem in problems:
        run.journal.write("fallback", step=run.step, problem=problem, resumed_from=path.name if path else "the start")
    if path is not None:
        run.journal.write("resume", step=run.step, checkpoint=path.name)
    else:
        table = run.images.table
        run.journal.write(
            "start", step=0, steps=run.plan.steps, steps_per_epoch=run.plan.steps_per_epoch,
            learning_rate=run.plan.rate, warmup_steps=run.plan.warmup, derivations=run.plan.derivations,
            detector=run.assembled.meta.detector, classes=list(run.assembled.meta.classes), images=len(table),
            objects=len(table.labels), left_out=table.left_out, device=str(run.process.device),
            processes=run.process.world, bfloat16=autocast(run.options, run.process.device),
        )  # fmt: skip


def stopped(run: Run) -> None:
    """Checkpoint and leave the loop.

    Raises:
        TrainingStopped: always.
    """
    checkpoint(run)
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
