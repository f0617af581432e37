"""Paper-cut shapes for the drawn scenes: each is a function from a random state to the parts it is glued from.

Shapes live in a box of about ``[-1, 1]`` with y pointing down, standing upright; :func:`cut` turns, scales and
rasterises them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Colour: TypeAlias = tuple[int, int, int]
Points: TypeAlias = NDArray[np.float64]  # (N, 2), x right, y down

SUPERSAMPLING = 3
WHITE: Colour = (250, 246, 236)
INK: Colour = (52, 48, 66)
WOOD: Colour = (128, 86, 58)
BRIGHT: tuple[Colour, ...] = (
    (226, 88, 74),
    (240, 160, 60),
    (246, 204, 88),
    (92, 164, 110),
    (64, 150, 170),
    (72, 104, 176),
    (150, 98, 172),
    (226, 124, 156),
    (238, 232, 218),
    (92, 84, 104),
)
GREENS: tuple[Colour, ...] = (
    (70, 128, 84),
    (108, 152, 78),
    (48, 104, 92),
    (150, 160, 70),
    (206, 128, 62),
    (186, 78, 66),
)


@dataclass(frozen=True)
class Part:
    """One piece of paper: its outline and colour. ``inner`` pieces colour what is there and never widen the shape."""

    points: Points
    fill: Colour
    inner: bool = False


@dataclass(frozen=True)
class Sprite:
    """A rasterised shape: ``rgb (H, W, 3)`` and ``alpha (H, W)``, both float in 0..1, cropped to the shape."""

    rgb: NDArray[np.float32]
    alpha: NDArray[np.float32]


def tint(colour: Colour, by: float) -> Colour:
    """Lighten (``by`` > 0, towards white) or darken (``by`` < 0, towards black) by a share of 0..1."""
    goal = 255 if by > 0 else 0
    red, green, blue = (round(c + (goal - c) * abs(by)) for c in colour)
    return red, green, blue


def two_colours(rng: Random, palette: Sequence[Colour] = BRIGHT) -> tuple[Colour, Colour]:
    """Two different colours, each a little off the palette."""
    first, second = rng.sample(list(palette), 2)
    return tint(first, rng.uniform(-0.15, 0.15)), tint(second, rng.uniform(-0.15, 0.15))


def polygon(*corners: tuple[float, float], soften: int = 0) -> Points:
    """A closed outline; ``soften`` rounds of Chaikin's corner cutting make it soft."""
    points = np.array(corners, dtype=np.float64)
    for _ in range(soften):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(-1, 2)
    return points


def ellipse(x: float, y: float, rx: float, ry: float | None = None, *, start: float = 0.0, stop: float = 1.0) -> Points:
    """An ellipse, or the part of it between two turns (0 is right, 0.25 is down)."""
    angles = np.linspace(start, stop, 40) * math.tau
    return np.stack([x + rx * np.cos(angles), y + (rx if ry is None else ry) * np.sin(angles)], 1)


def bar(start: tuple[float, float], end: tuple[float, float], width: float) -> Points:
    """A straight strip."""
    (x0, y0), (x1, y1) = start, end
    length = math.hypot(x1 - x0, y1 - y0)
    dx, dy = (y1 - y0) / length * width / 2, -(x1 - x0) / length * width / 2
    return polygon((x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy))


