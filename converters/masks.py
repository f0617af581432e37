"""Pixels to COCO run lengths: from a mask, from a patch of one, and from a whole map of instances in one pass.

COCO's run lengths go down the columns (pixel ``(row, column)`` is number ``column * height + row``), alternate between
background and object, and start with background, zero pixels of it if need be. What stands here is bit for bit what
``pycocotools.mask.encode`` makes of the same mask.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from converters.records import Box, Rle

MAX_PIXELS = 2**31
"""More pixels than this overflow pycocotools' 32-bit run lengths."""


def encode_mask(mask: NDArray[Any]) -> Rle:
    """Return the run lengths of a mask ``(H, W)``; whatever is not zero is object.

    Raises:
        ValueError: the array is not two-dimensional or has no pixels.
    """
    if mask.ndim != 2:
        raise ValueError(f"a mask has two dimensions, not {mask.ndim}")
    height, width = mask.shape
    return encode_patch(mask, 0, 0, width, height)


def encode_patch(patch: NDArray[Any], left: int, top: int, width: int, height: int) -> Rle:
    """Return the run lengths of an image ``width`` x ``height`` that is empty but for ``patch``.

    The patch ``(h, w)`` lies with its first pixel at column ``left`` and row ``top``, which may be negative; what hangs
    over the image is cut off. The work is that of the patch, not of the image.

    Raises:
        ValueError: the image has no pixels, or too many to count.
    """
    check_size(width, height)
    inside = patch[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
    x, y = max(left, 0), max(top, 0)
    down = np.ascontiguousarray(inside.T, dtype=bool)  # (columns, rows): one column after another
    # A border of background ends every run within its column; runs that touch across columns are joined below.
    padded = np.zeros((down.shape[0], down.shape[1] + 2), dtype=np.int8)
    padded[:, 1:-1] = down
    steps = np.diff(padded, axis=1)
    column, start = np.nonzero(steps == 1)
    end = np.nonzero(steps == -1)[1]
    starts = (column + x) * height + start + y
    ends = (column + x) * height + end + y
    joined = starts[1:] == ends[:-1]
    starts = np.delete(starts, np.flatnonzero(joined) + 1)
    ends = np.delete(ends, np.flatnonzero(joined))
    return _compress(starts, ends, np.array([len(starts)]), width, height)[0]


def encode_instances(ids: NDArray[Any], wanted: Container[int] | None = None) -> dict[int, Rle]:
    """Return the run lengths of every instance of a map ``(H, W)`` of instance ids, by id in ascending order.

    One pass over the pixels, however many instances there are; ``wanted`` leaves out all other ids.

    Raises:
        ValueError: the map is not two-dimensional, or has no pixels, or too many to count.
    """
    if ids.ndim != 2:
        raise ValueError(f"a map of instances has two dimensions, not {ids.ndim}")
    height, width = ids.shape
    check_size(width, height)
    first = _run_starts(ids)
    last = np.append(first[1:], ids.size)
    values = ids[first % height, first // height]
    order = np.argsort(values, kind="stable")
    values = values[order]
    names, begins = np.unique(values, return_index=True)
    runs = np.diff(np.append(begins, len(values)))
    if wanted is not None:
        chosen = np.array([name in wanted for name in names.tolist()])
        order, names, runs = order[np.repeat(chosen, runs)], names[chosen], runs[chosen]
    rles = _compress(first[order], last[order], runs, width, height)
    return dict(zip(names.tolist(), rles, strict=True))


def _run_starts(ids: NDArray[Any]) -> NDArray[np.int64]:
    """Return where, counted down the columns, a run of one id begins; ascending.

    Changes are looked for along the rows, as the array lies in memory: to turn it around takes longer than all else.
    """
    height, width = ids.shape
    places = np.flatnonzero(ids[1:] != ids[:-1])
    inside = places % width * height + places // width + 1
    tops = np.flatnonzero(np.concatenate(([True], ids[0, 1:] != ids[-1, :-1]))) * height
    return np.sort(np.concatenate((tops, inside)))


def unite(rles: Sequence[Rle]) -> Rle:
    """Return the union of masks of one size."""
    merged = coco_mask.merge([_as_bytes(rle) for rle in rles])
    return {"size": [int(side) for side in merged["size"]], "counts": merged["counts"].decode("ascii")}


def rle_area(rle: Rle) -> int:
    """Return the number of object pixels."""
    return rle_areas([rle])[0]


def rle_areas(rles: Sequence[Rle]) -> list[int]:
    """Return the number of object pixels of each mask."""
    areas = coco_mask.area([_as_bytes(rle) for rle in rles])  # type: ignore[no-untyped-call]
    return [int(area) for area in areas]


def rle_box(rle: Rle) -> Box:
    """Return the smallest box around the object's pixels, ``(0, 0, 0, 0)`` of an empty mask."""
    return rle_boxes([rle])[0]


def rle_boxes(rles: Sequence[Rle]) -> list[Box]:
    """Return the smallest box around the pixels of each object."""
    boxes = coco_mask.toBbox([_as_bytes(rle) for rle in rles])  # type: ignore[no-untyped-call]
    return [(x, y, x + width, y + height) for x, y, width, height in boxes.reshape(-1, 4).tolist()]


def check_size(width: int, height: int) -> None:
    """Raise ValueError unless an image of this size exists and its pixels can be counted in run lengths."""
    if width < 1 or height < 1:
        raise ValueError(f"an image of {width} x {height} has no pixels")
    if width * height >= MAX_PIXELS:
        raise ValueError(f"an image of {width} x {height} has more pixels than COCO run lengths can count")


def read_counts(counts: str | bytes) -> NDArray[np.int64]:
    """Return the run lengths of a compressed string, in the encoding of ``rleToString`` in cocoapi's maskApi.c.

    Raises:
        ValueError: the string holds other characters, stops in the middle of a number, or has one beyond 35 bits.
    """
    encoded = counts.encode() if isinstance(counts, str) else counts
    digits = np.frombuffer(encoded, dtype=np.uint8).astype(np.int64) - 48
    if digits.size == 0:
        return digits
    if digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise ValueError("not the run lengths of a mask")
    lengths: list[int] = []
    value = shift = 0
    for digit in digits.tolist():
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            if shift > 30:  # seven groups of five bits hold any 32-bit length
                raise ValueError("not the run lengths of a mask")
            continue
        if digit & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return np.array(lengths, dtype=np.int64)


def _as_bytes(rle: Mapping[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts.encode("ascii") if isinstance(counts, str) else counts}


def _compress(
    starts: NDArray[np.int64], ends: NDArray[np.int64], runs: NDArray[np.int64], width: int, height: int
) -> list[Rle]:
    """Write the strings of several masks at once.

    Args:
        starts: first pixel of each run of object, the masks one after another, ascending within each.
        ends: the pixel after each run.
        runs: how many runs each mask has.
        width: of the image, pixels.
        height: of the image, pixels.
    """
    if not len(runs):
        return []
    pixels = width * height
    offsets = np.cumsum(runs) - runs  # of each mask's first run
    previous = np.empty_like(starts)
    previous[1:] = ends[:-1]
    previous[offsets[runs > 0]] = 0
    pairs = np.stack([starts - previous, ends - starts], axis=1).reshape(-1)  # background, object, background, ...
    tails = pixels - np.where(runs > 0, ends[np.minimum(offsets + runs, len(ends)) - 1] if len(ends) else 0, 0)
    counts = np.insert(pairs, 2 * (offsets + runs), tails)
    sizes = 2 * runs + 1
    keep = np.ones(len(counts), dtype=bool)
    keep[np.cumsum(sizes) - 1] = tails > 0
    counts, sizes = counts[keep], sizes - (tails == 0)
    text, widths = _write_counts(counts, sizes)
    ends_of_text = np.cumsum(widths)[np.cumsum(sizes) - 1]
    begins = [0, *ends_of_text[:-1].tolist()]
    size = [height, width]
    return [
        {"size": list(size), "counts": text[a:b].decode("ascii")}
        for a, b in zip(begins, ends_of_text.tolist(), strict=True)
    ]


def _write_counts(counts: NDArray[np.int64], sizes: NDArray[np.int64]) -> tuple[bytes, NDArray[np.int64]]:
    """Return the text of run lengths, and how many characters each took (``rleToString`` of cocoapi's maskApi.c).

    From the fourth length of a mask on, the difference to the last but one is written; each number goes out in groups
    of five bits from the lowest, with bit 5 set while more follow, as the character of that value plus 48.
    """
    place = np.arange(len(counts)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    values = counts.copy()
    values[2:] -= np.where(place[2:] > 2, counts[:-2], 0)
    groups, used = [], []
    going = np.ones(len(values), dtype=bool)
    while going.any():
        low = values & 31
        values = values >> 5
        more = np.where(low & 16, values != -1, values != 0)
        groups.append((low + 32 * more + 48).astype(np.uint8))
        used.append(going)
        going = going & more
    taken = np.stack(used, axis=1)
    return np.stack(groups, axis=1)[taken].tobytes(), taken.sum(axis=1)
