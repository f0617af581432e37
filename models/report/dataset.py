"""The figures of a dataset: how many images and instances, of which classes, how large."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from models.report.inputs import Run
from models.report.svg import histogram

SIZE_EDGES = (0, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)  # square root of the box area, pixels


@dataclass(frozen=True)
class Split:
    """One split in numbers."""

    name: str
    images: int
    empty: int  # images without an instance
    instances: int
    crowds: int
    per_class: Mapping[str, int]
    sides: Sequence[float]  # square root of each box's area, pixels
    small: int  # COCO's sizes: below 32 x 32 pixels, below 96 x 96, the rest
    medium: int
    large: int


@dataclass(frozen=True)
class ClassCount:
    """One class: instances per split, and their shares of the longest bar on the page."""

    name: str
    counts: Sequence[int]
    shares: Sequence[float]


def split_figures(name: str, coco: Mapping[str, Any]) -> Split:
    """Count what is in a COCO file; boxes that are not four numbers count as instances without a size."""
    names = {category.get("id"): str(category.get("name", "")) for category in coco["categories"]}
    annotations = coco["annotations"]
    sides = [math.sqrt(max(0.0, a["bbox"][2] * a["bbox"][3])) for a in annotations if len(a.get("bbox") or ()) == 4]
    counts = Counter(names.get(a.get("category_id"), "unknown category") for a in annotations)
    small = sum(side < 32 for side in sides)
    large = sum(side >= 96 for side in sides)
    return Split(
        name=name,
        images=len(coco["images"]),
        empty=len({image.get("id") for image in coco["images"]} - {a.get("image_id") for a in annotations}),
        instances=len(annotations),
        crowds=sum(bool(a.get("iscrowd")) for a in annotations),
        per_class={**dict.fromkeys(names.values(), 0), **counts},
        sides=sides,
        small=small,
        medium=len(sides) - small - large,
        large=large,
    )


def splits_of(run: Run) -> list[Split]:
    """The splits that the run has, training first, the evaluated one last."""
    others = (("training", run.train), ("validation", run.chosen_by))
    found = [split_figures(name, coco) for name, coco in others if coco["images"]]
    return [*found, split_figures(run.split, run.val)]


def class_counts(splits: Sequence[Split]) -> list[ClassCount]:
    """Instances per class, the most frequent first."""
    names = {name for split in splits for name in split.per_class}
    rows = [(name, [split.per_class.get(name, 0) for split in splits]) for name in names]
    longest = max((max(counts) for _, counts in rows), default=0) or 1
    rows.sort(key=lambda row: (-sum(row[1]), row[0]))
    return [ClassCount(name, counts, [count / longest for count in counts]) for name, counts in rows]


def size_chart(splits: Sequence[Split]) -> Markup:
    """How many boxes there are of which size; the last bin holds what is larger, too."""
    last = max((side for split in splits for side in split.sides), default=0)
    edges = SIZE_EDGES[: max(5, 1 + sum(edge < last for edge in SIZE_EDGES))]
    groups = [(split.name, _binned(split.sides, edges), number) for number, split in enumerate(splits, start=1)]
    return histogram(groups, edges, title="Box sizes", x_label="side of a square of the same area, pixels")


def _binned(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    counts = [0] * (len(edges) - 1)
    for value in values:
        index = next((i for i, edge in enumerate(edges[1:]) if value < edge), len(counts) - 1)
        counts[index] += 1
    return counts
