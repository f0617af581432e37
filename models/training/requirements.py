"""What a run refuses before it begins: data to learn nothing from, options that do not belong together."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from models.training.assemble import Assembled
from models.training.coco import CocoTable, load_coco
from models.training.evaluation import has_outlines
from models.training.options import ACCURACIES, DetectionData, TrainOptions
from models.training.transforms import AREAS, FOR_BOXES
from models.zoo import Detector


def require_objects(table: CocoTable, train: DetectionData) -> None:
    """Refuse a set that nothing can be learned from."""
    if not len(table):
        raise ValueError(f"{train.coco}: no images to train on")
    if not len(table.labels):
        raise ValueError(f"{train.coco}: {len(table)} images and not one object in them")


def require_fitting(options: TrainOptions, detector: Detector) -> None:
    """Refuse augmentations that the task has no use for: they would do nothing without a word."""
    names = set(options.augmentations(detector))
    if detector.task == "detection":
        foreign, remedy = names & set(AREAS), "Leave it out; iou_crop cuts and keeps the boxes"
    else:
        foreign, remedy = names & FOR_BOXES, f"Leave it out; {' and '.join(AREAS)} cut a classifier's pictures"
        if options.mosaic or options.mixup:
            raise ValueError(
                "train.mosaic and train.mixup are for detectors. Leave them out; detector.mixup and detector.cutmix "
                "mix a classifier's pictures"
            )
    if foreign:
        raise ValueError(f"augment {min(foreign)} is not for {detector.task}. {remedy}")


def require_metric(options: TrainOptions, assembled: Assembled, val: DetectionData | None) -> None:
    """Refuse a choice of the best that the evaluation cannot make."""
    metric, classifies = options.metric(assembled.detector), assembled.detector.task == "classification"
    if classifies != (metric in ACCURACIES):
        raise ValueError(
            f"best_by {metric}: {assembled.meta.detector} has {'top1' if classifies else 'bbox/AP'} instead"
        )
    if val is None or classifies or metric.startswith("bbox/"):
        return
    if not assembled.detector.masks:
        raise ValueError(f"best_by {options.best_by}: {assembled.meta.detector} predicts no masks. Use bbox/AP")
    if not has_outlines(load_coco(val.coco)):
        raise ValueError(f"best_by {options.best_by}: {val.coco} has objects without segmentation. Use bbox/AP")


def require_batch(options: TrainOptions, assembled: Assembled) -> None:
    """Refuse single images where a live batch norm sees a map of one pixel (SSDlite's last): they have no variance."""
    model = assembled.model
    live = any(isinstance(module, _BatchNorm) for module in model.modules())
    if options.batch_size > 1 or not live or assembled.detector.task != "detection":
        return
    probe = deepcopy(model).cpu().train()  # its statistics are spoiled by what it sees
    image = torch.zeros(3, *assembled.size.of(480, 640), dtype=torch.uint8)
    target = {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64), "masks": torch.empty(0, 1, 1)}
    try:
        with torch.random.fork_rng(), torch.no_grad():
            probe([image], [target])
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"train.batch_size 1: {assembled.meta.detector} has live batch norms over maps of one pixel, which have no "
            "variance over one image. Use train.batch_size=2 or more (with train.accumulate for larger steps), or "
            "detector.norm=frozen with pretrained weights"
        ) from None
