"""Drawn scenes: a Pascal VOC dataset from nothing, for trying the whole pipeline without a download.

Paper-cut landscapes with boats, houses, balloons, fish, ... The classes come from two families, so that a detector can
be pretrained on one and fine-tuned on the other. The same arguments give the same bytes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import numpy as np
from lxml import etree
from numpy.typing import NDArray
from PIL import Image

from flows.sprites import CLUTTER, DRAWINGS, Colour, Sprite, cloud, cut, tint

Canvas: TypeAlias = NDArray[np.float32]  # (H, W, 3) in 0..1

FAMILIES: dict[str, tuple[str, ...]] = {
    "shore": ("boat", "house", "kite", "tree"),
    "dream": ("balloon", "fish", "mushroom", "rocket"),
}
"""Two disjoint sets of classes: pretrain on one, fine-tune on the other."""

LEAST_VISIBLE = 0.4  # share of an object's pixels: what is hidden further is not annotated
LEAST_SIDE = 6  # pixels: visible boxes thinner than this are not annotated
VERSION = 1  # of the drawing: another number means other pictures from the same seed

# Sky above, sky at the horizon, far land, near land.
PALETTES: tuple[tuple[Colour, Colour, Colour, Colour], ...] = (
    ((120, 178, 214), (226, 236, 226), (140, 184, 160), (70, 128, 92)),  # morning
    ((88, 120, 180), (250, 206, 170), (172, 132, 150), (92, 74, 108)),  # dusk
    ((246, 186, 120), (252, 232, 186), (222, 160, 110), (150, 96, 76)),  # autumn
    ((40, 48, 92), (110, 110, 160), (72, 80, 124), (38, 48, 82)),  # night
    ((150, 206, 210), (240, 240, 220), (110, 180, 190), (42, 116, 138)),  # lake
    ((186, 204, 222), (240, 242, 246), (206, 216, 228), (150, 168, 190)),  # snow
    ((214, 178, 202), (252, 226, 214), (196, 150, 176), (120, 100, 140)),  # blossom
    ((160, 200, 170), (244, 240, 200), (190, 196, 110), (116, 140, 62)),  # meadow
)


class ScenesError(ValueError):
    """Scenes that cannot be drawn: an unknown class, or a folder that holds something else."""


@dataclass(frozen=True)
class Drawn:
    """What is visible of one object: ``box`` is ``(x_min, y_min, x_max, y_max)`` in pixel edges."""

    name: str
    box: tuple[int, int, int, int]
    truncated: bool  # the border of the image cuts it
    occluded: bool  # another object hides some of it


@dataclass(frozen=True)
class Placed:
    """An object on the canvas: the pixels it owns, all of them and those that nothing covers yet."""

    name: str
    mask: NDArray[np.bool_]  # (H, W), of the object alone
    pixels: int  # of the object, off-canvas ones included


def draw_scenes(
    folder: Path, *, classes: Sequence[str], train: int, val: int, seed: int, size: tuple[int, int] = (320, 240)
) -> Path:
    """Draw a dataset in the layout of the VOC devkit: ``Annotations``, ``JPEGImages``, ``ImageSets/Main``.

    Corners are pixel edges, as LabelImg writes them. Objects overlap and are cut by the border; their boxes hold what
    is visible, and what is mostly hidden is not annotated. About one image in twelve is empty.

    Args:
        folder: becomes the root of the dataset. When it holds these very scenes already, nothing is drawn.
        classes: some of :data:`flows.sprites.DRAWINGS`; see :data:`FAMILIES`.
        train: number of training images.
        val: number of validation images.
        seed: other seeds, other pictures. An image depends on the seed, its split and its number alone.
        size: width and height in pixels.

    Returns:
        ``folder``.

    Raises:
        ScenesError: a class cannot be drawn, or ``folder`` holds something else.
    """
    if unknown := sorted(set(classes) - set(DRAWINGS)) or ([] if classes else ["none"]):
        raise ScenesError(f"classes: cannot draw {', '.join(unknown)}. Choose from {', '.join(DRAWINGS)}")
    asked = {"classes": list(classes), "train": train, "val": val, "seed": seed, "size": list(size), "version": VERSION}
    manifest = json.dumps(asked, indent=1, sort_keys=True) + "\n"
    if folder.exists() and any(folder.iterdir()):
        if (folder / "scenes.json").is_file() and (folder / "scenes.json").read_text() == manifest:
            return folder
        raise ScenesError(f"{folder}: holds something else than these scenes. Remove it or choose another folder")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        _write(part, tuple(classes), {"train": train, "val": val}, seed, size)
        (part / "scenes.json").write_text(manifest)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def draw_scene(rng: Random, classes: Sequence[str], size: tuple[int, int]) -> tuple[Image.Image, list[Drawn]]:
    """Draw one scene.

    Returns:
        The picture and what is visible in it, in the order in which it was painted.
    """
    canvas = _landscape(rng, size)
    placed: list[Placed] = []
    count = 0 if rng.random() < 1 / 12 else rng.choice((1, 2, 2, 3, 3, 4, 4, 5, 6))
    heights = sorted(
        (size[1] * math.exp(rng.uniform(math.log(0.13), math.log(0.62))) for _ in range(count)), reverse=True
    )
    for height in heights:  # the big ones first, so that they do not bury the small ones
        place(canvas, placed, rng, rng.choice(list(classes)), height)
    grain = np.random.default_rng(rng.getrandbits(64)).standard_normal((size[1], size[0], 1), dtype=np.float32)
    pixels = np.clip((canvas + 0.012 * grain) * 255 + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels), visible(placed)


def visible(placed: Sequence[Placed]) -> list[Drawn]:
    """What remains to be seen of objects painted one over the other.

    Objects of which less than :data:`LEAST_VISIBLE` remains are left out.
    """
    drawn = []
    for index, thing in enumerate(placed):
        rest = thing.mask.copy()
        for later in placed[index + 1 :]:
            rest &= ~later.mask
        seen, inside = int(rest.sum()), int(thing.mask.sum())
        if seen < LEAST_VISIBLE * thing.pixels:
            continue
        columns, rows = np.flatnonzero(rest.any(0)), np.flatnonzero(rest.any(1))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        if min(box[2] - box[0], box[3] - box[1]) >= LEAST_SIDE:
            drawn.append(Drawn(thing.name, box, inside < 0.99 * thing.pixels, seen < 0.99 * inside))
    return drawn


def place(canvas: Canvas, placed: list[Placed], rng: Random, name: str, height: float) -> None:
    """Paint one object where it leaves enough of the others visible; where there is no such place, leave it out."""
    free = name in {"kite", "rocket", "fish"}
    lean = rng.uniform(-45, 45) if free else rng.gauss(0, 7)
    sprite = cut(DRAWINGS[name](rng), height, degrees=lean, mirrored=rng.random() < 0.5)
    rows, columns = canvas.shape[:2]
    for _ in range(8):
        x, y = rng.uniform(0, 1) * columns, rng.uniform(0.05, 1) * rows
        corner = (round(x - sprite.alpha.shape[1] / 2), round(y - sprite.alpha.shape[0] / 2))
        mask = np.zeros((rows, columns), dtype=np.bool_)
        onto, of = _overlap(mask.shape, sprite, corner)
        mask[onto] = sprite.alpha[of] > 0.5
        candidate = Placed(name, mask, int((sprite.alpha > 0.5).sum()))
        if len(visible([*placed, candidate])) == len(placed) + 1:
            _paste(canvas, sprite, corner)
            placed.append(candidate)
            return


def _overlap(shape: Sequence[int], sprite: Sprite, corner: tuple[int, int]) -> tuple[Any, Any]:
    """Where the sprite lies on a canvas of this shape, as slices of the canvas and of the sprite."""
    (x, y), (height, width) = corner, sprite.alpha.shape
    left, top = max(x, 0), max(y, 0)
    right, bottom = max(left, min(x + width, shape[1])), max(top, min(y + height, shape[0]))
    return np.s_[top:bottom, left:right], np.s_[top - y : bottom - y, left - x : right - x]


def _paste(canvas: Canvas, sprite: Sprite, corner: tuple[int, int], shadow: float = 0.3) -> None:
    """Lay a sprite on the canvas with the shadow of paper a little above paper."""
    fall = max(1, round(min(sprite.alpha.shape) / 22))
    for step in (fall, 2 * fall):
        onto, of = _overlap(canvas.shape, sprite, (corner[0] + step, corner[1] + step))
        canvas[onto] *= 1 - shadow / 2 * sprite.alpha[of][..., None]
    onto, of = _overlap(canvas.shape, sprite, corner)
    alpha = sprite.alpha[of][..., None]
    canvas[onto] += (sprite.rgb[of] - canvas[onto]) * alpha


def _landscape(rng: Random, size: tuple[int, int]) -> Canvas:
    """Sky with a sun or moon and clouds, then ridges of land with bushes and stones."""
    width, height = size
    high, low, far, near = rng.choice(PALETTES)
    canvas = np.empty((height, width, 3), dtype=np.float32)
    canvas[:] = _blend(high, low, np.linspace(0, 1.3, height, dtype=np.float32))[:, None]
    horizon = rng.uniform(0.3, 0.75)
    if rng.random() < 0.7:
        _sun(canvas, rng, tint(low, 0.55), horizon)
    for _ in range(rng.randint(0, 3)):
        sprite = cut(cloud(rng), rng.uniform(0.15, 0.45) * height)
        pale = Sprite(sprite.rgb, sprite.alpha * rng.uniform(0.5, 0.95))
        _paste(canvas, pale, (rng.randint(-40, width - 20), round(rng.uniform(-0.05, horizon * 0.7) * height)), 0.1)
    layers = rng.randint(2, 4)
    for layer in range(layers):
        share = layer / (layers - 1)
        level = horizon + (1.02 - horizon) * share * rng.uniform(0.7, 0.9)
        _ridge(canvas, rng, level * height, _blend(far, near, np.array([share], dtype=np.float32))[0])
        for _ in range(rng.randint(0, 3)):
            sprite = cut(rng.choice(CLUTTER)(rng), rng.uniform(0.06, 0.14) * height * (1 + share))
            _paste(
                canvas, sprite, (rng.randint(-10, width - 10), round((level + rng.uniform(0.0, 0.15)) * height)), 0.15
            )
    return canvas


def _ridge(canvas: Canvas, rng: Random, level: float, colour: NDArray[np.float32]) -> None:
    """One sheet of land: an edge of three waves, its shadow on what lies behind, darker towards its foot."""
    height, width = canvas.shape[:2]
    x = np.linspace(0, math.tau, width, dtype=np.float32)
    waves = ((1, 0.05), (2.3, 0.03), (rng.uniform(4, 7), 0.012))
    edge = level + height * sum(rng.uniform(0.3, 1) * a * np.sin(f * x + rng.uniform(0, math.tau)) for f, a in waves)
    depth = np.arange(height, dtype=np.float32)[:, None] - edge[None]  # pixels below the edge
    canvas *= (1 - 0.16 * np.exp(np.minimum(depth, 0) / 5))[..., None]
    inside = np.clip(depth + 0.5, 0, 1)[..., None]
    shade = (1.04 - 0.2 * np.clip(depth / height, 0, 1))[..., None]
    canvas += (colour * shade - canvas) * inside


def _sun(canvas: Canvas, rng: Random, colour: Colour, horizon: float) -> None:
    """A disc with a soft halo."""
    height, width = canvas.shape[:2]
    x, y, radius = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, horizon) * height, rng.uniform(0.05, 0.1) * height
    rows, columns = np.ogrid[:height, :width]
    away = np.hypot(columns - x, rows - y).astype(np.float32) - radius
    glow = np.clip(0.5 - away, 0.35 * np.exp(-np.maximum(away, 0) / (2.5 * radius)), 1)[..., None]
    canvas += (np.array(colour, dtype=np.float32) / 255 - canvas) * glow


def _blend(first: Colour, second: Colour, share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours ``(N, 3)`` in 0..1 between two, by shares ``(N,)``."""
    start, end = (np.array(colour, dtype=np.float32) / 255 for colour in (first, second))
    return np.asarray(start + (end - start) * np.clip(share, 0, 1)[:, None], dtype=np.float32)


