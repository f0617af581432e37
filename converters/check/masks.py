"""Geometry of rings and run lengths, safe on any numbers, before pycocotools sees them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.check.columns import as_integer
from converters.check.draft import Floats
from converters.geometry import encode_rings
from converters.masks import rle_area
from converters.records import Rle

Ring = Sequence[float]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
_CHUNK = 500_000  # points measured at once
_LONGEST = 512  # points up to which a ring is tested for crossings: the test is quadratic
_BUCKETS = np.array([4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512])
_PAIRS = 2_000_000  # pairs of edges tested at once
_LARGEST = 100_000  # pixels a side that are drawn on


@dataclass(frozen=True)
class Masks:
    """What the segmentations of a split's annotations cover; one row an annotation."""

    present: Bools  # (N,) there is a segmentation that can be used
    areas: Floats  # (N,) pixels, NaN where unknown
    boxes: Floats  # (N, 4) pixel xyxy, NaN where unknown


def measure(rings: Sequence[Ring]) -> tuple[Floats, Floats]:
    """Return the signed shoelace areas (R,) and the boxes (R, 4) xyxy of rings of at least three points."""
    areas, boxes = [np.empty(0)], [np.empty((0, 4))]
    for points, starts, counts in _chunks(rings):
        x, y = (points - np.repeat(points[starts], counts, axis=0)).T  # near the origin the products keep their digits
        areas.append(np.add.reduceat(_turns(x, y, starts, counts), starts) / 2)
        boxes.append(np.hstack([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)]))
    return np.concatenate(areas), np.concatenate(boxes)


def _chunks(rings: Sequence[Ring]) -> Iterator[tuple[Floats, Indices, Indices]]:
    """Points (P, 2) of many rings, one after another, and where each ring starts and how many points it has."""
    sizes = np.fromiter(map(len, rings), np.int64, len(rings)) // 2
    parts = np.searchsorted(np.cumsum(sizes), np.arange(_CHUNK, int(sizes.sum()) + _CHUNK, _CHUNK), side="right")
    edges = np.unique([0, *parts.tolist(), len(rings)]).tolist()
    for first, last in itertools.pairwise(edges):
        points = np.fromiter(itertools.chain.from_iterable(rings[first:last]), np.float64).reshape(-1, 2)
        counts = sizes[first:last]
        yield points, np.cumsum(counts) - counts, counts


def _turns(x: Floats, y: Floats, starts: Indices, counts: Indices) -> Floats:
    """For each point the cross product with the next one of its ring."""
    following = np.arange(1, len(x) + 1)
    following[starts + counts - 1] = starts
    return x * y[following] - x[following] * y


def _stars(rings: Sequence[Ring]) -> Bools:
    """Whether the mean of a ring's points sees all of it: then it goes around it one way, once, and crosses nothing."""
    found = [np.empty(0, bool)]
    for points, starts, counts in _chunks(rings):
        mean = np.add.reduceat(points, starts) / counts[:, None]
        x, y = (points - np.repeat(mean, counts, axis=0)).T
        turns = _turns(x, y, starts, counts)
        one_way = (np.minimum.reduceat(turns, starts) > 0) | (np.maximum.reduceat(turns, starts) < 0)
        before = np.roll(y, 1)
        before[starts] = y[starts + counts - 1]
        rises, falls = (before < 0) & (y >= 0), (before >= 0) & (y < 0)
        once = (np.add.reduceat(rises, starts, dtype=int) == 1) & (np.add.reduceat(falls, starts, dtype=int) == 1)
        found.append(one_way & once)
    return np.concatenate(found)


