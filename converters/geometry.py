"""Rings and boxes: areas, bounds, clipping, and the road from polygons to pixels.

Coordinates are those of :mod:`converters.records`: continuous, pixel ``i`` spans ``[i, i+1)``. A ring is flat,
``(x0, y0, x1, y1, ...)``, and closes itself. Whatever goes on to pycocotools is checked and clipped to the image
first: its C code allocates by coordinate and dies of a NaN, an infinity or a 1e9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import gt, mul, sub

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from converters.masks import check_size, rle_area, rle_box
from converters.records import Box, Polygons, Rle

MAX_COORDINATE = 1e6
"""Pixels. No image is as large; a coordinate beyond it is a mistake, and one that costs memory to draw."""

MAX_OUTLINE = 1e7
"""Pixels. pycocotools takes about a hundred bytes for each pixel of outline it draws."""

_ALL_PAIRS = 512  # vertices up to which every pair of edges is tried; longer rings are compared with their pixels
_SAME_AREA = 0.1  # relative difference between the shoelace and the pixels of a ring that is as good as simple


def check_ring(ring: Sequence[float]) -> None:
    """Raise ValueError unless a ring has at least three points, and only finite coordinates within 1e6 pixels."""
    if len(ring) < 6 or len(ring) % 2:
        raise ValueError(f"a ring needs at least 3 points, x and y of each; this one has {len(ring)} numbers")
    # A NaN may hide from min and max, but not from the sum.
    if not (min(ring) >= -MAX_COORDINATE and max(ring) <= MAX_COORDINATE and math.isfinite(sum(ring))):
        wild = next(value for value in ring if not -MAX_COORDINATE <= value <= MAX_COORDINATE)
        raise ValueError(f"the coordinate {wild!r} is not a number of pixels")


def ring_area(ring: Sequence[float]) -> float:
    """Return the area a ring encloses, by the shoelace formula; parts wound the other way count against it."""
    return abs(signed_area(ring))


def signed_area(ring: Sequence[float]) -> float:
    """Return the shoelace area, positive where the ring runs clockwise on the screen (y points down).

    Taken relative to the first vertex, so that a small ring far from the origin loses no digits.
    """
    if len(ring) < 6:
        return 0.0
    x0, y0 = ring[0], ring[1]
    xs = [x - x0 for x in ring[2::2]]
    ys = [y - y0 for y in ring[3::2]]
    twice: float = sum(map(mul, xs, ys[1:])) - sum(map(mul, xs[1:], ys))
    return 0.5 * twice


def ring_box(ring: Sequence[float]) -> Box:
    """Return the smallest box around a ring."""
    return min(ring[::2]), min(ring[1::2]), max(ring[::2]), max(ring[1::2])


def box_ring(box: Box) -> tuple[float, ...]:
    """Return the four corners of a box, clockwise on the screen from the top left."""
    left, top, right, bottom = box
    return (left, top, right, top, right, bottom, left, bottom)


def clip_ring(ring: Sequence[float], width: float, height: float) -> tuple[float, ...]:
    """Return the part of a ring inside the image; empty where nothing of positive area is left.

    Sutherland and Hodgman, "Reentrant polygon clipping" (1974): parts that the border separates stay joined by edges
    along it, which enclose nothing.
    """
    points = list(zip(ring[::2], ring[1::2], strict=True))
    for axis, side in enumerate((float(width), float(height))):
        points = _clip_half_plane(points, axis, 0.0, keep_above=True)
        points = _clip_half_plane(points, axis, side, keep_above=False)
    flat = tuple(value for point in points for value in point)
    return flat if len(points) > 2 and ring_area(flat) > 0 else ()


def _clip_half_plane(
    points: list[tuple[float, float]], axis: int, limit: float, keep_above: bool
) -> list[tuple[float, float]]:
    """Cut a ring at ``limit`` on one axis and keep the side named, the border included."""
    kept: list[tuple[float, float]] = []
    for a, b in pairwise([*points[-1:], *points]):
        a_in = a[axis] >= limit if keep_above else a[axis] <= limit
        b_in = b[axis] >= limit if keep_above else b[axis] <= limit
        if a_in != b_in:
            share = (limit - a[axis]) / (b[axis] - a[axis])
            other = a[1 - axis] + share * (b[1 - axis] - a[1 - axis])
            kept.append((limit, other) if axis == 0 else (other, limit))
        if b_in:
            kept.append(b)
    return kept


def segmentation_area(segmentation: Polygons | Rle, width: int, height: int) -> float:
    """Return the area of a segmentation in pixels.

    One simple ring: the shoelace area, fractional, as in COCO's own files. Several rings, or a ring that crosses itself
    so that the shoelace is far from what it covers: the pixels of their union inside the image. Run lengths: the
    number of object pixels.

    Raises:
        ValueError: a ring is too short, a coordinate is no number of pixels, or the image has no size.
    """
    if isinstance(segmentation, Mapping):
        return float(rle_area(segmentation))
    for ring in segmentation:
        check_ring(ring)
    if len(segmentation) != 1:
        return float(rle_area(encode_rings(segmentation, width, height))) if segmentation else 0.0
    return polygon_area(segmentation[0], width, height)


def polygon_area(ring: Sequence[float], width: int, height: int) -> float:
    """Return the area of one ring, by the rules of :func:`segmentation_area`; the ring has been checked."""
    star = _star_area(ring)
    if star is not None:
        return star
    shoelace = ring_area(ring)
    if _is_simple(ring):
        return shoelace
    pixels = rle_area(encode_rings((tuple(ring),), width, height))
    return float(pixels) if pixels and abs(shoelace - pixels) > _SAME_AREA * pixels else shoelace


def segmentation_box(segmentation: Polygons | Rle) -> Box:
    """Return the smallest box around a segmentation: of its points, or of its pixels (the last one included).

    Raises:
        ValueError: there is no ring, a ring is too short, or a coordinate is no number of pixels.
    """
    if isinstance(segmentation, Mapping):
        return rle_box(segmentation)
    if not segmentation:
        raise ValueError("a segmentation without a ring has no box")
    for ring in segmentation:
        check_ring(ring)
    lefts, tops, rights, bottoms = zip(*map(ring_box, segmentation), strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def encode_rings(rings: Polygons, width: int, height: int) -> Rle:
    """Return the run lengths of the union of rings, as pycocotools fills them, inside the image.

    Raises:
        ValueError: a ring is too short, a coordinate is no number of pixels, or the image has no size.
    """
    check_size(width, height)
    clipped = []
    for ring in rings:
        check_ring(ring)
        left, top, right, bottom = ring_box(ring)
        inside = left >= 0 and top >= 0 and right <= width and bottom <= height
        part = ring if inside else clip_ring(ring, width, height)
        if part:
            clipped.append(list(map(float, part)))
    if not clipped:
        clipped = [[0.0] * 6]  # encloses no pixel
    if sum(map(_perimeter, clipped)) > MAX_OUTLINE:
        raise ValueError(f"the outline is longer than {MAX_OUTLINE:.0e} pixels, too long to draw")
    merged = coco_mask.merge(coco_mask.frPyObjects(clipped, height, width))
    return {"size": [height, width], "counts": merged["counts"].decode("ascii")}


def _perimeter(ring: Sequence[float]) -> float:
    points = list(zip(ring[::2], ring[1::2], strict=True))
    return sum(math.dist(a, b) for a, b in pairwise([*points, points[0]]))


def is_simple(ring: Sequence[float]) -> bool:
    """Whether a ring is known to touch and cross itself nowhere; False for one too long to try every pair of edges."""
    return _star_area(ring) is not None or _is_simple(ring)


def _is_simple(ring: Sequence[float]) -> bool:
    points = np.array(ring, dtype=np.float64).reshape(-1, 2)
    return len(points) <= _ALL_PAIRS and not _touches_itself(points)


def _star_area(ring: Sequence[float]) -> float | None:
    """The area of a ring that the mean of its vertices sees the whole of, which makes it simple; else ``None``.

    Seen from there, such a ring turns one way, and once.
    """
    count = len(ring) // 2
    all_x, all_y = ring[::2], ring[1::2]
    mean_x, mean_y = sum(all_x) / count, sum(all_y) / count
    xs = [x - mean_x for x in all_x]
    ys = [y - mean_y for y in all_y]
    next_xs, next_ys = xs[1:] + xs[:1], ys[1:] + ys[:1]
    turns = list(map(sub, map(mul, xs, next_ys), map(mul, next_xs, ys)))
    if min(turns) <= 0 <= max(turns):
        return None
    below = [y < 0 for y in ys]
    once = sum(map(gt, below, below[1:] + below[:1])) == 1  # passes from above to below once
    return abs(sum(turns)) / 2 if once else None


def _touches_itself(points: NDArray[np.float64]) -> bool:
    """Whether two edges that are no neighbours share a point, tried on all pairs; ``(N, 2)``, memory N squared."""
    closed = np.concatenate([points, points[:1]])
    (x, y), (dx, dy) = points.T[:, :, None], (closed[1:] - points).T[:, :, None]
    # side[i, j]: on which side of edge i vertex j lies; edge j reaches across line i where its two ends differ.
    side = dx * (closed[:, 1] - y) - dy * (closed[:, 0] - x)
    across = side[:, :-1] * side[:, 1:] <= 0
    # Every edge meets itself and its two neighbours: there the product is exactly zero.
    return int(np.count_nonzero(across & across.T)) > 3 * len(points)
