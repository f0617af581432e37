"""Run a detector over images and give COCO results in the pixels of the original pictures."""

# mypy: untyped-calls-exclude=pycocotools
from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models.detection.roi_heads import paste_masks_in_image

from models.training.coco import CocoTable
from models.training.dataset import Batch, Loaded, PlainImages, collate
from models.training.scores import Result


def loading_processes(wanted: int | None, device: torch.device) -> int:
    """How many processes load images: as wanted; else none beside CPU training, which needs the cores itself."""
    if wanted is not None:
        return wanted
    return min(8, os.cpu_count() or 1) if device.type == "cuda" else 0


def image_batches(
    dataset: PlainImages, indices: Sequence[int], batch_size: int, workers: int, *, pin: bool = False
) -> DataLoader[Loaded]:
    """Batches of these images in this order."""
    batches = [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate, pin_memory=pin)


@torch.inference_mode()
def raw_detections(
    model: nn.Module, batches: DataLoader[Loaded], device: torch.device, *, autocast: bool = False
) -> Iterator[tuple[int, tuple[int, int], dict[str, Tensor]]]:
    """Yield for each image its index, its working (height, width) and the detections in those pixels, on the CPU."""
    model.eval()
    for batch in batches:
        assert isinstance(batch, Batch)
        images, _ = batch.part(0, len(batch), device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            found = model(images)
        for index, size, one in zip(batch.indices, batch.sizes.tolist(), found, strict=True):
            yield index, (size[0], size[1]), {key: value.float().cpu() if value.is_floating_point() else value.cpu()
                                              for key, value in one.items()}  # fmt: skip


def in_original_pixels(
    found: dict[str, Tensor], working: tuple[int, int], original: tuple[int, int]
) -> tuple[Tensor, Tensor | None]:
    """Boxes (N, 4) and masks (N, H, W) bool in the pixels of the original picture.

    Args:
        found: the model's boxes, and perhaps masks (N, 1, h, w) as probabilities.
        working: (height, width) the model saw.
        original: (height, width) of the picture.
    """
    scale = torch.tensor([original[1] / working[1], original[0] / working[0]]).repeat(2)
    boxes = found["boxes"] * scale
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, original[1])
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, original[0])
    if "masks" not in found:
        return boxes, None
    masks = found["masks"]
    if masks.shape[-2:] == working:
        if working != original:
            masks = torch.nn.functional.interpolate(masks, size=original, mode="bilinear", align_corners=False)
    else:
        masks = paste_masks_in_image(masks, boxes, original)
    return boxes, masks[:, 0] > 0.5


def coco_results(
    found: dict[str, Tensor], boxes: Tensor, masks: Tensor | None, image_id: int, category_of: Sequence[int]
) -> list[Result]:
    """One image's detections as COCO results, best first; pixels to 1/1000, scores to 1/1000000."""
    xywh = boxes.double().numpy().copy()
    xywh[:, 2:] -= xywh[:, :2]
    rounded = xywh.round(3).tolist()
    scores = found["scores"].double().numpy().round(6).tolist()
    results: list[Result] = [
        {"image_id": image_id, "category_id": category_of[label], "bbox": box, "score": score}
        for label, box, score in zip(found["labels"].tolist(), rounded, scores, strict=True)
    ]
    for result, mask in zip(results, [] if masks is None else masks, strict=masks is not None):
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
    autocast: bool = False,
    between: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Every detection of a detector on images of a COCO table, in the order of the images.

    Args:
        model: on ``device``; set to evaluation mode.
        dataset: the images.
        device: where to compute.
        indices: which images; None: all.
        batch_size: images per forward pass.
        workers: loading processes; None: by device.
        min_score: weaker detections are left out.
        autocast: compute in bfloat16.
        between: called after each image; may raise to stop.
    """
    table: CocoTable = dataset.table
    category_of = table.category_of.tolist()
    chosen = range(len(table)) if indices is None else indices
    batches = image_batches(dataset, chosen, batch_size, loading_processes(workers, device), pin=device.type == "cuda")
    results: list[Result] = []
    for index, working, found in raw_detections(model, batches, device, autocast=autocast):
        strong = found["scores"] >= min_score
        kept = {key: value[strong] for key, value in found.items()}
        width, height = table.sizes[index].tolist()
        boxes, masks = in_original_pixels(kept, working, (height, width))
        results.extend(coco_results(kept, boxes, masks, int(table.image_ids[index]), category_of))
        between()
    # a class that this COCO file does not have cannot be scored against it
    return [result for result in results if result["category_id"]]
