"""Anchors from the dataset: k-means over box sizes with IoU for a distance."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def kmeans_anchors(
    boxes_wh: np.ndarray[Any, np.dtype[Any]], n: int = 9, seed: int = 0
) -> tuple[tuple[tuple[float, float], ...], float]:
    """Anchors that fit the boxes of a dataset, as YOLOv2 finds them (https://arxiv.org/abs/1612.08242, section 2).

    Args:
        boxes_wh: (N, 2) width and height, in pixels of the resized images.
        n: how many anchors.
        seed: of the first choice; the same seed gives the same anchors.

    Returns:
        The anchors (width, height), small to large by area, and their best possible recall.

    Raises:
        ValueError: fewer boxes of different sizes than anchors.
    """
    sizes = np.asarray(boxes_wh, np.float64).reshape(-1, 2)
    sizes = sizes[(sizes > 0).all(1)]
    distinct = np.unique(sizes, axis=0)
    if len(distinct) < n:
        raise ValueError(f"{n} anchors from {len(distinct)} boxes of different sizes; give more boxes or fewer anchors")
    anchors = _spread(distinct, n, np.random.default_rng(seed))
    for _ in range(300):
        nearest = size_iou(sizes, anchors).argmax(1)
        # The median rather than the mean: a few huge boxes must not pull an anchor away from the many.
        moved = np.array([np.median(sizes[nearest == k], 0) if (nearest == k).any() else anchors[k] for k in range(n)])
        if np.allclose(moved, anchors):
            break
        anchors = moved
    anchors = anchors[np.argsort(anchors.prod(1), kind="stable")].round(1)
    return tuple((float(w), float(h)) for w, h in anchors), best_possible_recall(sizes, anchors)


def best_possible_recall(boxes_wh: np.ndarray[Any, np.dtype[Any]], anchors: Any) -> float:
    """The share of boxes ``(N, 2)`` whose best anchor, put on the same centre, has an IoU of 0.5 or more; 1 of none.

    Args:
        boxes_wh: width and height, in pixels of the resized images.
        anchors: (K, 2) width and height.
    """
    sizes = np.asarray(boxes_wh, np.float64).reshape(-1, 2)
    fits = size_iou(sizes, np.asarray(anchors, np.float64)).max(1) >= 0.5
    return float(fits.mean()) if len(fits) else 1.0


def size_iou(sizes: Array, anchors: Array) -> Array:
    """IoU of boxes ``(N, 2)`` and anchors ``(K, 2)`` on one centre: ``(N, K)``."""
    shared = np.minimum(sizes[:, None], anchors[None]).prod(-1)
    overlap: Array = shared / (sizes.prod(-1)[:, None] + anchors.prod(-1)[None] - shared)
    return overlap


def _spread(sizes: Array, n: int, draw: np.random.Generator) -> Array:
    """The first choice: each further anchor is likely to be one that the others fit badly (k-means++)."""
    chosen = [sizes[draw.integers(len(sizes))]]
    while len(chosen) < n:
        distance = 1 - size_iou(sizes, np.array(chosen)).max(1)
        weight = np.maximum(distance, 0) ** 2 + 1e-12
        chosen.append(sizes[draw.choice(len(sizes), p=weight / weight.sum())])
    return np.array(chosen)
