"""What a run refuses before it begins: data to learn nothing from, options that do not belong together."""

from __future__ import annotations

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