def box(x0: float, y0: float, x1: float, y1: float) -> Points:
    """An upright rectangle."""
    return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def boat(rng: Random) -> list[Part]:
    """A sailing boat: two sails, a mast, a striped hull."""
    hull, sail = two_colours(rng)
    tall, stern = rng.uniform(0.75, 1.0), rng.uniform(0.72, 0.95)
    parts = [
        Part(polygon((0.06, -tall), (0.06, 0.32), (0.86, 0.3), (0.62, -0.15), (0.3, -0.6 * tall)), sail),
        Part(polygon((-0.06, -0.85 * tall), (-0.06, 0.32), (-0.72, 0.32), (-0.42, -0.1)), tint(sail, 0.4)),
    ]
    if rng.random() < 0.6:
        parts.append(Part(box(0.06, rng.uniform(-0.2, 0.0), 1, 0.14), tint(hull, 0.2), inner=True))
    parts += [
        Part(bar((0, -tall - 0.08), (0, 0.45), 0.09), WOOD),
        Part(polygon((-stern, 0.42), (1.0, 0.36), (0.66, 0.86), (-0.62, 0.86)), hull),
        Part(box(-1, 0.54, 1.1, 0.64), WHITE, inner=True),
        Part(polygon((-stern, 0.42), (1.0, 0.36), (0.94, 0.46), (-0.9 * stern, 0.51)), tint(hull, -0.3), inner=True),
    ]
    return parts


def house(rng: Random) -> list[Part]:
    """A cottage: gabled roof, chimney, door and windows."""
    wall, roof = two_colours(rng)
    wall, wide, top = tint(wall, 0.4), rng.uniform(0.6, 0.85), rng.uniform(-0.3, -0.05)
    glass = rng.choice([(250, 214, 120), (150, 200, 222), (70, 84, 120)])
    side, peak = rng.choice([-1.0, 1.0]), rng.uniform(-1.0, -0.8)
    chimney = min(side * 0.3, side * 0.54)
    return [
        Part(box(chimney, peak + 0.05, chimney + 0.24, top), tint(roof, -0.35)),
        Part(box(-wide, top - 0.05, wide, 0.9), wall),
        Part(box(-wide, top - 0.05, wide, top + 0.1), tint(wall, -0.25), inner=True),
        Part(polygon((-wide - 0.18, top), (0, peak), (wide + 0.18, top)), roof),
        Part(polygon((0, peak), (wide + 0.18, top), (wide, top), (0, peak + 0.14)), tint(roof, -0.2), inner=True),
        Part(box(-side * 0.4 - 0.15, 0.32, -side * 0.4 + 0.15, 0.9), tint(roof, -0.3)),
        Part(box(side * 0.38 - 0.2, 0.26, side * 0.38 + 0.2, 0.62), WHITE),
        Part(box(side * 0.38 - 0.15, 0.31, side * 0.38 + 0.15, 0.57), glass),
        Part(ellipse(0, (peak + top) / 2 + 0.12, 0.13), WHITE),
        Part(ellipse(0, (peak + top) / 2 + 0.12, 0.09), glass),
    ]


def kite(rng: Random) -> list[Part]:
    """A diamond of four panels with a tail of bows."""
    first, second = two_colours(rng)
    wide, cross, sway = rng.uniform(0.5, 0.66), rng.uniform(-0.5, -0.35), rng.uniform(-0.2, 0.2)
    foot = (0.0, 0.3)
    tail = [(0.0, 0.3), (sway, 0.52), (-sway, 0.74), (sway, 0.95)]
    parts = [Part(bar(a, b, 0.055), INK) for a, b in pairwise(tail)]
    for x, y in tail[1:]:
        bow = polygon(
            (x, y), (x - 0.17, y - 0.1), (x - 0.17, y + 0.1), (x, y), (x + 0.17, y - 0.1), (x + 0.17, y + 0.1)
        )
        parts.append(Part(bow, rng.choice((first, second))))
    parts += [
        Part(polygon((0, -1), (-wide, cross), (0, cross)), first),
        Part(polygon((0, -1), (wide, cross), (0, cross)), second),
        Part(polygon(foot, (-wide, cross), (0, cross)), second),
        Part(polygon(foot, (wide, cross), (0, cross)), first),
        Part(bar((0, -1), foot, 0.045), WHITE, inner=True),
        Part(bar((-wide, cross), (wide, cross), 0.045), WHITE, inner=True),
    ]
    return parts


