"""Detectors and classifiers by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from torch import nn

from models.errors import DetectorError
from models.zoo import cascade, dense, rcnn, ssd, yolov3
from models.zoo.anchors import kmeans_anchors
from models.zoo.classifier import LISTED, classifier
from models.zoo.detector import ClassRows, Detector, Pretrained, is_classifier
from models.zoo.options import DetectorOptions
from models.zoo.table import ZooRow, class_tensors, rows_of
from models.zoo.transform import ImageTransform, resized_size
from models.zoo.yolov3 import darknet_order

__all__ = [
    "DETECTORS",
    "ClassRows",
    "Detector",
    "DetectorOptions",
    "ImageTransform",
    "Pretrained",
    "ZooRow",
    "build_detector",
    "class_tensors",
    "classifier_table",
    "darknet_order",
    "get_detector",
    "is_classifier",
    "kmeans_anchors",
    "resized_size",
    "resolve_options",
    "zoo_table",
]

DETECTORS: Mapping[str, Detector] = {
    detector.name: detector
    for detector in (*rcnn.ENTRIES, *cascade.ENTRIES, *dense.ENTRIES, *ssd.ENTRIES, *yolov3.ENTRIES)
}


def get_detector(name: str) -> Detector:
    """The zoo's entry of that name; ``timm://NAME`` and ``torchvision://NAME`` are classifiers.

    Raises:
        DetectorError: there is none; the message names the nearest.
    """
    if is_classifier(name):
        return classifier(name)
    if name in DETECTORS:
        return DETECTORS[name]
    near = get_close_matches(name, DETECTORS, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(DETECTORS)}"
    raise DetectorError(f"no detector is called {name!r}. {hint}")


def resolve_options(options: DetectorOptions, source: str | None = None, *, pretrained: bool = True) -> DetectorOptions:
    """Put the detector's own value in the place of every option that was left open.

    Args:
        options: as the recipe has them. Resolved options come out unchanged.
        source: the checkpoint that training begins with; the epsilon of frozen batch norm follows it.
        pretrained: False where training begins from random weights. Then an ``auto`` norm is live and all stages
            train, because frozen statistics of an untrained network normalise nothing.

    Raises:
        DetectorError: no such detector, or a value for an option that it does not have.

    Words for ``anchors`` mean the detector's own here: what a checkpoint or a dataset says about them is chosen by
    :func:`models.training.anchors.choose_anchors`.
    """
    detector = get_detector(options.name)
    given = {key: value for key, value in options if value is not None and key != "name"}
    if given["norm"] == "auto":
        del given["norm"]
    if isinstance(word := given.get("anchors"), str):
        if word != "default" and not detector.pairs:
            raise DetectorError(f"{options.name}: anchors {word!r} is for YOLOv3 alone; give sizes for each level")
        del given["anchors"]
    foreign = sorted(set(given) - set(detector.options))
    if foreign:
        raise DetectorError(f"{options.name} has no option {foreign[0]!r}. It has {', '.join(detector.options)}")
    own = dict(detector.options)
    if options.backbone is not None:
        own |= _normalisation(options.backbone)
    published = next((one for one in detector.pretrained if one.source == source), None)
    if published is not None and "norm_eps" in own:
        own["norm_eps"] = published.norm_eps
    if not pretrained:
        own |= {"trainable_layers": len(detector.stages)} | ({"norm": "batch"} if "norm" in own else {})
    resolved = DetectorOptions(**{"name": options.name, **own, **given})
    if (resolved.trainable_layers or 0) > len(detector.stages):
        raise DetectorError(f"{options.name}: trainable_layers {resolved.trainable_layers} of {len(detector.stages)}")
    return resolved


def _normalisation(backbone: str) -> dict[str, tuple[float, ...]]:
    """The mean and deviation that a timm backbone was trained with."""
    import timm  # noqa: PLC0415  seconds to import, and only some recipes want it

    trained = timm.get_pretrained_cfg(backbone.removeprefix("timm://"), allow_unregistered=True)
    return {"image_mean": trained.mean, "image_std": trained.std} if trained is not None else {}


def build_detector(options: DetectorOptions, num_classes: int) -> nn.Module:
    """Build a detector with torchvision's interface and untrained weights.

    In training ``model(images, targets)`` returns its losses by name; in evaluation ``model(images)`` returns per image
    ``boxes (N, 4)`` pixel xyxy, ``labels (N,)``, ``scores (N,)`` and, for mask detectors, ``masks (N, 1, H, W)``
    in 0..1. Images are ``(3, H, W)`` each, uint8 or float in 0..1.

    Args:
        options: see :func:`resolve_options`; open ones are resolved as for a pretrained checkpoint.
        num_classes: classes and the background.

    Raises:
        DetectorError: no such detector, or options that it cannot have.
    """
    if num_classes < 2:
        raise DetectorError(f"{options.name}: {num_classes} classes with the background; at least 2 are needed")
    resolved = resolve_options(options)
    return get_detector(options.name).build(num_classes, resolved)


def zoo_table() -> list[ZooRow]:
    """All detectors with published AP, parameters, weights and exclude fields, in the zoo's order."""
    return rows_of(DETECTORS.values())


def classifier_table() -> list[ZooRow]:
    """Some classifiers likewise; any other model of timm and torchvision can be had by name as well."""
    return rows_of(map(classifier, LISTED))
