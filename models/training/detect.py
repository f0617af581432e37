"""Run a detector over images and give COCO results in the pixels of the original pictures."""

# mypy: untyped-calls-exclude=pycocotools
from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection.roi_heads import paste_masks_in_image

from models.training.coco import CocoTable
from models.training.dataset import Batch, Loaded, PlainImages, collate
from models.training.process import begin_loading
from models.training.scores import Result

QUIET = 2  # threads: the main one, and the training process's watch over its parent


def loading_processes(wanted: int | None, device: torch.device) -> int:
    """How many processes load images: as wanted; else none beside CPU training, which needs the cores itself."""
    if wanted is not None:
        return wanted
    return min(8, os.cpu_count() or 1) if device.type == "cuda" else 0


def image_batches(
    dataset: Dataset[Loaded], indices: Sequence[int], batch_size: int, workers: int, *, pin: bool = False
) -> DataLoader[Loaded]:
    """Batches of these images in this order.

    Loading processes are forked only from a process without other threads (a server or a client in it, say): what is
    forked beside them inherits their locks and dies. Elsewhere they come from a server that runs nothing.
    """
    crowded = workers > 0 and threading.active_count() > QUIET
    batches = [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=begin_loading,
        multiprocessing_context="forkserver" if crowded else None,
    )


@dataclass(frozen=True)
class Found:
    """What a detector finds in one image, best first, in the pixels of the original picture, on the CPU.

    Attributes:
        index: which image it is.
        size: (height, width) of the picture.
        boxes: (N, 4) xyxy.
        labels: (N,) from 1.
        scores: (N,) 0..1.
        masks: (N, H, W) bool, or None where the detector has no masks.
    """

    index: int
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor | None


def find(
    model: nn.Module, batches: DataLoader[Loaded], device: torch.device, min_score: float = 0.0
) -> Iterator[Found]:
    """Yield what a detector finds with at least ``min_score``, image by image; nothing for those not readable.

    Args:
        model: on ``device``; set to evaluation mode.
        batches: from :func:`image_batches`.
        device: where to compute.
        min_score: weaker detections are left out.
    """
    model.eval()
    for batch in batches:
        assert isinstance(batch, Batch)
        images, _ = batch.part(0, len(batch), device)
        with torch.inference_mode():
            outputs = model(images)
        for index, working, original, output in zip(
            batch.indices, batch.sizes.tolist(), batch.originals, outputs, strict=True
        ):
            if index in batch.unreadable:
                continue
            strong = output["scores"] >= min_score
            kept = {key: value[strong].cpu() for key, value in output.items()}
            boxes, masks = in_original_pixels(kept, (working[0], working[1]), original)
            yield Found(index, original, boxes, kept["labels"], kept["scores"].float(), masks)


def in_original_pixels(
    found: dict[str, Tensor], working: tuple[int, int], original: tuple[int, int]
) -> tuple[Tensor, Tensor | None]:
    """Boxes (N, 4) and masks (N, H, W) bool in the pixels of the original picture.

    Args:
        found: the model's boxes, and perhaps masks (N, 1, M, M) as probabilities within them.
        working: (height, width) the model saw.
        original: (height, width) of the picture.
    """
    scale = torch.tensor([original[1] / working[1], original[0] / working[0]]).repeat(2)
    if "boxes" not in found:  # a classifier's answers are about the whole picture
        whole = torch.tensor([0.0, 0.0, original[1], original[0]])
        return whole.repeat(len(found["labels"]), 1), None
    boxes = found["boxes"] * scale
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, original[1])
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, original[0])
    if "masks" not in found:
        return boxes, None
    masks = torch.empty(len(boxes), *original, dtype=torch.bool)
    for mask, box, place in zip(found["masks"], boxes, masks, strict=True):  # a float picture of one at a time
        torch.gt(paste_masks_in_image(mask[None], box[None], original)[0, 0], 0.5, out=place)
    return boxes, masks


def label_results(found: Found, table: CocoTable, category_of: Sequence[int]) -> list[Result]:
    """A classifier's answers about one object as results that name it, best first; category 0: the file has no such."""
    left, top, right, bottom = table.boxes[found.index].tolist()
    of = {
        "image_id": int(table.image_ids[found.index]),
        "annotation_id": int(table.annotation_ids[found.index]),
        "bbox": [round(value, 3) for value in (left, top, right - left, bottom - top)],
    }
    scores = found.scores.double().numpy().round(6).tolist()
    labels = zip(found.labels.tolist(), scores, strict=True)
    return [{**of, "category_id": category_of[label], "score": score} for label, score in labels]


def coco_results(found: Found, image_id: int, category_of: Sequence[int]) -> list[Result]:
    """One image's detections as COCO results; pixels to 1/1000, scores to 1/1000000."""
    xywh = found.boxes.double().numpy().copy()
    xywh[:, 2:] -= xywh[:, :2]
    rounded = xywh.round(3).tolist()
    scores = found.scores.double().numpy().round(6).tolist()
    results: list[Result] = [
        {"image_id": image_id, "category_id": category_of[label], "bbox": box, "score": score}
        for label, box, score in zip(found.labels.tolist(), rounded, scores, strict=True)
    ]
    if found.masks is not None:
        for result, mask in zip(results, found.masks, strict=True):
            result["segmentation"] = run_lengths(mask)
    return results


def run_lengths(mask: Tensor) -> dict[str, Any]:
    """COCO run lengths of a mask (H, W), compressed, as JSON can hold them."""
    runs = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode()}


def detect(
    model: nn.Module,
    dataset: PlainImages,
    device: torch.device,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int = 4,
    workers: int | None = None,
    min_score: float = 0.0,
    between: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Every detection of a detector, or answer of a classifier, on images of a COCO table, in the order of the images.

    Args:
        model: on ``device``; set to evaluation mode.
        dataset: the images.
        device: where to compute.
        indices: which images; None: all.
        batch_size: images per forward pass.
        workers: loading processes; None: by device.
        min_score: weaker detections are left out.
        between: called after each image; may raise to stop.
    """
    table: CocoTable = dataset.table
    category_of = table.category_of.tolist()
    chosen = range(len(table)) if indices is None else indices
    batches = image_batches(dataset, chosen, batch_size, loading_processes(workers, device), pin=device.type == "cuda")
    results: list[Result] = []
    for found in find(model, batches, device, 0.0 if table.cut else min_score):
        if table.cut:
            results.extend(label_results(found, table, category_of))
        else:
            results.extend(coco_results(found, int(table.image_ids[found.index]), category_of))
        between()
    # a class that this COCO file does not have cannot be scored against it; named in the place of another it is wrong
    return results if table.cut else [result for result in results if result["category_id"]]
