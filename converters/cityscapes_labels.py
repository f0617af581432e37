"""The classes of Cityscapes: names, ids and groups as in ``helpers/labels.py`` of cityscapesScripts."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

Classes: TypeAlias = Literal["things", "instances", "all"]
"""``things``: the eight classes that the benchmark evaluates as instances; ``instances``: caravan and trailer, too;
``all``: every class but those of category ``void``, the rest of the scene as one crowd region per class and image."""


class Label(NamedTuple):
    """One class."""

    name: str
    number: int  # its value in ``labelIds.png``; -1 is never painted
    group: str  # Cityscapes calls it category; COCO's supercategory
    has_instances: bool = False
    ignored: bool = False  # left out of the benchmark's evaluation


LABELS = (
    Label("unlabeled", 0, "void", ignored=True),
    Label("ego vehicle", 1, "void", ignored=True),
    Label("rectification border", 2, "void", ignored=True),
    Label("out of roi", 3, "void", ignored=True),
    Label("static", 4, "void", ignored=True),
    Label("dynamic", 5, "void", ignored=True),
    Label("ground", 6, "void", ignored=True),
    Label("road", 7, "flat"),
    Label("sidewalk", 8, "flat"),
    Label("parking", 9, "flat", ignored=True),
    Label("rail track", 10, "flat", ignored=True),
    Label("building", 11, "construction"),
    Label("wall", 12, "construction"),
    Label("fence", 13, "construction"),
    Label("guard rail", 14, "construction", ignored=True),
    Label("bridge", 15, "construction", ignored=True),
    Label("tunnel", 16, "construction", ignored=True),
    Label("pole", 17, "object"),
    Label("polegroup", 18, "object", ignored=True),
    Label("traffic light", 19, "object"),
    Label("traffic sign", 20, "object"),
    Label("vegetation", 21, "nature"),
    Label("terrain", 22, "nature"),
    Label("sky", 23, "sky"),
    Label("person", 24, "human", has_instances=True),
    Label("rider", 25, "human", has_instances=True),
    Label("car", 26, "vehicle", has_instances=True),
    Label("truck", 27, "vehicle", has_instances=True),
    Label("bus", 28, "vehicle", has_instances=True),
    Label("caravan", 29, "vehicle", has_instances=True, ignored=True),
    Label("trailer", 30, "vehicle", has_instances=True, ignored=True),
    Label("train", 31, "vehicle", has_instances=True),
    Label("motorcycle", 32, "vehicle", has_instances=True),
    Label("bicycle", 33, "vehicle", has_instances=True),
    Label("license plate", -1, "vehicle", ignored=True),
)

BY_NAME = {label.name: label for label in LABELS}
BY_NUMBER = {label.number: label for label in LABELS}


def chosen_labels(classes: Classes) -> list[Label]:
    """The classes that make objects, in the order of their numbers."""
    if classes == "all":
        return [label for label in LABELS if label.group != "void" and label.number > 0]
    return [label for label in LABELS if label.has_instances and not (label.ignored and classes == "things")]


def cityscapes_categories(
    classes: Classes = "things", *, ids: Literal["count", "labels"] = "count"
) -> list[dict[str, Any]]:
    """Return the COCO categories in the order of Cityscapes' label ids, the same for every split.

    Args:
        classes: which classes, as for :func:`converters.cityscapes.read_cityscapes`.
        ids: ``count`` from 1 without gaps, as most trainers want them, or the ``labels`` ids (24..33 for things),
            as mmdetection's converter writes them.
    """
    return [
        {"id": label.number if ids == "labels" else count, "name": label.name, "supercategory": label.group}
        for count, label in enumerate(chosen_labels(classes), 1)
    ]
