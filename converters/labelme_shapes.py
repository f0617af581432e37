"""What the shapes of labelme cover: rings where they are polygons, pixels where they are not.

Circles, strokes and points are painted as labelme's own ``shape_to_mask`` paints them (Pillow, whole pixels), bitmaps
pasted as its ``shapes_to_label`` does (labelme 7.1, ``examples/utils.py``).
"""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from converters.geometry import MAX_COORDINATE, box_ring, clip_ring, encode_rings, ring_box
from converters.masks import encode_patch
from converters.records import Box, Rle

Ring: TypeAlias = tuple[float, ...]
Part: TypeAlias = Ring | Rle
"""A part of an instance, inside the image: a ring, or run lengths."""

STROKES = frozenset({"line", "linestrip", "point", "points"})
"""Shape types that mark a place and enclose nothing."""

_LINE_WIDTH = 10  # pixels, as in labelme's shape_to_mask
_POINT_RADIUS = 5
_POINTS = {"rectangle": (2, 4), "oriented_rectangle": (4,), "circle": (2,), "mask": (2,), "line": (2,), "point": (1,)}


class ShapeError(ValueError):
    """A shape that cannot be read; the message names the field and the value."""


def read_points(shape: dict[str, Any], kind: str) -> tuple[Ring, Box]:
    """Return the points of a shape as one flat ring ``(x0, y0, x1, y1, ...)``, and the box around them.

    Raises:
        ShapeError: not a list of pairs of numbers, a number beyond 1e6 pixels, or not as many points as the kind has.
    """
    points = shape.get("points")
    if not isinstance(points, list):
        raise ShapeError(f"points is {_brief(points)}, not a list")
    if not points:
        raise ShapeError("points is empty")
    try:
        lengths, flat = set(map(len, points)), list(chain.from_iterable(points))
    except TypeError:
        lengths, flat = set(), []
    types = set(map(type, flat))
    if lengths != {2} or not types <= {int, float}:
        raise ShapeError(f"points is {_brief(points)}, not a list of [x, y]")
    xs, ys = flat[::2], flat[1::2]
    left, top, right, bottom = box = (min(xs), min(ys), max(xs), max(ys))
    if min(left, top) < -MAX_COORDINATE or max(right, bottom) > MAX_COORDINATE:
        wild = next(v for v in flat if not -MAX_COORDINATE <= v <= MAX_COORDINATE)
        raise ShapeError(f"points holds {wild!r}, which is no number of pixels")
    allowed = _POINTS.get(kind)
    if allowed and len(points) not in allowed:
        raise ShapeError(f"a {kind} has {' or '.join(map(str, allowed))} points, not {len(points)}")
    if types == {float}:
        return tuple(flat), box
    return tuple(map(float, flat)), (float(left), float(top), float(right), float(bottom))


def cover(kind: str, ring: Ring, box: Box, shape: dict[str, Any], width: int, height: int) -> Part | None:
    """Return what a shape covers inside the image; ``None`` where that is nothing.

    Args:
        kind: the shape type, one of those labelme writes.
        ring: its points.
        box: around its points.
        shape: the shape, for the bitmap of a ``mask``.
        width: of the image, pixels.
        height: of the image, pixels.

    Raises:
        ShapeError: the bitmap cannot be read, or the outline is too long to draw.
    """
    if kind in {"polygon", "oriented_rectangle"}:
        return _inside(ring, box, width, height)
    if kind == "rectangle":
        return _inside(box_ring(box), box, width, height)
    if kind == "mask":
        return _paste(ring, shape, width, height)
    if kind == "circle":
        (center_x, center_y, edge_x, edge_y) = ring
        return _disc(center_x, center_y, math.hypot(center_x - edge_x, center_y - edge_y), width, height)
    return _strokes(kind, ring, width, height)


def as_rle(part: Part, width: int, height: int) -> Rle:
    """Return the pixels of a part."""
    return encode_rings((part,), width, height) if isinstance(part, tuple) else part


def _inside(ring: Ring, box: Box, width: int, height: int) -> Ring | None:
    if len(ring) < 6:
        return None
    left, top, right, bottom = box
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return ring
    return clip_ring(ring, width, height) or None


def _paste(ring: Ring, shape: dict[str, Any], width: int, height: int) -> Rle | None:
    """Paste a bitmap: integer bounds include their last pixel and crop it, fractional ones take its own extent."""
    bitmap = _bitmap(shape, width, height)
    left, top, right, bottom = (round(value) for value in ring)
    if all(value.is_integer() for value in ring):
        bitmap = bitmap[: max(0, bottom - top + 1), : max(0, right - left + 1)]
    return _encoded(bitmap, left, top, width, height)


def _bitmap(shape: dict[str, Any], width: int, height: int) -> NDArray[np.bool_]:
    text = shape.get("mask")
    if not isinstance(text, str):
        raise ShapeError(f"mask is {_brief(text)}, not a PNG in base64")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as image:
                if image.width * image.height > 4 * width * height + 2**16:
                    raise ShapeError(f"mask has {image.width} x {image.height} pixels, the image {width} x {height}")
                pixels = np.asarray(image)
    except ShapeError:
        raise
    except (OSError, SyntaxError, ValueError, ArithmeticError, Image.DecompressionBombError) as error:
        raise ShapeError(f"mask is no PNG in base64: {error}") from error
    if pixels.ndim != 2:
        raise ShapeError(f"mask is a PNG of {pixels.shape[2]} channels, not of one")
    return pixels > 0


def _disc(center_x: float, center_y: float, radius: float, width: int, height: int) -> Rle | None:
    if radius == 0:
        return None
    box = (center_x - radius, center_y - radius, center_x + radius, center_y + radius)

    def paint(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
        draw.ellipse((box[0] - x, box[1] - y, box[2] - x, box[3] - y), fill=1, outline=1)

    return _painted(paint, box, width, height)


def _strokes(kind: str, ring: Ring, width: int, height: int) -> Rle | None:
    points = list(zip(ring[::2], ring[1::2], strict=True))
    reach = _LINE_WIDTH + _POINT_RADIUS
    left, top, right, bottom = ring_box(ring)

    def paint(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
        moved = [(a - x, b - y) for a, b in points]
        if kind in {"line", "linestrip"}:
            draw.line(moved, fill=1, width=_LINE_WIDTH, joint="curve" if kind == "linestrip" else None)
            return
        r = _POINT_RADIUS
        for a, b in moved:
            draw.ellipse((a - r, b - r, a + r, b + r), fill=1, outline=1)

    return _painted(paint, (left - reach, top - reach, right + reach, bottom + reach), width, height)


def _painted(
    paint: Callable[[ImageDraw.ImageDraw, int, int], None], box: Sequence[float], width: int, height: int
) -> Rle | None:
    """Paint on a canvas as large as the part of ``box`` inside the image, and give the pixels their place there.

    The canvas never starts before the image does: Pillow cuts fractions off towards zero, so that moving a shape
    across zero would change its pixels.
    """
    left, top = max(0, math.floor(box[0]) - 1), max(0, math.floor(box[1]) - 1)
    right, bottom = min(width, math.ceil(box[2]) + 2), min(height, math.ceil(box[3]) + 2)
    if left >= right or top >= bottom:
        return None
    canvas = Image.new("L", (right - left, bottom - top))
    paint(ImageDraw.Draw(canvas), left, top)
    return _encoded(np.asarray(canvas), left, top, width, height)


def _encoded(patch: NDArray[Any], left: int, top: int, width: int, height: int) -> Rle | None:
    inside = patch[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
    return encode_patch(patch, left, top, width, height) if inside.any() else None


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
