"""A tiny drawn set for the tests of the training room: squares and discs on noise."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from models.checkpoint import CheckpointMeta, load_checkpoint, save_checkpoint
from models.training import DetectionData, finetune
from models.zoo import DetectorOptions, build_detector, resolve_options

CLASSES = ("disc", "square")


def draw_set(folder: Path, count: int = 8, *, seed: int = 0, outlines: bool = False) -> DetectionData:
    """``count`` PNGs of about 120 x 100 pixels and their COCO file."""
    images_folder = folder / "images"
    images_folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(count):
        width, height = (120, 96) if number % 3 else (90, 128)
        picture = Image.fromarray(draw.integers(90, 140, (height, width, 3), dtype=np.uint8))
        pen = ImageDraw.Draw(picture)
        for _ in range(2):
            side = int(draw.integers(24, 44))
            x, y = int(draw.integers(0, width - side)), int(draw.integers(0, height - side))
            category = int(draw.integers(1, 3))
            (pen.ellipse if category == 1 else pen.rectangle)((x, y, x + side - 1, y + side - 1), fill=(220, 40, 60))
            row = {"id": len(annotations) + 1, "image_id": number + 1, "category_id": category, "iscrowd": 0}
            row |= {"bbox": [x, y, side, side], "area": side * side}
            if outlines:
                row["segmentation"] = [[x, y, x + side, y, x + side, y + side, x, y + side]]
            annotations.append(row)
        name = f"{number:03d}.png"
        picture.save(images_folder / name)
        images.append({"id": number + 1, "file_name": name, "width": width, "height": height})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)]
    coco = folder / "coco.json"
    coco.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return DetectionData(coco, images_folder)


def initial(path: Path, name: str = "ssdlite320_mobilenet_v3_large", seed: int = 0, **options: object) -> Path:
    """An untrained checkpoint at ``path``; SSDlite works at 96 pixels unless told otherwise, to be fast."""
    if name.startswith("ssdlite"):
        options = {"fixed_size": (96, 96), **options}
    resolved = resolve_options(DetectorOptions(name=name, **options), pretrained=False)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    model = build_detector(resolved, len(CLASSES) + 1)
    save_checkpoint(path, model.state_dict(), CheckpointMeta(name, CLASSES, resolved.model_dump(mode="json")))
    return path


def finetune_and_die(run: tuple[Any, ...], lines: int, in_write: int) -> None:
    """``finetune(*run)``, killed with SIGKILL at the n-th line of its journal or the n-th flush to disk."""
    seen, written, flush = itertools.count(1), itertools.count(1), os.fsync

    def die(now: bool) -> None:
        if now:
            os.kill(os.getpid(), signal.SIGKILL)

    def flush_or_die(file: int) -> None:
        die(next(written) == in_write)
        flush(file)

    os.fsync = flush_or_die
    finetune(*run, echo=lambda line: die(next(seen) == lines))


def weights(path: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by a flat name: model, average and optimizer."""
    content, _ = load_checkpoint(path)
    named = {f"model.{key}": value for key, value in content["model"].items()}
    named |= {f"ema.{key}": value for key, value in (content.get("ema") or {}).items()}
    states = content["optimizer"]["state"] if "optimizer" in content else {}
    return named | {f"{i}.{k}": v for i, state in states.items() for k, v in state.items() if isinstance(v, Tensor)}


def assert_same_weights(one: Path, two: Path) -> None:
    """Both checkpoints hold the same tensors, bit for bit."""
    left, right = weights(one), weights(two)
    assert left.keys() == right.keys()
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


def run_until_killed(*run: object, lines: int = 99, in_write: int = 0) -> int:
    """Train in a process that kills itself at the n-th line of its journal, or in the n-th file it writes.

    The process comes from a server that has imported everything and run nothing: torch survives a fork only there.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["models.training"])
    process = context.Process(target=finetune_and_die, args=(run, lines, in_write))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode
