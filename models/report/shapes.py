"""COCO segmentations as SVG paths."""

# mypy: untyped-calls-exclude=pycocotools
from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from models.outlines import outlines

FINE = 240  # columns of a run-length mask that are drawn; more cannot be told apart on the page


def mask_path(segmentation: Any, height: int, width: int) -> str:
    """A segmentation as the data of an SVG path in pixels of the image; empty where there is nothing to draw.

    Args:
        segmentation: flat polygons, or run lengths of an image of this size, compressed or not.
        height: of the image, pixels.
        width: likewise.
    """
    try:
        if isinstance(segmentation, dict):
            rings = _traced(segmentation, height, width)
        else:
            rings = [np.asarray(ring, np.float64).reshape(-1, 2).tolist() for ring in segmentation or []]
    except (TypeError, ValueError, KeyError):
        return ""
    return "".join("M" + "L".join(f"{x:.6g},{y:.6g}" for x, y in ring) + "Z" for ring in rings if len(ring) > 2)


def _traced(runs: dict[str, Any], height: int, width: int) -> list[list[list[float]]]:
    if list(runs["size"]) != [height, width]:
        return []
    if isinstance(runs["counts"], list):
        runs = coco_mask.frPyObjects(runs, height, width)
    step = max(1, width // FINE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # pycocotools under NumPy 2
        mask = coco_mask.decode(runs)[step // 2 :: step, step // 2 :: step]
    return [[[x * step, y * step] for x, y in ring] for ring in outlines(mask)]