def _write(root: Path, classes: tuple[str, ...], splits: dict[str, int], seed: int, size: tuple[int, int]) -> None:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for split, count in splits.items():
        names = [f"{split}_{number:05d}" for number in range(1, count + 1)]
        for name in names:
            picture, drawn = draw_scene(Random(f"{seed}/{name}"), classes, size)  # noqa: S311 - pictures, not secrets
            picture.save(root / "JPEGImages" / f"{name}.jpg", quality=90)
            (root / "Annotations" / f"{name}.xml").write_bytes(annotation(f"{name}.jpg", size, drawn))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def annotation(file_name: str, size: tuple[int, int], drawn: Sequence[Drawn]) -> bytes:
    """The VOC annotation of one scene, as XML."""
    root = etree.Element("annotation")
    _add(root, folder="JPEGImages", filename=file_name)
    _add(_add(root, source=""), database="Drawn scenes")
    _add(_add(root, size=""), width=size[0], height=size[1], depth=3)
    _add(root, segmented=0)
    for thing in drawn:
        node = _add(root, object="")
        _add(node, name=thing.name, pose="Unspecified")
        _add(node, truncated=int(thing.truncated), occluded=int(thing.occluded), difficult=0)
        _add(_add(node, bndbox=""), **dict(zip(("xmin", "ymin", "xmax", "ymax"), thing.box, strict=True)))
    return etree.tostring(root, pretty_print=True)


def _add(parent: etree._Element, **fields: object) -> etree._Element:
    """Append one child per field and return the last."""
    child = parent
    for tag, value in fields.items():
        child = etree.SubElement(parent, tag)
        child.text = str(value) or None
    return child
