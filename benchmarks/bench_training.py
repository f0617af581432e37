"""Training steps and the input path: Annotune's against torchvision's reference, in turns in one process.

    OMP_NUM_THREADS=1 python benchmarks/bench_training.py [--detector NAME ...] [--batch 4] [--augment ssd]

The reference is torchvision's model of that name and its references/detection: Pillow decodes, transforms v2 work on
Pillow's pictures, which travel as float tensors; the model resizes and normalises them; the loss is read every step.
Ours: uint8 up to the model, channels last; in float32, and in bfloat16 where the processor has it. Same pictures,
weights, batch and kinds of augmentation. What counts is the processor time of all threads, which other work on the
machine stretches less than the time on the clock.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

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
from models.training.dataset import TrainingImages, collate
from models.training.options import TrainOptions
from models.training.precision import bfloat16
from models.training.transforms import Augment, WorkingSize
from models.zoo import DetectorOptions, build_detector, resolve_options
from models.zoo.transform import resized_size

DETECTORS = (
    "ssdlite320_mobilenet_v3_large",
    "yolov3_mobilenet_v3",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "ssd300_vgg16",
)
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


def in_turns(ways: dict[str, Callable[[int], None]], rounds: int) -> dict[str, float]:
    """Median seconds of processor time of each way, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            started = time.process_time()
            way(turn)
            seconds[name].append(time.process_time() - started)
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def said(what: str, seconds: dict[str, float], images: int) -> None:
    theirs = images / seconds["reference"]
    for way in [name for name in seconds if name != "reference"]:
        ours = images / seconds[way]
        print(f"{what}: {way} {ours:.2f} images/s, reference {theirs:.2f}, ratio {ours / theirs:.2f}", flush=True)


def compare(detector: str, given: argparse.Namespace) -> None:
    """Print the ratios of one detector."""
    options = resolve_options(DetectorOptions(name=detector))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        table = draw(folder, given.batch * 4, *given.size)
        height, width = resized_size(options, given.size[1], given.size[0])
        augment = Augment(AUGMENTS[given.augment], WorkingSize(0, 0, (height, width)))
        images = TrainingImages(table, folder, augment, seed=0)
        ours = placed(build_detector(options, 4).train(), torch.device("cpu"))
        ours.transform.resize_images = False
        models = {"ours": ours, "reference": reference_model(detector, ours).train()}
        change = reference_transforms(given.augment)
        trained = {name: [p for p in model.parameters() if p.requires_grad] for name, model in models.items()}
        optimizers = {
            "ours": torch.optim.SGD(trained["ours"], 1e-4, 0.9, fused=True),
            "reference": torch.optim.SGD(trained["reference"], 1e-4, 0.9),
        }

        def indices(turn: int) -> list[int]:
            return [(turn * given.batch + i) % len(table) for i in range(given.batch)]

        def load_ours(turn: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
            return collate([images[turn, i] for i in indices(turn)]).part(0, given.batch, torch.device("cpu"))

        def load_reference(turn: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
            pairs = [reference_picture(table, folder, i, change) for i in indices(turn)]
            return [image for image, _ in pairs], [target for _, target in pairs]

        def resized_reference(turn: int) -> None:
            models["reference"].transform(*load_reference(turn))

        def resized_ours(turn: int) -> None:
            models["ours"].transform(*load_ours(turn))

        pictures = f"{given.size[0]}x{given.size[1]} JPEG, worked at {width}x{height}"
        print(f"{detector}, {pictures}, batch {given.batch}, {given.augment}")
        paths = {"ours": resized_ours, "reference": resized_reference}
        said("input path, file to normalised batch", in_turns(paths, given.steps * 2), given.batch)
        if given.input_only:
            return
        steps = {
            "ours": lambda turn: step(models["ours"], optimizers["ours"], *load_ours(turn)),
            "ours in bfloat16": lambda turn: step(models["ours"], optimizers["ours"], *load_ours(turn), half=True),
            "reference": lambda turn: step(models["reference"], optimizers["reference"], *load_reference(turn)),
        }
        if not bfloat16(TrainOptions(), torch.device("cpu"))[0]:
            del steps["ours in bfloat16"]
        said("training, loading included", in_turns(steps, given.steps), given.batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", nargs="+", default=DETECTORS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 960), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--augment", choices=AUGMENTS, default="hflip")
    parser.add_argument("--input-only", action="store_true", help="without training steps")
    given = parser.parse_args()
    for detector in given.detector:
        compare(detector, given)


if __name__ == "__main__":
    main()
