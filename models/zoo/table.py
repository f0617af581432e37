"""The zoo as tables: what `annotune models` prints and what stands in the README."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from models.zoo.detector import Detector
from models.zoo.options import DetectorOptions


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


def rows_of(detectors: Iterable[Detector]) -> list[ZooRow]:
    """A row for each model; it is built, without memory, to count its parameters."""
    rows = []
    for detector in detectors:
        labels = 1001 if detector.task == "classification" else 91
        with torch.device("meta"):
            model = detector.build(labels, DetectorOptions(**{"name": detector.name, **detector.options}))
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
