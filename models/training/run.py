"""A run: everything it holds, how it begins or continues, and what each checkpoint keeps of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from models.checkpoint import CheckpointMeta, load_checkpoint, save_checkpoint
from models.errors import OutOfMemory, TrainingError
from models.files import write_json
from models.training.anchors import anchor_recall
from models.training.assemble import Assembled, assemble, placed
from models.training.coco import load_coco
from models.training.compiling import compile_backbone
from models.training.dataset import Batch, Loaded, PlainImages, TrainingImages, collate, training_images
from models.training.detect import loading_processes
from models.training.evaluation import table_of
from models.training.folder import BEST, MICRO_BATCH, newest_checkpoint, save_run
from models.training.journal import Journal
from models.training.optimizer import Plan, WeightAverage, make_optimizer, make_plan
from models.training.options import DetectionData, TrainOptions
from models.training.precision import bfloat16
from models.training.process import Process, StopSignal, begin_loading
from models.training.requirements import require_batch, require_fitting, require_metric, require_objects
from models.training.sampling import StepSampler, images_per_epoch, repeat_factors, step_groups
from models.training.scores import complete_truth
from models.weights.freeze import apply_freeze
from models.zoo import DetectorOptions


@dataclass
class Clock:
    """Time since the last log line, seconds, and what it was spent on."""

    since: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    images: int = 0

    def seconds(self) -> float:
        """How long it has been going; never 0, for what is divided by it."""
        return max(1e-9, time.perf_counter() - self.since)


@dataclass
class Run:
    """Everything a run holds; what is not derived from its inputs goes into each checkpoint (:func:`progress`)."""

    options: TrainOptions
    plan: Plan
    process: Process
    folder: Path
    journal: Journal
    stop: StopSignal
    assembled: Assembled
    model: nn.Module  # bare, on the device
    forward: nn.Module  # the same, wrapped for many processes
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    images: TrainingImages
    validation: PlainImages | None
    truth: dict[str, Any]
    half: bool  # bfloat16 under autocast
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
    saved: float = field(default_factory=time.monotonic)  # when the last checkpoint was written
    unfrozen: bool = False  # in this process; when it is due follows from ``step``

    def batches(self) -> Iterator[Batch]:
        """The images of the steps that are still to come, from this one on."""
        options, device = self.options, self.process.device
        workers = loading_processes(options.workers, device)
        loader: DataLoader[Loaded] = DataLoader(
            self.images,
            batch_sampler=self.sampler(),
            collate_fn=collate,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            worker_init_fn=begin_loading,
            generator=torch.Generator().manual_seed(options.seed),  # else the loader draws from the global one
        )
        return cast("Iterator[Batch]", iter(loader))

    def sampler(self) -> StepSampler:
        """This process's images for the steps still to come."""
        return StepSampler(
            step_groups(self.images.table),
            self.options.batch_size * self.options.accumulate,
            seed=self.options.seed,
            start=self.step,
            stop=self.plan.steps,
            rank=self.process.rank,
            world=self.process.world,
            factors=repeat_factors(self.images.table, self.options.balance),
        )

    def evaluation_due(self) -> bool:
        """At the end of every ``eval_every`` epochs and of the run, once."""
        if self.validation is None or self.step in (0, self.evaluated):
            return False
        return self.step % (self.plan.steps_per_epoch * self.options.eval_every) == 0 or self.step == self.plan.steps

    def unfreezing_due(self) -> bool:
        """From the end of epoch ``unfreeze_at`` on, until it is done."""
        at = self.options.unfreeze_at
        return at is not None and not self.unfrozen and self.step >= at * self.plan.steps_per_epoch

    def patience_spent(self) -> bool:
        """Whether the last ``patience`` evaluations brought nothing."""
        return 0 < self.options.patience <= self.without_gain

    def next_of(self, batches: Iterator[Batch]) -> Batch:
        """The next step's images; counts the time waited for them and those that could not be read."""
        started = time.perf_counter()
        with self.stop.at_once(self.process.leaves_alone):
            batch = next(batches)
        self.clock.waited += time.perf_counter() - started
        self.count_unreadable(batch)
        return batch

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
        seconds = self.clock.seconds()
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
            seconds=seconds,
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
    journal: Journal,
    stop: StopSignal,
) -> Run:
    """Assemble the run, at its start or where its last whole checkpoint left it."""
    assembled = assemble(init)
    detector = assembled.detector
    table = table_of(train, assembled, masks=detector.masks, skip_empty=options.skip_empty)
    require_objects(table, train)
    require_fitting(options, detector)
    model = placed(assembled.model, process.device, channels_last=options.channels_last)
    stop.listen_to(model)
    frozen = apply_freeze(model, detector, options.freeze)
    optimizer = make_optimizer(model, detector, options)
    require_metric(options, assembled, val)
    require_batch(options, assembled)
    validation = PlainImages(table_of(val, assembled), val.images, assembled.size) if val else None
    per_step = options.batch_size * options.accumulate * process.world
    an_epoch = images_per_epoch(table, repeat_factors(table, options.balance))
    plan = make_plan(options, detector, math.ceil(an_epoch / per_step), process.world)
    if options.balance:
        plan.derivations["balance"] = f"{options.balance:g}: {an_epoch} images an epoch, of {len(table)}"
    plan.derivations["freeze"] = frozen.summary()
    half, plan.derivations["amp"] = bfloat16(options, process.device, detector)
    images = training_images(table, train.images, options, assembled, plan.mixed_epochs)
    if options.cache_mb:
        images.keep_decoded(folder / f".decoded-{process.rank}", options.cache_mb * 2**20)
    run = Run(
        options=options, plan=plan, process=process, folder=folder,
        journal=journal, stop=stop,
        assembled=assembled, model=model, forward=distributed(model, options, process), optimizer=optimizer,
        average=WeightAverage(model, options.ema) if options.ema else None,
        images=images, validation=validation, truth=complete_truth(load_coco(val.coco)) if val else {},
        half=half, micro_batch=options.batch_size,
    )  # fmt: skip
    run.forward.train()
    resumed = resume(run)
    process.barrier()  # nobody may still be looking for a checkpoint when the first one is written
    if not resumed:
        checkpoint(run)
    after_out_of_memory(run)
    if options.compile:
        one_shape = assembled.size.fixed is not None
        say_uncompiled(run, compile_backbone(model, process.device, one_shape=one_shape))
    return run


