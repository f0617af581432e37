"""What training, evaluation and prediction can be told: YAML, the flow's form and `-o train.x=y` agree on it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, field_validator

from models.training.trackers import TrackerName
from models.training.transforms import AUGMENTATIONS
from models.zoo import Detector

ACCURACIES = ("top1", "top5", "mean_class")  # of a classifier
# These change how fast the same weights are reached, not which weights: a run may resume with other values.
FREE_TO_CHANGE = frozenset(
    {"workers", "threads", "checkpoint_every_steps", "log_every", "track", "cache_mb", "address"}
)


def _known_device(name: str) -> str:
    try:
        torch.device("cpu" if name == "auto" else name)
    except RuntimeError:
        raise ValueError(f"no device is called {name!r}; auto, cpu, cuda or cuda:1") from None
    return name


DeviceName = Annotated[str, AfterValidator(_known_device)]


@dataclass(frozen=True)
class DetectionData:
    """A COCO file and the folder its ``file_name`` entries are relative to."""

    coco: Path
    images: Path


class TrainOptions(BaseModel):
    """How to train. Every value has a unit, and what is derived is printed with its derivation."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: PositiveInt = Field(default=12, description="Passes over the training images.")
    min_steps: int = Field(
        default=0, ge=0, description="Optimizer steps the run has at least; more epochs for tiny sets."
    )
    batch_size: PositiveInt = Field(default=4, description="Images per device and forward pass.")
    accumulate: PositiveInt = Field(default=1, description="Forward passes per optimizer step.")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="SGD with momentum, or AdamW.")
    learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Peak rate per step. None: the detector's rate per image times the images per step."
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="SGD's momentum; AdamW's first beta.")
    weight_decay: float | None = Field(
        default=None, ge=0, description="Decay of weights per step, not of norms and biases. None: the detector's."
    )
    warmup_steps: int | None = Field(
        default=None, ge=0, description="Steps of linear warm-up. None: one epoch, at least 1 and at most 500 steps."
    )
    schedule: Literal["step", "cosine"] = Field(default="cosine", description="How the rate falls after the warm-up.")
    step_at: tuple[float, ...] = Field(
        default=(0.67, 0.9), description="For `step`: shares of the run where it falls tenfold."
    )
    clip_norm: float | None = Field(
        default=None, ge=0, description="Largest L2 norm of the gradient; 0: no clipping. None: the detector's."
    )
    freeze: str | None = Field(
        default=None,
        description="What stays: none, stem, stages:N, backbone, all-but-head, re:PATTERN; auto: by the size of the "
        "data and its likeness to the checkpoint. None: as built; from weights, most hold their first stages.",
    )
    unfreeze_at: PositiveInt | None = Field(
        default=None, description="Epochs after which what `freeze` holds trains too. None: it stays for the whole run."
    )
    lr_multipliers: dict[str, float] = Field(
        default={}, description="Factors on the rate by part: backbone, neck, head, stem, stage:N, re:PATTERN."
    )
    amp: bool | Literal["auto"] = Field(  # YAML reads on and off as true and false
        default="auto", description="bfloat16 autocast, on or off; auto: on GPUs and CPUs that have it."
    )
    ema: float = Field(default=0.0, ge=0, lt=1, description="Decay per step of the weight average; 0 switches it off.")
    augment: tuple[str, ...] | None = Field(
        default=None,
        description=f"Augmentations by name: {', '.join(AUGMENTATIONS)}. None: hflip; for a classifier "
        "random_crop and hflip.",
    )
    mosaic: float = Field(default=0.0, ge=0, le=1, description="Share of images that become four pictures in one.")
    mixup: float = Field(default=0.0, ge=0, le=1, description="Share of images that another one shines through.")
    mix_until: int = Field(
        default=-3, description="Epochs with mosaic and mixup; negative: all but so many at the end of the run."
    )
    skip_empty: bool = Field(default=False, description="Leave out images without objects.")
    balance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the images below which a class is rare, and images with it come more often: by the root "
        "of this over its own share (LVIS's repeat factors). 0: every image once an epoch.",
    )
    max_unreadable: float = Field(
        default=0.01, ge=0, le=1, description="Share of unreadable images that fails the run."
    )
    workers: int | None = Field(
        default=None, ge=0, description="Loading processes per device. None: by CPU count and device."
    )
    cache_mb: int = Field(
        default=0, ge=0, description="Megabytes of decoded pictures that each process keeps from epoch to epoch."
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads of torch per process. None: OMP_NUM_THREADS, else cores / processes.",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="All randomness follows from this, the epoch, the step and the image."
    )
    eval_every: PositiveInt = Field(
        default=1, description="Epochs between evaluations; the last step is always evaluated."
    )
    patience: int = Field(
        default=0, ge=0, description="Evaluations without improvement before stopping; 0: never stop early."
    )
    best_by: str | None = Field(
        default=None,
        description="Metric that picks best.pt, e.g. bbox/AP50, segm/AP; top1, top5 or mean_class of a classifier. "
        "None: bbox/AP, or top1.",
    )
    checkpoint_every_steps: PositiveInt = Field(
        default=200, description="Steps between checkpoints to resume from; one more where they take over five minutes."
    )
    log_every: PositiveInt = Field(default=10, description="Steps between log lines.")
    track: tuple[TrackerName, ...] = Field(
        default=("tensorboard",),
        description="Where else the figures go: tensorboard (in the run's folder), wandb, mlflow (their own settings "
        "say where).",
    )
    devices: int | None = Field(
        default=None,
        ge=0,
        description="Processes, one GPU each where there are GPUs. None: one per GPU, 1 without; 0: the CPU.",
    )
    machines: PositiveInt = Field(
        default=1,
        description="Machines that share the run, with as many processes each; `annotune join` on the others.",
    )
    address: str | None = Field(
        default=None, description="Where the other machines reach this one. None: by its host name."
    )
    sync_batchnorm: bool = Field(default=False, description="Share batch statistics between devices.")
    channels_last: bool | None = Field(
        default=None, description="NHWC memory format of the convolutions. None: on a CPU, where it is faster."
    )
    compile: bool = Field(
        default=False, description="torch.compile for the backbone; as it is, with a note, where that cannot be done."
    )
    on_out_of_memory: Literal["halve", "fail"] = Field(
        default="halve", description="halve: halve the images per forward pass, keep the images per step."
    )
    on_nonfinite: Literal["retry", "fail"] = Field(
        default="fail",
        description="retry: once more from the last checkpoint at a tenth of the rate when the loss is NaN or inf.",
    )

    @field_validator("augment")
    @classmethod
    def _known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if name not in AUGMENTATIONS:
                raise ValueError(f"no augmentation is called {name!r}; there are {', '.join(AUGMENTATIONS)}")
        return names

    @field_validator("freeze", "lr_multipliers")
    @classmethod
    def _patterns_compile(cls, parts: Any) -> Any:
        for part in [parts] if isinstance(parts, str) else parts or ():
            try:
                re.compile(part.removeprefix("re:") if part.startswith("re:") else "")
            except re.error as error:
                raise ValueError(f"{part!r} is not a regular expression: {error}") from None
        return parts

    @field_validator("best_by")
    @classmethod
    def _metric(cls, value: str | None) -> str | None:
        kinds = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")
        kind, _, name = (value or "top1").partition("/")
        if kind not in ACCURACIES and (kind not in ("bbox", "segm") or name not in kinds):
            boxes = f"bbox/ or segm/ and one of {', '.join(kinds)}"
            raise ValueError(f"best_by is {boxes}, or of a classifier {', '.join(ACCURACIES)}, not {value!r}")
        return value

    def metric(self, detector: Detector) -> str:
        """The metric that picks the best checkpoint, the task's own where none is set."""
        return self.best_by or ("top1" if detector.task == "classification" else "bbox/AP")

    def augmentations(self, detector: Detector) -> tuple[str, ...]:
        """The augmentations, the task's own where none are set."""
        if self.augment is not None:
            return self.augment
        return ("random_crop", "hflip") if detector.task == "classification" else ("hflip",)

    def decay(self, detector: Detector) -> float:
        """The weight decay, the detector's own where none is set."""
        return detector.defaults.get("weight_decay", 1e-4) if self.weight_decay is None else self.weight_decay

    def largest_norm(self, detector: Detector) -> float:
        """The largest norm of the gradient, infinity without clipping, the detector's own where none is set."""
        norm = detector.defaults.get("clip_norm", 10.0) if self.clip_norm is None else self.clip_norm
        return norm or math.inf

    def binding(self) -> dict[str, Any]:
        """The options that decide the weights, as JSON: what two runs must share for one to continue the other."""
        return {key: value for key, value in self.model_dump(mode="json").items() if key not in FREE_TO_CHANGE}


