"""YOLOv3's anchors for a checkpoint and a dataset, and how many of the boxes they can reach at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import DetectorError
from models.training.coco import CocoTable
from models.weights.containers import Checkpoint
from models.zoo import DetectorOptions, get_detector, kmeans_anchors, resized_size
from models.zoo.anchors import best_possible_recall

ENOUGH = 0.98  # best possible recall from which anchors are left as they are (ultralytics' autoanchor has the same)


def choose_anchors(
    options: DetectorOptions, wanted: Any, checkpoint: Checkpoint | None, table: CocoTable | None
) -> tuple[DetectorOptions, str]:
    """Put anchors in the place of the words ``checkpoint`` and ``auto``; other options come back as they are.

    ``auto`` takes the checkpoint's where it names its own, for a head that was trained with them; else the default ones
    where their best possible recall on the training boxes is 0.98 or more; else those of k-means, if they are better.

    Args:
        options: resolved, with the detector's own anchors.
        wanted: what the recipe says.
        checkpoint: the pretrained weights.
        table: the training set, for ``auto``.

    Returns:
        The options, and in words what was chosen and why; empty where nothing was to be chosen.

    Raises:
        DetectorError: ``checkpoint``, and it names no anchors.
    """
    if wanted not in ("auto", "checkpoint"):
        return options, ""
    named = _anchors_of(checkpoint)
    if named is not None:
        return options.model_copy(update={"anchors": named}), "those of the checkpoint"
    if wanted == "checkpoint":
        raise DetectorError(
            f"{options.name}: anchors 'checkpoint', but the weights do not name any. "
            "Use auto, default, or nine pairs of width and height"
        )
    assert table is not None, "auto needs the training set"
    sizes = box_sizes(table, options)
    default = best_possible_recall(sizes, options.anchors)
    if default >= ENOUGH:
        return options, f"the default ones, best possible recall {default:.3f}"
    try:
        fitted, recall = kmeans_anchors(sizes)
    except ValueError as error:
        return options, f"the default ones, best possible recall {default:.3f}, because k-means has {error}"
    if recall <= default:
        return options, f"the default ones, best possible recall {default:.3f}, by k-means {recall:.3f}"
    told = f"by k-means on {len(sizes)} boxes, best possible recall {recall:.3f}, of the default ones {default:.3f}"
    return options.model_copy(update={"anchors": fitted}), told


def _anchors_of(checkpoint: Checkpoint | None) -> tuple[tuple[float, ...], ...] | None:
    """The anchors that a checkpoint of ours was trained with; None of others."""
    meta = checkpoint.metadata.get("meta") if checkpoint else None
    options = meta.get("options") if isinstance(meta, dict) else None
    anchors = options.get("anchors") if isinstance(options, dict) else None
    if not anchors or any(len(anchor) != 2 for anchor in anchors):
        return None
    return tuple(tuple(float(side) for side in anchor) for anchor in anchors)


def box_sizes(table: CocoTable, options: DetectorOptions) -> NDArray[np.float64]:
    """Width and height of all objects of a set ``(M, 2)``, in pixels of the resized images; crowds are none."""
    resized = [resized_size(options, height, width)[::-1] for width, height in table.sizes.tolist()]
    scales = np.array(resized, np.float64).reshape(-1, 2) / table.sizes
    image = np.repeat(np.arange(len(table)), np.diff(table.starts))
    sizes = (table.boxes[:, 2:] - table.boxes[:, :2]) * scales[image]
    return np.asarray(sizes[~table.crowds], np.float64)


def anchor_recall(table: CocoTable, options: DetectorOptions) -> float | None:
    """Best possible recall of a detector's anchors on a set; None of detectors whose anchors are no pairs."""
    if not get_detector(options.name).pairs:
        return None
    return best_possible_recall(box_sizes(table, options), options.anchors)