def say_uncompiled(run: Run, reason: str | None) -> None:
    """Note why the backbone runs as it is; nothing where it is compiled."""
    if reason is not None and reason not in run.notes:
        run.notes = [*run.notes, reason]
        run.journal.tell(reason)


def distributed(model: nn.Module, options: TrainOptions, process: Process) -> nn.Module:
    """The model as many processes train it together; itself where there is one."""
    if process.world == 1:
        return model
    if options.sync_batchnorm and process.device.type != "cuda":
        raise ValueError("sync_batchnorm: torch has it for GPUs only. Leave it out, or freeze the norms")
    if options.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(model, device_ids=[process.device] if process.device.type == "cuda" else None)


def unfreeze(run: Run) -> None:
    """Let everything train from this step on.

    The optimizer has held every parameter from the start, so what thaws is stepped, however alike it is to another
    (Lightning's and MMEngine's unfreezing leaves parameters untrained here).
    """
    report = apply_freeze(run.model, run.assembled.detector, "none")
    run.forward = distributed(run.model, run.options, run.process)
    run.forward.train()
    if isinstance(run.optimizer, torch.optim.SGD):
        # The fused step takes momentum for all of a group or for none; a zero is what no momentum yet means.
        for parameter in run.model.parameters():
            run.optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
    run.unfrozen = True
    run.journal.write("unfreeze", step=run.step, trains=report.summary())


def least_images(run: Run) -> int:
    """How few images a forward pass can take: live batch norms have no variance over one."""
    return 2 if any(isinstance(module, _BatchNorm) and module.training for module in run.model.modules()) else 1


def halve_micro_batch(run: Run, problem: str) -> None:
    """Half the images per forward pass from this step on; the step itself keeps its images.

    Raises:
        OutOfMemory: of many processes one alone cannot; they begin again with the smaller number.
    """
    smaller = math.ceil(run.micro_batch / 2)
    said = f"out of memory at step {run.step}: {smaller} images per forward pass from there on"
    if run.process.world > 1:
        write_json(run.folder / MICRO_BATCH, {"images": smaller, "said": said, "problem": problem})
        raise OutOfMemory(said)
    run.optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    take_micro_batch(run, smaller, said, problem)


def take_micro_batch(run: Run, images: int, said: str, problem: str) -> None:
    """So many images per forward pass from here on, and why."""
    run.micro_batch, run.notes = images, [*run.notes, said]
    run.journal.write("out_of_memory", step=run.step, micro_batch=images, problem=problem)


def after_out_of_memory(run: Run) -> None:
    """Begin with the images that memory had room for, where an attempt of several processes ended without."""
    path = run.folder / MICRO_BATCH
    if path.exists():
        found = orjson.loads(path.read_bytes())
        if found["said"] not in run.notes:
            take_micro_batch(run, min(run.micro_batch, found["images"]), found["said"], found["problem"])


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


def checkpoint(run: Run, *, leaving: bool = False) -> None:
    """Write what the run continues from; processes that are not leaving wait until it is there."""
    if run.process.main:
        save_run(
            run.folder,
            run.model.state_dict(),
            meta_now(run),
            optimizer=run.optimizer.state_dict(),
            ema=run.average.state if run.average is not None else None,
            run=progress(run),
        )
    run.saved = time.monotonic()
    if not leaving:
        run.process.barrier()


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


def resume(run: Run) -> bool:
    """Continue from the newest whole checkpoint of the folder, and say so; False where there is none."""
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
        source = path.name if path else "the start"
        run.journal.write("fallback", step=run.step, problem=problem, resumed_from=source)
        run.notes = [*run.notes, f"{problem}: continued from {source}, step {run.step}"]
    if path is not None:
        run.journal.write("resume", step=run.step, steps=run.plan.steps, checkpoint=path.name)
    else:
        run.journal.write("start", step=0, **described(run))
    return path is not None


def described(run: Run) -> dict[str, Any]:
    """What a run begins with, for its first line."""
    plan, meta, table = run.plan, run.assembled.meta, run.images.table
    return {
        "steps": plan.steps,
        "steps_per_epoch": plan.steps_per_epoch,
        "learning_rate": plan.rate,
        "warmup_steps": plan.warmup,
        "derivations": plan.derivations,
        "detector": meta.detector,
        "classes": list(meta.classes),
        "images": len(table),
        "objects": len(table.labels),
        "left_out": table.left_out,
        "best_possible_recall": anchor_recall(table, DetectorOptions(**meta.options)),
        "device": str(run.process.device),
        "processes": run.process.world,
        "bfloat16": run.half,
    }