def crossings(rings: Sequence[Ring]) -> Bools:
    """Return for each ring whether two of its edges properly cross; (R,). Rings beyond 512 points are not tested."""
    found = np.zeros(len(rings), bool)
    sizes = np.fromiter(map(len, rings), np.int64, len(rings)) // 2
    padded = _BUCKETS[np.searchsorted(_BUCKETS[:-1], sizes)]
    tested = (sizes >= 4) & (sizes <= _LONGEST) & ~_stars(rings)
    for size in np.unique(padded[tested]).tolist():
        members = np.flatnonzero((padded == size) & tested)
        step = max(1, _PAIRS // size**2)
        for start in range(0, len(members), step):
            batch = members[start : start + step].tolist()
            found[batch] = _cross(_padded([rings[index] for index in batch], size))
    return found


def _padded(rings: list[Ring], size: int) -> Floats:
    """Rings as (B, size, 2), the last point repeated: edges without length cross nothing."""
    flat = np.fromiter(itertools.chain.from_iterable(rings), np.float64).reshape(-1, 2)
    counts = np.fromiter(map(len, rings), np.int64, len(rings)) // 2
    starts = np.cumsum(counts) - counts
    padded: Floats = flat[starts[:, None] + np.minimum(np.arange(size), counts[:, None] - 1)]
    return padded


def _cross(points: Floats) -> Bools:
    """Whether edges cross in each of (B, n, 2) rings: each edge's ends lie on both sides of the other's line."""
    x, y = points[..., 0], points[..., 1]
    dx, dy = np.roll(x, -1, axis=1) - x, np.roll(y, -1, axis=1) - y
    side = dx[:, :, None] * (y[:, None, :] - y[:, :, None]) - dy[:, :, None] * (x[:, None, :] - x[:, :, None])
    sign = np.sign(np.where(np.abs(side) < 1e-6, 0, side)).astype(np.int8)
    parted = sign * np.roll(sign, -1, axis=2) < 0
    return np.asarray((parted & parted.transpose(0, 2, 1)).any(axis=(1, 2)))


def raster(rings: Sequence[Ring], width: float, height: float) -> tuple[Rle | None, int]:
    """Return the union of rings as compressed run lengths, and its pixels; (None, 0) where it cannot be drawn."""
    if not (0 < width <= _LARGEST and 0 < height <= _LARGEST):
        return None, 0  # NaN too
    try:
        rle = encode_rings(tuple(map(tuple, rings)), int(width), int(height))
    except ValueError:  # an outline too long to follow
        return None, 0
    return rle, rle_area(rle)


def decode_counts(counts: Any, pixels: int) -> npt.NDArray[np.int64] | None:
    """Return the run lengths of a mask as integers, or None where they are not those of ``pixels`` pixels.

    Compressed counts are six bits a character, five of the value and one that says that more follow, the values
    differences to the run before the last (cocoapi, maskApi.c, rleFrString).
    """
    if isinstance(counts, list | tuple):
        if not set(map(type, counts)) <= {int} or not all(0 <= count <= pixels for count in counts):
            return None
        runs = np.array(counts, np.int64)
    else:
        decoded = _decompress(counts)
        if decoded is None:
            return None
        runs = decoded
    good = len(runs) > 0 and bool((runs >= 0).all()) and bool((runs <= pixels).all()) and int(runs.sum()) == pixels
    return runs if good else None


def _decompress(text: str) -> npt.NDArray[np.int64] | None:
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        return None
    last = np.flatnonzero((codes & 0x20) == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    if (last - first).max() > 6:  # more than 35 bits
        return None
    shift = 5 * (np.arange(len(codes)) - np.repeat(first, last - first + 1))
    values = np.add.reduceat((codes & 0x1F) << shift, first)
    values -= np.where(codes[last] & 0x10, 1 << (shift[last] + 5), 0)  # the sign
    for parity in (1, 2):  # the third run is the first difference
        values[parity::2] = np.cumsum(values[parity::2])
    return values


def runs_box(runs: npt.NDArray[np.int64], height: int) -> tuple[float, float, float, float]:
    """Return the box xyxy around column-major runs with at least one pixel set."""
    ends = np.cumsum(runs)
    starts, stops = (ends - runs)[1::2], ends[1::2] - 1
    filled = stops >= starts
    starts, stops = starts[filled], stops[filled]
    x0, x1 = int(starts.min()) // height, int(stops.max()) // height + 1
    if (starts // height != stops // height).any():
        return x0, 0, x1, height
    return x0, int((starts % height).min()), x1, int((stops % height).max()) + 1


def rle_size(rle: dict[str, Any]) -> tuple[int, int] | None:
    """Return the [height, width] of run lengths, or None where it is no size of an image."""
    size = rle.get("size")
    if not isinstance(size, list | tuple) or len(size) != 2:
        return None
    height, width = as_integer(size[0]), as_integer(size[1])
    if height is None or width is None or min(height, width) < 1 or height * width >= 2**40:
        return None
    return height, width


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the IoU of two xyxy boxes, 0 where one of them is NaN."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if not (w > 0 and h > 0):
        return 0.0
    share = w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)
    return share if share > 0 else 0.0  # min() and max() let NaN through or not, by its place
