"""The zoo as tables: what `annotune models` prints and what stands in the README."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from models.zoo.detector import ClassRows, Detector
from models.zoo.options import DetectorOptions

LABELS = 91  # of COCO, with the background


@dataclass(frozen=True)
class ZooRow:
    """One detector or classifier.

    Attributes:
        name: what a recipe calls it.
        title: what a person calls it.
        box_ap: best published box AP on COCO val2017 in percent, None where nothing is published.
        mask_ap: likewise for masks.
        top1: best published accuracy of a classifier on ImageNet in percent, None where nothing is published.
        parameters: with COCO's 91 labels, of a classifier with ImageNet's 1,000 classes.
        weights: published checkpoints, best first.
        fields: the exclude fields of PaddleDetection that it understands.
    """

    name: str
    title: str
    box_ap: float | None
    mask_ap: float | None
    top1: float | None
    parameters: int
    weights: tuple[str, ...]
    fields: tuple[str, ...]


@dataclass(frozen=True)
class ClassTensor:
    """A tensor that depends on the classes, or that one of the exclude fields means.

    Attributes:
        key: in the state dict.
        rows: its size along dimension 0 in words, e.g. ``4 x (classes + 1)``; a number where the classes do not matter.
        fields: the exclude fields that drop it.
    """

    key: str
    rows: str
    fields: tuple[str, ...]


def class_tensors(detector: Detector) -> list[ClassTensor]:
    """What ``weights.exclude`` would drop of a model field by field, and what else depends on the classes."""
    found = []
    for key, tensor in _built(detector).state_dict().items():
        rows = detector.rows_of(key)
        fields = tuple(name for name, pattern in detector.fields.items() if re.fullmatch(pattern, key))
        if rows or fields:
            size = tensor.shape[0]
            found.append(ClassTensor(key, _in_words(rows, size) if rows else str(size), fields))
    return found


def _in_words(rows: ClassRows, size: int) -> str:
    count = LABELS if rows.background else LABELS - 1
    groups = size // (rows.fixed + rows.per_class * count)
    classes = "classes + 1" if rows.background else "classes"
    if rows.fixed:
        return f"{groups} x ({rows.fixed} + {classes})"
    factor = groups * rows.per_class
    return classes if factor == 1 else f"{factor} x ({classes})"


def _built(detector: Detector, labels: int = LABELS) -> nn.Module:
    """The model without memory."""
    with torch.device("meta"):
        return detector.build(labels, DetectorOptions(**{"name": detector.name, **detector.options}))


def rows_of(detectors: Iterable[Detector]) -> list[ZooRow]:
    """A row for each model; it is built, without memory, to count its parameters."""
    rows = []
    for detector in detectors:
        model = _built(detector, 1001 if detector.task == "classification" else LABELS)
        best = max(detector.pretrained, key=lambda one: one.box_ap or 0.0, default=None)
        rows.append(
            ZooRow(
                name=detector.name,
                title=detector.title,
                box_ap=best.box_ap if best else None,
                mask_ap=best.mask_ap if best else None,
                top1=max((one.top1 for one in detector.pretrained if one.top1), default=None),
                parameters=sum(parameter.numel() for parameter in model.parameters()),
                weights=tuple(one.source for one in detector.pretrained),
                fields=tuple(detector.fields),
            )
        )
    return rows
