"""The figures of a dataset: what the page draws and the JSON report keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from converters.check.draft import Draft

SIDES = (0, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)  # pixels: square root of the box area
ASPECTS = (0, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 1.25, 1.5, 2, 3, 5, 10)  # width by height
OBJECTS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200)  # in an image
GRID = 24  # cells a side of the map of centres


@dataclass(frozen=True)
class Statistics:
    """Counts by split; the last bin of each histogram is open."""

    images: Mapping[str, int] = field(default_factory=dict)
    annotations: Mapping[str, int] = field(default_factory=dict)
    negatives: Mapping[str, int] = field(default_factory=dict)  # images without annotations
    crowds: Mapping[str, int] = field(default_factory=dict)
    masks: Mapping[str, int] = field(default_factory=dict)  # annotations with a segmentation
    classes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # split -> name -> annotations
    sides: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # by SIDES
    aspects: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # by ASPECTS
    objects: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # by OBJECTS
    scales: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)  # small, medium, large as COCOeval's
    sizes: tuple[tuple[int, int, int], ...] = ()  # width, height, images: the most frequent first
    centres: tuple[tuple[int, ...], ...] = ()  # GRID rows of GRID cells, of the image's own width and height

    def to_json(self) -> dict[str, Any]:
        """Return the figures and the bins as JSON values."""
        return {**asdict(self), "bins": {"sides": SIDES, "aspects": ASPECTS, "objects": OBJECTS}}


def statistics_of(drafts: Sequence[Draft], classes: Mapping[str, Mapping[str, int]]) -> Statistics:
    """Count what is in the splits as they stand after the check."""
    tables = {draft.name: _counts(draft) for draft in drafts}
    sizes: Counter[tuple[int, int]] = Counter()
    for draft in drafts:
        known = draft.image_sizes()
        sizes.update((int(w), int(h)) for w, h in known[~np.isnan(known[:, 0])].tolist())
    frequent = sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0]))[:50]
    columns = {key: {name: table[key] for name, table in tables.items()} for key in _KEYS}
    centres = sum((table["centres"] for table in tables.values()), np.zeros((GRID, GRID), np.int64))
    return Statistics(
        **columns,
        classes={name: dict(counts) for name, counts in classes.items()},
        sizes=tuple((w, h, count) for (w, h), count in frequent),
        centres=tuple(tuple(row) for row in centres.tolist()),
    )


_KEYS = ("images", "annotations", "negatives", "crowds", "masks", "sides", "aspects", "objects", "scales")


def _counts(draft: Draft) -> dict[str, Any]:
    boxes, rows = draft.boxes(), draft.image_rows()
    canvas = draft.canvas()
    good = (boxes[:, 2:] > 0).all(axis=1)
    area = boxes[good, 2:].prod(axis=1)
    per_image = np.bincount(rows[rows >= 0], minlength=len(draft.images))
    place = (boxes[:, :2] + boxes[:, 2:] / 2) / canvas * GRID
    inside = good & (place >= 0).all(axis=1) & (place <= GRID).all(axis=1)
    centres = np.zeros((GRID, GRID), np.int64)
    cells = np.minimum(place[inside].astype(np.int64), GRID - 1)
    np.add.at(centres, (cells[:, 1], cells[:, 0]), 1)
    return {
        "images": len(draft.images),
        "annotations": len(draft.annotations),
        "negatives": int((per_image == 0).sum()),
        "crowds": sum(1 for value in draft.ids("annotations", "iscrowd") if value == 1),
        "masks": sum(1 for value in draft.column("annotations", "segmentation") if value),
        "sides": _histogram(np.sqrt(area), SIDES),
        "aspects": _histogram(boxes[good, 2] / boxes[good, 3], ASPECTS),
        "objects": _histogram(per_image, OBJECTS),
        "scales": _histogram(area, (0, 32**2, 96**2)),
        "centres": centres,
    }


def _histogram(values: Any, edges: Sequence[float]) -> tuple[int, ...]:
    """How many values lie in [edge, next edge); the last bin is open."""
    bins = np.searchsorted(edges, values, side="right") - 1
    counts = np.bincount(np.maximum(bins, 0), minlength=len(edges)) if len(values) else np.zeros(len(edges), int)
    return tuple(counts.tolist())
