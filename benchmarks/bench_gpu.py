"""Whole trainings, on a GPU where there is one: Annotune's against torchvision's reference loop, by the clock.

    python benchmarks/bench_gpu.py [--detector fasterrcnn_resnet50_fpn] [--batch 4] [--steps 60] [--workers 8]

Ours is what `annotune finetune` runs: `run_training` with its processes, log and checkpoints; figures come from
`metrics.jsonl`. The reference is torchvision's references/detection: its model with the same weights, Pillow in loading
processes, float tensors, the loss read every step; with `--amp` as there, float16 and a gradient scaler. Same
pictures, batch and loading processes. The first third of the steps does not count. Prints a table with the card's name.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from bench_training import draw, reference_model, reference_picture, reference_transforms
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.checkpoint import CheckpointMeta, save_checkpoint
from models.training import DetectionData, TrainOptions, run_training
from models.training.coco import CocoTable
from models.zoo import DetectorOptions, build_detector, resolve_options

CLASSES = ("a", "b", "c")
CUDA = torch.cuda.is_available()
WAYS: dict[str, dict[str, Any] | bool] = {
    "reference": False,
    "reference, float16": True,
    "float32": {"amp": False},
    "bfloat16": {"amp": True},
    "bfloat16, channels first": {"amp": True, "channels_last": False},
    "bfloat16, channels last": {"amp": True, "channels_last": True},
    "bfloat16, compiled": {"amp": True, "compile": True},
}
GB = 2**30


@dataclass(frozen=True)
class Bench:
    """What every way trains on."""

    folder: Path
    table: CocoTable
    options: DetectorOptions
    batch: int
    steps: int
    workers: int

    @property
    def skipped(self) -> int:
        return self.steps // 3


def prepare(folder: Path, given: argparse.Namespace) -> Bench:
    table = draw(folder, given.pictures, *given.size)
    width, height = given.size
    coco = {
        "images": [
            {"id": int(i), "file_name": f"{n}.jpg", "width": width, "height": height}
            for n, i in enumerate(table.image_ids)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)],
        "annotations": [
            {"id": n + 1, "image_id": n // 5 + 1, "category_id": int(label), "iscrowd": 0, "area": 1.0,
             "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]}
            for n, (box, label) in enumerate(zip(table.boxes, table.labels, strict=True))
        ],
    }  # fmt: skip
    (folder / "train.json").write_text(json.dumps(coco))
    options = resolve_options(DetectorOptions(name=given.detector))
    torch.manual_seed(0)
    model = build_detector(options, len(CLASSES) + 1)
    meta = CheckpointMeta(options.name, CLASSES, options.model_dump(mode="json"), {})
    save_checkpoint(folder / "init.pt", model.state_dict(), meta)
    return Bench(folder, table, options, given.batch, given.steps, given.workers)


def ours(bench: Bench, changes: dict[str, Any]) -> tuple[float, float, float]:
    """Images per second, the share of time waiting for data, and the peak of GPU memory in bytes."""
    options = TrainOptions(
        epochs=1, min_steps=bench.steps, batch_size=bench.batch, workers=bench.workers, learning_rate=1e-4, devices=1,
        log_every=1, track=(), **changes,
    )  # fmt: skip
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as run:
        data = DetectionData(bench.folder / "train.json", bench.folder)
        run_training(bench.folder / "init.pt", data, None, options, Path(run), on_line=lines.append)
    steps = [line for line in lines if line["event"] == "step" and line["step"] > bench.skipped]
    seconds = sum(line["seconds"] for line in steps)
    images = sum(line["images_per_second"] * line["seconds"] for line in steps)
    waited = sum(line["data_wait"] * line["seconds"] for line in steps)
    return images / seconds, waited / seconds, float(steps[-1]["gpu_memory"])


class ReferenceImages(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """torchvision's references/detection, preset hflip."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.change = bench, reference_transforms("hflip")

    def __len__(self) -> int:
        return len(self.bench.table)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        return reference_picture(self.bench.table, self.bench.folder, index, self.change)


def batches(bench: Bench) -> Iterator[Any]:
    while True:
        yield from DataLoader(
            ReferenceImages(bench), bench.batch, shuffle=True, num_workers=bench.workers, collate_fn=transposed,
            drop_last=True, multiprocessing_context="fork" if bench.workers else None,
        )  # fmt: skip


def transposed(pairs: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*pairs, strict=True))


def reference(bench: Bench, half: bool) -> tuple[float, float, float]:
    """As :func:`ours`."""
    device = torch.device("cuda" if CUDA else "cpu")
    torch.manual_seed(0)
    model = reference_model(bench.options.name, build_detector(bench.options, len(CLASSES) + 1).train())
    model.to(device).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-4, 0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=half)
    source, started, waited = batches(bench), 0.0, 0.0
    for step in range(bench.steps):
        if step == bench.skipped:
            started, waited = time.perf_counter(), 0.0
        before = time.perf_counter()
        images, targets = next(source)
        waited += time.perf_counter() - before
        with torch.autocast(device.type, torch.float16, enabled=half):
            losses = model(
                [image.to(device) for image in images],
                [{key: value.to(device) for key, value in target.items()} for target in targets],
            )
            total = sum(losses.values())
        total.item()
        optimizer.zero_grad()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
    if CUDA:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    images_seen = (bench.steps - bench.skipped) * bench.batch
    return images_seen / seconds, waited / seconds, float(torch.cuda.max_memory_allocated()) if CUDA else 0.0


def once(bench: Bench, way: str) -> tuple[float, float, float]:
    """A way in processes of its own, so that none inherits another's memory."""
    setting = WAYS[way]
    if isinstance(setting, dict):
        return ours(bench, setting)
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(reference, bench, setting).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="fasterrcnn_resnet50_fpn")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=[way for way in WAYS if CUDA or "float16" not in way]
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        bench = prepare(Path(place), given)
        found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in given.ways}
        for _ in range(given.rounds):
            for way in given.ways:
                found[way].append(once(bench, way))
    card = torch.cuda.get_device_name() if CUDA else "no GPU"
    pictures = f"{given.size[0]}x{given.size[1]} JPEG"
    print(f"{given.detector}, {pictures}, batch {given.batch}, {given.workers} loading; {card}\n")
    print("| | images/s | against the reference | waiting for data | GPU memory, peak |\n|---|---:|---:|---:|---:|")
    base = statistics.median(speed for speed, _, _ in found.get("reference", [(float("nan"), 0, 0)]))
    for way, results in found.items():
        speed, waited, memory = (statistics.median(column) for column in zip(*results, strict=True))
        print(f"| {way} | {speed:.3g} | {speed / base:.2f} | {waited:.0%} | {memory / GB:.1f} GiB |")


if __name__ == "__main__":
    main()