class EvaluateOptions(BaseModel):
    """How to evaluate."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    batch_size: PositiveInt = Field(default=4, description="Images per forward pass.")
    workers: int | None = Field(default=None, ge=0, description="Loading processes. None: by CPU count and device.")
    device: DeviceName = Field(default="auto", description="cpu, cuda, cuda:1; auto: the first GPU if there is one.")
    engine: Literal["auto", "hotcoco", "pycocotools"] = Field(
        default="auto", description="auto: hotcoco where installed."
    )
    min_score: float = Field(default=0.0, ge=0, le=1, description="Detections below it do not enter detections.json.")
    confusion_score: float = Field(
        default=0.3, ge=0, le=1, description="Least score of detections in the confusion matrix."
    )
    voc: bool = Field(
        default=False,
        description="Add Pascal VOC's AP at IoU 0.5, by area and by eleven points, to COCO's; objects marked difficult "
        "count neither way.",
    )
    worst: int = Field(default=12, ge=0, description="How many of the worst images are listed.")


class PredictOptions(BaseModel):
    """How to predict."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_score: float = Field(
        default=0.5, ge=0, le=1, description="Detections below it are left out; a classifier's answers never are."
    )
    batch_size: PositiveInt = Field(default=4, description="Images per forward pass.")
    workers: int | None = Field(default=None, ge=0, description="Loading processes. None: by CPU count and device.")
    device: DeviceName = Field(default="auto", description="cpu, cuda, cuda:1; auto: the first GPU if there is one.")