def tree(rng: Random) -> list[Part]:
    """A fir of three tiers, or a round crown with or without fruit."""
    green = tint(rng.choice(GREENS), rng.uniform(-0.15, 0.15))
    parts = [Part(polygon((-0.11, 0.2), (0.11, 0.2), (0.17, 0.98), (-0.17, 0.98)), WOOD)]
    if rng.random() < 0.5:
        for tier, (top, bottom, wide) in enumerate(((-0.1, 0.68, 0.72), (-0.55, 0.25, 0.58), (-1.0, -0.2, 0.42))):
            shape = polygon(
                (0, top), (wide, bottom), (wide * 0.4, bottom - 0.06), (-wide * 0.4, bottom - 0.06), (-wide, bottom)
            )
            parts.append(Part(shape, tint(green, 0.1 * tier)))
        return parts
    puffs = [
        (-0.36, 0.0, 0.38),
        (0.36, 0.02, 0.38),
        (-0.22, -0.42, 0.4),
        (0.25, -0.4, 0.4),
        (0, -0.64, 0.34),
        (0, -0.1, 0.44),
    ]
    parts += [Part(ellipse(x, y, r * rng.uniform(0.92, 1.08)), green) for x, y, r in puffs]
    parts += [Part(ellipse(x - 0.05, y - 0.06, r * 0.6), tint(green, 0.12), inner=True) for x, y, r in puffs[2:5]]
    if rng.random() < 0.5:
        fruit = rng.choice(BRIGHT[:3])
        spots = ((-0.4, 0.05), (0.1, -0.1), (0.42, -0.1), (-0.15, -0.5), (0.22, -0.55))
        parts += [Part(ellipse(x, y, 0.085), fruit, inner=True) for x, y in spots]
    return parts


def fish(rng: Random) -> list[Part]:
    """A round-bodied fish with stripes or a belly, facing right."""
    body, fin = two_colours(rng)
    deep = rng.uniform(0.4, 0.62)
    parts = [
        Part(polygon((-0.45, 0), (-1.0, -0.5), (-0.82, 0), (-1.0, 0.5), soften=2), fin),
        Part(polygon((-0.35, -0.25), (0.02, -deep - 0.34), (0.4, -0.25), soften=2), fin),
        Part(polygon((-0.1, 0.2), (-0.1, deep + 0.26), (0.3, 0.2), soften=2), fin),
        Part(
            polygon((-0.72, 0), (-0.2, -deep), (0.45, -deep), (1.0, 0.05), (0.45, deep), (-0.2, deep), soften=3), body
        ),
    ]
    if rng.random() < 0.55:
        parts += [Part(bar((x, -1), (x - 0.08, 1), 0.13), tint(fin, 0.25), inner=True) for x in (-0.32, 0.0, 0.3)]
    else:
        parts.append(Part(ellipse(0.1, deep * 0.95, 0.8, deep * 0.7), tint(body, 0.4), inner=True))
    parts += [
        Part(polygon((-0.05, 0.02), (-0.36, 0.3), (0.02, 0.28), soften=2), tint(fin, -0.15), inner=True),
        Part(ellipse(0.56, -0.1, 0.14), WHITE, inner=True),
        Part(ellipse(0.59, -0.1, 0.075), INK, inner=True),
    ]
    return parts


def balloon(rng: Random) -> list[Part]:
    """A hot-air balloon with coloured gores and a basket."""
    first, second = two_colours(rng)
    skin = polygon(
        (-0.3, -1),
        (0.3, -1),
        (0.78, -0.6),
        (0.72, -0.05),
        (0.22, 0.46),
        (-0.22, 0.46),
        (-0.72, -0.05),
        (-0.78, -0.6),
        soften=3,
    )
    parts = [
        Part(bar((-0.2, 0.4), (-0.15, 0.75), 0.05), WOOD),
        Part(bar((0.2, 0.4), (0.15, 0.75), 0.05), WOOD),
        Part(skin, first),
    ]
    for share in (0.78, 0.26):
        gore = skin * np.array([share, 1.0])
        parts.append(Part(gore, second if share > 0.5 else first, inner=True))
    if rng.random() < 0.5:
        parts.append(Part(box(-1, -0.36, 1, -0.2), WHITE, inner=True))
    parts += [
        Part(box(-0.24, 0.38, 0.24, 0.48), tint(second, -0.3), inner=True),
        Part(polygon((-0.24, 0.68), (0.24, 0.68), (0.18, 1.0), (-0.18, 1.0)), WOOD),
        Part(box(-0.26, 0.66, 0.26, 0.75), tint(WOOD, -0.3)),
    ]
    return parts


