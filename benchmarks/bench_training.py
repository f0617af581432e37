"""Training steps and the input path: Annotune's against the style of torchvision's reference, in turns in one process.

    OMP_NUM_THREADS=2 python benchmarks/bench_training.py [--detector NAME ...] [--batch 4] [--steps 8]

The reference: Pillow decodes, pictures travel as float tensors, the model resizes and normalises them, the loss is read
every step. Ours: uint8 up to the model. Same pictures, weights, batch, optimizer and augmentation (a mirror). The
seconds are of the process's own CPU time, which other programs on the machine lengthen least.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from models.training.coco import CocoTable
from models.training.dataset import TrainingImages, collate
from models.training.transforms import Augment, WorkingSize
from models.zoo import DetectorOptions, build_detector, resolve_options
from models.zoo.transform import resized_size

DETECTORS = (
    "ssdlite320_mobilenet_v3_large",
    "yolov3_mobilenet_v3",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "ssd300_vgg16",
)


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


def reference_picture(table: CocoTable, folder: Path, index: int) -> tuple[Tensor, dict[str, Tensor]]:
    """As torchvision's references/detection loads it."""
    picture = Image.open(folder / table.name(index)).convert("RGB")
    image = transforms.to_dtype(transforms.pil_to_tensor(picture), torch.float32, scale=True)
    boxes = torch.from_numpy(table.boxes[table.objects(index)].copy())
    if random.random() < 0.5:
        image, boxes = image.flip(-1), torch.stack(
            [image.shape[-1] - boxes[:, 2], boxes[:, 1], image.shape[-1] - boxes[:, 0], boxes[:, 3]], 1
        )  # fmt: skip
    return image, {"boxes": boxes, "labels": torch.from_numpy(table.labels[table.objects(index)].copy())}


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: list[Tensor], targets: list[dict[str, Tensor]]
) -> None:
    total = sum(model(images, targets).values())
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    float(total.detach())


def in_turns(ways: dict[str, Callable[[int], None]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each way, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            started = time.process_time()
            way(turn)
            seconds[name].append(time.process_time() - started)
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def said(what: str, seconds: dict[str, float], images: int) -> None:
    ours, theirs = images / seconds["ours"], images / seconds["reference"]
    print(f"{what}: ours {ours:.2f} images/s, reference {theirs:.2f}, ratio {ours / theirs:.2f}")


def compare(detector: str, given: argparse.Namespace) -> None:
    """Print the ratios of one detector."""
    options = resolve_options(DetectorOptions(name=detector))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        table = draw(folder, given.batch * 4, *given.size)
        height, width = resized_size(options, given.size[1], given.size[0])
        images = TrainingImages(table, folder, Augment(("hflip",), WorkingSize(0, 0, (height, width))), seed=0)
        models = {name: build_detector(options, 4).train() for name in ("ours", "reference")}
        models["reference"].load_state_dict(models["ours"].state_dict())
        models["ours"].transform.resize_images = False
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
            pairs = [reference_picture(table, folder, i) for i in indices(turn)]
            return [image for image, _ in pairs], [target for _, target in pairs]

        print(f"{detector}, {given.size[0]}x{given.size[1]} JPEG, worked at {width}x{height}, batch {given.batch}")
        paths = {
            "ours": lambda turn: models["ours"].transform(*load_ours(turn)),
            "reference": lambda turn: models["reference"].transform(*load_reference(turn)),
        }
        said("input path, file to normalised batch", in_turns(paths, given.steps * 2), given.batch)
        steps = {
            "ours": lambda turn: step(models["ours"], optimizers["ours"], *load_ours(turn)),
            "reference": lambda turn: step(models["reference"], optimizers["reference"], *load_reference(turn)),
        }
        said("training, loading included", in_turns(steps, given.steps), given.batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", nargs="+", default=DETECTORS, metavar="NAME")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 960), metavar=("WIDTH", "HEIGHT"))
    given = parser.parse_args()
    for detector in given.detector:
        compare(detector, given)


if __name__ == "__main__":
    main()
