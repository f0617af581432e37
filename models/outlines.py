"""The edges of a mask as polygons, for programs that draw and edit polygons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def outlines(mask: Array) -> list[list[list[float]]]:
    """The outer edges of a mask (H, W) as polygons of (x, y) in pixels; parts of less than 4 pixels are left out.

    The edge runs along pixel borders, so that filling the polygon gives the mask back; holes are filled.
    """
    pixels = np.pad(mask.astype(bool), 1)
    rings = [ring for ring in _borders(pixels) if _area(ring) >= 4]
    return [[[float(x - 1), float(y - 1)] for x, y in ring] for ring in rings]


def _borders(pixels: Array) -> Iterator[list[tuple[int, int]]]:
    """Closed walks along pixel borders with the inside on the right, corners only."""
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(edges: Any, start: tuple[int, int], end: tuple[int, int]) -> None:
        for y, x in zip(*(axis.tolist() for axis in edges), strict=True):
            steps.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))

    inside, outside = pixels, ~pixels
    add(np.nonzero(inside[1:] & outside[:-1]), (0, 1), (1, 1))  # top of a pixel: rightwards
    add(np.nonzero(inside[:-1] & outside[1:]), (1, 1), (0, 1))  # bottom: leftwards
    add(np.nonzero(inside[:, 1:] & outside[:, :-1]), (1, 1), (1, 0))  # left: upwards
    add(np.nonzero(inside[:, :-1] & outside[:, 1:]), (1, 0), (1, 1))  # right: downwards
    while steps:
        start = min(steps)
        ring, here, before = [start], _take(steps, start, None), start
        while here != start:
            ahead = _take(steps, here, (here[0] - before[0], here[1] - before[1]))
            if (ahead[0] - here[0], ahead[1] - here[1]) != (here[0] - before[0], here[1] - before[1]):
                ring.append(here)
            before, here = here, ahead
        yield ring


def _take(
    steps: dict[tuple[int, int], list[tuple[int, int]]], at: tuple[int, int], heading: tuple[int, int] | None
) -> tuple[int, int]:
    """Take one step from here; where two pixels touch at a corner turn right, which keeps them apart."""
    ways = steps[at]
    if len(ways) > 1 and heading is not None:
        right = (at[0] - heading[1], at[1] + heading[0])
        way = ways.pop(ways.index(right))
    else:
        way = ways.pop()
    if not ways:
        del steps[at]
    return way


def _area(ring: list[tuple[int, int]]) -> float:
    """Twice-signed area halved: positive for outer edges (clockwise on the screen), negative for holes."""
    turned = [*ring[1:], ring[0]]
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, turned, strict=True)) / 2
