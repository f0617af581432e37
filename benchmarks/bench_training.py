"""Training steps and the input path: Annotune's against torchvision's reference, in turns in one run.

    OMP_NUM_THREADS=1 python benchmarks/bench_training.py [--detector NAME ...] [--batch 4] [--augment ssd]

The reference is torchvision's model of that name and its references/detection: Pillow decodes, transforms v2 work on
Pillow's pictures, which travel as float tensors; the model resizes and normalises them; the loss is read every step.
Ours: uint8 up to the model, channels last; in float32, and in bfloat16 where the processor has it; in the environment
that a training starts its processes with, which keeps large blocks of memory. Same pictures, weights, batch and kinds
of augmentation. What counts is processor time, which other work on the machine stretches less than the time on the
clock.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.ops import FrozenBatchNorm2d
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

from models.training.assemble import placed
from models.training.coco import CocoTable
from models.training.dataset import TrainingImages, collate, read_table_image
from models.training.launch import ENVIRONMENT
from models.training.options import TrainOptions
from models.training.precision import bfloat16
from models.training.transforms import Augment, WorkingSize
from models.zoo import DetectorOptions, build_detector, get_detector, resolve_options
from models.zoo.transform import resized_size

DETECTORS = (
    "ssdlite320_mobilenet_v3_large",
    "yolov3_mobilenet_v3",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "ssd300_vgg16",
)
CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}
AUGMENTS = {"hflip": ("hflip",), "ssd": ("photometric", "zoom_out", "iou_crop", "hflip")}


def draw(folder: Path, count: int, width: int, height: int) -> CocoTable:
    """Soft noise as JPEG, about as hard to decode as a photo, with five boxes each."""
    noise = np.random.default_rng(0)
    boxes = []
    for number in range(count):
        small = noise.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(
            folder / f"{number}.jpg", quality=92
        )
        corner, size = noise.uniform(0, 0.6, (5, 2)), noise.uniform(0.1, 0.4, (5, 2))
        boxes.append(np.concatenate([corner, corner + size], 1) * [width, height, width, height])
    return CocoTable(
        image_ids=np.arange(1, count + 1),
        names=np.array([f"{number}.jpg".encode() for number in range(count)]),
        sizes=np.tile([width, height], (count, 1)),
        starts=np.arange(0, 5 * count + 1, 5),
        boxes=np.concatenate(boxes).astype(np.float32),
        labels=noise.integers(1, 4, 5 * count),
        crowds=np.zeros(5 * count, bool),
        segmentations=np.zeros(1, np.int64),
        outlines=b"",
        category_of=np.arange(4),
        annotation_ids=np.arange(1, 5 * count + 1),
        left_out=0,
    )


def reference_transforms(augment: str) -> v2.Compose:
    """The presets "hflip" and "ssd" of torchvision's references/detection, for Pillow's pictures."""
    ssd = [v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill={Image.Image: (123, 117, 104)}), v2.RandomIoUCrop()]
    return v2.Compose(
        [
            *(ssd if augment == "ssd" else []),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.SanitizeBoundingBoxes(),
        ]
    )


def reference_picture(
    table: CocoTable, folder: Path, index: int, change: v2.Compose
) -> tuple[Tensor, dict[str, Tensor]]:
    """As torchvision's references/detection loads it."""
    picture = Image.open(folder / table.name(index)).convert("RGB")
    rows = table.objects(index)
    boxes = BoundingBoxes(table.boxes[rows].copy(), format="XYXY", canvas_size=picture.size[::-1])
    image, target = change(picture, {"boxes": boxes, "labels": torch.from_numpy(table.labels[rows].copy())})
    return image, target


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: list[Tensor],
    targets: list[dict[str, Tensor]],
    *,
    half: bool = False,
) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        total = sum(model(images, targets).values())
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    float(total.detach())


def reference_model(name: str, ours: nn.Module) -> nn.Module:
    """torchvision's own model with our weights; its batch norms are frozen and its stages train where ours do.

    Where torchvision has none, a copy of ours with channels first.
    """
    if not hasattr(detection, name):
        copy = deepcopy(ours).to(memory_format=torch.contiguous_format)
        copy.transform.resize_images = True
        return copy
    model: nn.Module = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=4)
    if any(isinstance(module, FrozenBatchNorm2d) for module in ours.modules()):
        frozen_as_torchvisions(model)
    model.load_state_dict(ours.state_dict())
    trains = {key: parameter.requires_grad for key, parameter in ours.named_parameters()}
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(trains[key])
    return model