def mushroom(rng: Random) -> list[Part]:
    """A toadstool: a dotted cap over gills and a stout stem."""
    cap = tint(rng.choice(BRIGHT), rng.uniform(-0.15, 0.1))
    dot = WHITE if sum(cap) < 600 else tint(cap, -0.4)
    stout, low = rng.uniform(0.2, 0.32), rng.uniform(-0.05, 0.15)
    parts = [
        Part(polygon((-stout, 0), (stout, 0), (stout * 1.5, 0.95), (-stout * 1.5, 0.95), soften=1), (238, 226, 202)),
        Part(box(stout * 0.35, 0, 1, 1), (214, 196, 168), inner=True),
        Part(ellipse(0, low, 0.86, 0.2), (206, 178, 150)),
        Part(
            polygon(
                (-0.95, low + 0.06),
                (-0.8, -0.6),
                (0, -1.15),
                (0.8, -0.6),
                (0.95, low + 0.06),
                (0, low - 0.02),
                soften=2,
            ),
            cap,
        ),
    ]
    for x, y, r in (
        (-0.42, -0.32, 0.14),
        (0.06, -0.58, 0.17),
        (0.44, -0.2, 0.12),
        (-0.02, -0.16, 0.09),
        (0.66, -0.42, 0.08),
    ):
        parts.append(Part(ellipse(x + rng.uniform(-0.05, 0.05), y, r, r * 0.85), dot, inner=True))
    return parts


def rocket(rng: Random) -> list[Part]:
    """A rocket with fins, a porthole and a flame."""
    body, trim = two_colours(rng)
    body, slim = tint(body, 0.45), rng.uniform(0.28, 0.38)
    hull = polygon(
        (0, -1.12),
        (slim * 1.1, -0.5),
        (slim * 1.15, 0.1),
        (slim * 0.7, 0.58),
        (-slim * 0.7, 0.58),
        (-slim * 1.15, 0.1),
        (-slim * 1.1, -0.5),
        soften=2,
    )
    return [
        Part(polygon((-0.2, 0.5), (0.2, 0.5), (0.1, 0.8), (0, 1.05), (-0.1, 0.8), soften=1), (244, 150, 58)),
        Part(polygon((-0.1, 0.5), (0.1, 0.5), (0, 0.86)), (252, 222, 120), inner=True),
        Part(polygon((-slim * 0.8, 0.02), (-slim - 0.34, 0.72), (-slim * 0.5, 0.52)), trim),
        Part(polygon((slim * 0.8, 0.02), (slim + 0.34, 0.72), (slim * 0.5, 0.52)), trim),
        Part(hull, body),
        Part(box(-slim * 2, -1.2, slim * 2, -0.56), trim, inner=True),
        Part(box(-slim * 1.2, 0.36, slim * 1.2, 0.46), trim, inner=True),
        Part(ellipse(0, -0.18, slim * 0.62), INK),
        Part(ellipse(0, -0.18, slim * 0.44), (150, 206, 226)),
    ]


def cloud(rng: Random) -> list[Part]:
    """Clutter: a flat-bottomed cloud."""
    colour = tint(WHITE, -rng.uniform(0.0, 0.06))
    puffs = [(-0.6, 0.1, 0.3), (0.6, 0.12, 0.28), (-0.22, -0.1, 0.4), (0.25, -0.02, 0.36), (0, 0.16, 0.42)]
    parts = [Part(ellipse(x + rng.uniform(-0.1, 0.1), y, r), colour) for x, y, r in puffs]
    return [*parts, Part(box(-0.7, 0.14, 0.7, 0.4), colour)]


