"""A model as data: how to build it, and which of its tensors depend on the classes.

The class-dependent tensors stand beside the builder because three stages need them: the load plan (what may be
skipped, what can be remapped row by row), the freezing rules (what is the head) and the printed table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

Part = Literal["backbone", "neck", "head"]
Task = Literal["detection", "classification"]


CLASSIFIERS = ("timm://", "torchvision://")  # what their names begin with


def is_classifier(name: str) -> bool:
    """Whether this is the name of a classifier, and not of a detector."""
    return name.startswith(CLASSIFIERS)


@dataclass(frozen=True)
class ClassRows:
    r"""The layout of one family of class-dependent tensors along dimension 0.

    ``rows = groups * (fixed + per_class * len(classes))``, where ``classes`` counts the background when
    ``background`` is set (index 0, torchvision's convention). ``groups`` is what is left over: 1 for a class-major
    head, the number of anchors for RetinaNet, SSD (anchor-major ``[A, C]``) and YOLOv3 (``[A, 5 + C]``).

    Example: Faster R-CNN's ``bbox_pred`` is ``ClassRows(r"roi_heads\.box_predictor\.bbox_pred\.(weight|bias)",
    per_class=4)``; YOLOv3's output is ``ClassRows(r"yolo_output\.\d\.(weight|bias)", fixed=5, background=False)``.
    """

    pattern: str  # full match on a state-dict key
    per_class: int = 1
    fixed: int = 0  # rows of each group that no class owns, before the class rows
    background: bool = True

    def matches(self, key: str) -> bool:
        """Whether ``key`` is a tensor of this family."""
        return re.fullmatch(self.pattern, key) is not None


@dataclass(frozen=True)
class Pretrained:
    """A public checkpoint for a detector: where it is and what was published for it."""

    source: str  # anything `fetch` takes, e.g. "torchvision://FasterRCNN_ResNet50_FPN_Weights.COCO_V1"
    box_ap: float | None = None  # COCO val2017 box AP in percent
    mask_ap: float | None = None
    top1: float | None = None  # of a classifier: accuracy on ImageNet's validation images in percent
    norm_eps: float = 1e-5  # epsilon of the batch norm it was trained with; another one is another model


@dataclass(frozen=True)
class Detector:
    """One entry of the zoo.

    Attributes:
        name: what the config calls it.
        title: what a person calls it.
        build: ``(num_classes, resolved options) -> module``; ``num_classes`` counts the background. Loads no
            weights, and works under ``torch.device("meta")``. Callers use :func:`models.zoo.build_detector`.
        class_rows: every tensor whose shape depends on the number of classes, by family.
        fields: PaddleDetection's exclude fields for this model -> regular expression (full match) over our keys.
        parts: regular expressions (match at the start) -> part, first hit wins; the rest is "head".
        stages: regular expressions (match at the start) over the backbone's keys, one per stage, stem first; the
            last ``options.trainable_layers`` of them train.
        pretrained: public checkpoints, best first.
        masks: predicts instance masks.
        defaults: recipe values this model wants unless the config says otherwise (``learning_rate_per_image``, ...);
            ``cpu_bfloat16`` 0 where bfloat16 does not pay on a CPU.
        options: the options it has, with its own values; one that is not here cannot be given.
        task: what it does: find objects, or say what a whole picture shows.
    """

    name: str
    title: str
    build: Callable[[int, Any], nn.Module]
    class_rows: tuple[ClassRows, ...]
    fields: Mapping[str, str]
    parts: Sequence[tuple[str, Part]]
    stages: Sequence[str] = ()
    pretrained: tuple[Pretrained, ...] = ()
    masks: bool = False
    defaults: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    task: Task = "detection"

    @property
    def pairs(self) -> bool:
        """Whether its anchors are (width, height) pairs, as YOLOv3's are: shapes that a dataset can be asked for."""
        anchors = self.options.get("anchors") or ()
        return bool(anchors) and all(len(anchor) == 2 for anchor in anchors)

    def part_of(self, key: str) -> Part:
        """The part a state-dict key belongs to."""
        return next((part for pattern, part in self.parts if re.match(pattern, key)), "head")

    def rows_of(self, key: str) -> ClassRows | None:
        """The class layout of a state-dict key, or None where the classes do not matter."""
        return next((rows for rows in self.class_rows if rows.matches(key)), None)