def frozen_as_torchvisions(module: nn.Module) -> None:
    """Replace batch norms by torchvision's frozen ones, as its builders do for pretrained backbones."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features))
        else:
            frozen_as_torchvisions(child)


@dataclass(frozen=True)
class Task:
    """What both sides work on."""

    detector: str
    folder: Path
    table: CocoTable
    batch: int
    augment: str
    size: tuple[int, int]
    clock: Callable[[], float]

    def indices(self, turn: int) -> list[int]:
        return [(turn * self.batch + i) % len(self.table) for i in range(self.batch)]


Load = Callable[[int], tuple[list[Tensor], list[dict[str, Tensor]]]]


def our_side(task: Task, options: DetectorOptions, model: nn.Module, *, cache_mb: int = 0) -> tuple[nn.Module, Load]:
    """Our model and our input path, with decoded pictures kept where ``cache_mb`` says so."""
    height, width = resized_size(options, task.size[1], task.size[0])
    images = TrainingImages(
        task.table, task.folder, Augment(AUGMENTS[task.augment], WorkingSize(0, 0, (height, width))), 0
    )
    if cache_mb:
        images.keep_decoded(task.folder / "decoded", cache_mb * 2**20)
    model = placed(model, torch.device("cpu"))
    model.transform.resize_images = False  # type: ignore[union-attr]
    return model, lambda turn: collate([images[turn, i] for i in task.indices(turn)]).part(
        0, task.batch, torch.device("cpu")
    )


def their_side(task: Task, _: DetectorOptions, model: nn.Module) -> tuple[nn.Module, Load]:
    """torchvision's model and input path."""
    change = reference_transforms(task.augment)

    def load(turn: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        pairs = [reference_picture(task.table, task.folder, i, change) for i in task.indices(turn)]
        return [image for image, _ in pairs], [target for _, target in pairs]

    return reference_model(task.detector, model), load


def serve(side: Any, task: Task, orders: Connection) -> None:
    """One side in a process of its own: do what is asked for and answer with the seconds it took."""
    torch.manual_seed(0)
    options = resolve_options(DetectorOptions(name=task.detector))
    model, load = side(task, options, build_detector(options, 4).train())
    model.train()
    fused = {"fused": True} if side is not their_side else {}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-4, 0.9, **fused)
    for what, turn in iter(orders.recv, None):
        started = task.clock()
        if what == "input":
            model.transform(*load(turn))
        elif what == "decoding":
            for index in task.indices(turn):
                read_table_image(task.table, task.folder, index)
        else:
            step(model, optimizer, *load(turn), half=what == "bfloat16")
        orders.send(task.clock() - started)


def start(side: Any, task: Task, environment: dict[str, str]) -> Connection:
    """Start a side with additions to the environment, which the C library reads when a process begins."""
    here, there = get_context("spawn").Pipe()
    before = dict(os.environ)
    os.environ.update(environment)
    get_context("spawn").Process(target=serve, args=(side, task, there), daemon=True).start()
    os.environ.clear()
    os.environ.update(before)
    return here


def in_turns(ways: dict[str, tuple[Connection, str]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, in the latter half of the rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, (side, what) in ways.items():
            side.send((what, turn))
            seconds[name].append(side.recv())
    return {name: statistics.median(taken[rounds // 2 :]) for name, taken in seconds.items()}


def said(what: str, seconds: dict[str, float], images: int) -> None:
    theirs = images / seconds["reference"]
    for way in [name for name in seconds if name != "reference"]:
        ours = images / seconds[way]
        print(f"{what}: {way} {ours:.2f} images/s, reference {theirs:.2f}, ratio {ours / theirs:.2f}", flush=True)


def compare(detector: str, given: argparse.Namespace) -> None:
    """Print the ratios of one detector."""
    with tempfile.TemporaryDirectory() as place:
        table = draw(Path(place), given.batch * 4, *given.size)
        task = Task(detector, Path(place), table, given.batch, given.augment, tuple(given.size), CLOCKS[given.clock])
        height, width = resized_size(resolve_options(DetectorOptions(name=detector)), given.size[1], given.size[0])
        pictures = f"{given.size[0]}x{given.size[1]} JPEG, worked at {width}x{height}"
        print(f"{detector}, {pictures}, batch {given.batch}, {given.augment}", flush=True)
        environment = {} if given.same_environment == "plain" else ENVIRONMENT
        ours = start(our_side, task, environment)
        reference = start(their_side, task, ENVIRONMENT if given.same_environment == "training" else {})
        cached = start(partial(our_side, cache_mb=512), task, environment)
        paths = {
            "ours": (ours, "input"),
            "nothing but decoding (no input path is faster)": (ours, "decoding"),
            "ours with cache_mb": (cached, "input"),
            "reference": (reference, "input"),
        }
        said("input path, file to normalised batch", in_turns(paths, max(8, given.steps * 2)), given.batch)
        if not given.input_only:
            ways = {
                "ours": (ours, "float32"),
                "ours in bfloat16": (ours, "bfloat16"),
                "reference": (reference, "float32"),
            }
            if not bfloat16(TrainOptions(), torch.device("cpu"), get_detector(detector))[0]:
                del ways["ours in bfloat16"]
            said("training, loading included", in_turns(ways, given.steps), given.batch)
        for side in (ours, reference, cached):
            side.send(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", nargs="+", default=DETECTORS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 960), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--augment", choices=AUGMENTS, default="hflip")
    parser.add_argument("--input-only", action="store_true", help="without training steps")
    parser.add_argument(
        "--same-environment", choices=("plain", "training"), help="both sides as started, or as a training starts them"
    )
    parser.add_argument(
        "--clock", choices=CLOCKS, default="processor", help="wall: for several threads, on a quiet machine"
    )
    given = parser.parse_args()
    for detector in given.detector:
        compare(detector, given)


if __name__ == "__main__":
    main()