def bush(rng: Random) -> list[Part]:
    """Clutter: a low bush, sometimes in flower."""
    green = tint(rng.choice(GREENS[:4]), rng.uniform(-0.3, 0.0))
    parts = [Part(ellipse(x, 0.5, 0.42, rng.uniform(0.4, 0.75), start=0.5, stop=1.0), green) for x in (-0.5, 0.0, 0.5)]
    if rng.random() < 0.5:
        petal = rng.choice(BRIGHT)
        parts += [
            Part(ellipse(rng.uniform(-0.7, 0.7), rng.uniform(0.1, 0.45), 0.08), petal, inner=True) for _ in range(5)
        ]
    return parts


def stone(rng: Random) -> list[Part]:
    """Clutter: a grey stone."""
    grey = tint((120, 118, 128), rng.uniform(-0.3, 0.3))
    high = rng.uniform(0.3, 0.7)
    shape = polygon((-0.9, 0.5), (-0.6, 0.5 - high), (0.1, 0.3 - high), (0.7, 0.55 - high), (0.95, 0.5), soften=1)
    return [Part(shape, grey), Part(shape * 0.7 + np.array([-0.15, 0.05]), tint(grey, 0.12), inner=True)]


DRAWINGS: dict[str, Callable[[Random], list[Part]]] = {
    "balloon": balloon,
    "boat": boat,
    "fish": fish,
    "house": house,
    "kite": kite,
    "mushroom": mushroom,
    "rocket": rocket,
    "tree": tree,
}
"""Every class that can be drawn."""

CLUTTER: tuple[Callable[[Random], list[Part]], ...] = (bush, stone)


def cut(parts: Sequence[Part], size: float, *, degrees: float = 0.0, mirrored: bool = False) -> Sprite:
    """Turn, scale and rasterise a shape.

    Args:
        parts: the pieces, painted in order.
        size: pixels per two units: roughly the longer side of the result.
        degrees: clockwise turn.
        mirrored: flip left and right, before the turn.
    """
    turn = math.radians(degrees)
    matrix = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]) * size / 2 * SUPERSAMPLING
    flip = np.array([-1.0 if mirrored else 1.0, 1.0])
    outlines = [part.points * flip @ matrix for part in parts]
    visible = np.concatenate([points for points, part in zip(outlines, parts, strict=True) if not part.inner])
    low = np.floor(visible.min(0))
    width, height = (-(-(visible.max(0) - low + 1) // SUPERSAMPLING) * SUPERSAMPLING).astype(int).tolist()
    paper, mask = Image.new("RGB", (width, height), parts[-1].fill), Image.new("L", (width, height))
    brush, scissors = ImageDraw.Draw(paper), ImageDraw.Draw(mask)
    for points, part in zip(outlines, parts, strict=True):
        corners = (points - low).ravel().tolist()
        brush.polygon(corners, fill=part.fill)
        if not part.inner:
            scissors.polygon(corners, fill=255)
    return _lit(paper.reduce(SUPERSAMPLING), mask.reduce(SUPERSAMPLING))


def _lit(paper: Image.Image, mask: Image.Image) -> Sprite:
    """Light from the upper left: the far side lies in a soft shade, the near edge catches a highlight."""
    alpha = _unit(mask)
    width, height = mask.size
    radius = max(1.0, min(width, height) / 9)
    framed = Image.new("L", (width, height))
    framed.paste(mask, (-round(radius * 0.7), -round(radius * 0.7)))
    shade = _unit(framed.filter(ImageFilter.GaussianBlur(radius)))
    rgb = _unit(paper) * (0.72 + 0.34 * shade)[..., None]
    return Sprite(np.clip(rgb, 0, 1, dtype=np.float32), alpha)


def _unit(image: Image.Image) -> NDArray[Any]:
    return np.asarray(image, dtype=np.float32) / 255
