"""Small pictures of problems: the part of the image that matters, and what is drawn on it."""

from __future__ import annotations

import base64
import io
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from converters.check.columns import as_integer, numbers
from converters.check.ids import unsafe
from converters.check.report import CheckReport, Problem
from converters.check.segmentation import is_drawable

Box = tuple[float, float, float, float]
_SIDE = 420  # pixels of the long side, enough for a sharp card on a phone
_ASPECT = 4 / 3
_NEIGHBOURS = 150  # other boxes drawn in one picture
_POINTS = 2000  # of the rings drawn in one picture
_DRAWN = ("segm-", "mask-", "area-", "crowd-")  # rules about the outline more than about the box


@dataclass(frozen=True)
class Picture:
    """An image to show: what part of it (x, y, width, height in its pixels), and what is drawn on it."""

    href: str  # a data: URL
    place: Box  # where the bytes lie in the coordinates of the view
    view: Box
    box: Box | None
    others: tuple[Box, ...]
    rings: tuple[tuple[float, ...], ...] = ()

    @property
    def stroke(self) -> float:
        """Width of a line that looks the same in every picture."""
        return self.view[2] / 130


def pictures_of(
    report: CheckReport, images: Path | Mapping[str, Path] | None, per_rule: int = 3
) -> dict[str, list[tuple[Problem, list[Picture]]]]:
    """Return the first problems of each rule that can be shown, each with one picture, or two of a pair."""
    roots = images if isinstance(images, Mapping) else dict.fromkeys(report.splits, images)
    chosen: dict[str, list[tuple[Problem, list[Picture]]]] = {}
    wanted = {(p.split, p.image_id) for p in report.problems}
    neighbours, sizes = _boxes_by_image(report, wanted), _sizes(report, wanted)
    rings = _rings(report, {(p.split, p.annotation_id) for p in report.problems if p.rule.startswith(_DRAWN)})
    for problem in report.problems:
        shown = chosen.setdefault(problem.rule, [])
        if len(shown) >= per_rule:
            continue
        key = problem.split, problem.image_id
        first = _picture(roots.get(problem.split), problem.file, problem.box, neighbours.get(key, ()), sizes.get(key))
        if first is None:
            continue
        if problem.rule.startswith(_DRAWN):
            first = replace(first, rings=rings.get((problem.split, problem.annotation_id), ()))
        second = [_picture(root, problem.other, None, ()) for root in roots.values()] if problem.other else []
        shown.append((problem, [first, *[picture for picture in second if picture is not None][:1]]))
    return {rule: shown for rule, shown in chosen.items() if shown}


def _boxes_by_image(
    report: CheckReport, wanted: set[tuple[str, int | None]]
) -> dict[tuple[str, int | None], list[Box]]:
    """Boxes xywh of the images that are shown, as the splits stand after the check."""
    found: defaultdict[tuple[str, int | None], list[Box]] = defaultdict(list)
    for name, coco in report.splits.items():
        annotations = coco.get("annotations")
        for entry in annotations if isinstance(annotations, list) else ():
            key = (name, as_integer(entry.get("image_id"))) if isinstance(entry, dict) else (name, None)
            if key[1] is not None and key in wanted and len(found[key]) < _NEIGHBOURS:
                x, y, w, h = numbers([entry.get("bbox")], 4)[0].tolist()
                if w > 0 and h > 0 and abs(x) + abs(y) + w + h < 1e6:
                    found[key].append((x, y, w, h))
    return found


def _sizes(report: CheckReport, wanted: set[tuple[str, int | None]]) -> dict[tuple[str, int | None], tuple[Any, Any]]:
    """Width and height of the images that are shown, as the splits state them after the check."""
    found = {}
    for name, coco in report.splits.items():
        images = coco.get("images")
        for entry in images if isinstance(images, list) else ():
            key = (name, as_integer(entry.get("id"))) if isinstance(entry, dict) else (name, None)
            if key in wanted and key[1] is not None:
                found[key] = entry.get("width"), entry.get("height")
    return found


def _rings(
    report: CheckReport, wanted: set[tuple[str, int | None]]
) -> dict[tuple[str, int | None], tuple[tuple[float, ...], ...]]:
    """Rings of the annotations that are shown, as they stand after the check."""
    found = {}
    for name, coco in report.splits.items():
        annotations = coco.get("annotations")
        for entry in annotations if isinstance(annotations, list) else ():
            key = (name, as_integer(entry.get("id"))) if isinstance(entry, dict) else (name, None)
            if key[1] is not None and key in wanted and is_drawable(entry.get("segmentation"), 1e5):
                rings = tuple(tuple(map(float, ring)) for ring in entry["segmentation"])
                found[key] = rings if sum(map(len, rings)) <= 2 * _POINTS else ()
    return found


def _picture(
    root: Path | None, name: str, box: Box | None, others: Iterable[Box], stated: tuple[Any, Any] | None = None
) -> Picture | None:
    """A picture upright, unless its stated size is that of the stored pixels alone, as training reads it."""
    if root is None or unsafe(name):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(root / name) as image:
                upright = ImageOps.exif_transpose(image)
                shown = image if stated == image.size != upright.size else upright
                width, height = shown.size
                view = _view(width, height, box)
                href, place = _cut(shown, view)
    except Exception:  # shown or not: why an image cannot be read is among the problems
        return None
    inside = tuple(other for other in others if other != box)
    return Picture(href, place, view, _bounded(box, width, height), inside)


def _bounded(box: Box | None, width: int, height: int) -> Box | None:
    """The box to draw, sorted and not farther out than the picture is large."""
    if box is None:
        return None
    x, y, w, h = box
    x0, x1 = sorted(min(max(v, -width), 2 * width) for v in (x, x + w))
    y0, y1 = sorted(min(max(v, -height), 2 * height) for v in (y, y + h))
    return x0, y0, x1 - x0, y1 - y0


def _view(width: int, height: int, box: Box | None) -> Box:
    """The whole image; the box with a margin where it is small; and what lies outside where the box does."""
    region = (0.0, 0.0, float(width), float(height))
    drawn = _bounded(box, width, height)
    if drawn is not None:
        x, y, w, h = drawn
        side = max(w, h, 24.0) * 5
        inside = x >= 0 and y >= 0 and x + w <= width and y + h <= height
        if inside and side < 0.8 * min(width, height):
            wide = min(side * _ASPECT, float(width))
            left = min(max(0.0, x + w / 2 - wide / 2), width - wide)
            top = min(max(0.0, y + h / 2 - side / 2), height - side)
            region = (left, top, wide, side)
        else:
            right, bottom = max(width, x + w), max(height, y + h)
            region = (min(0.0, x), min(0.0, y), right - min(0.0, x), bottom - min(0.0, y))
            region = _grown(region, 0 if inside else 0.04)
    return _widened(region)


def _grown(region: Box, margin: float) -> Box:
    x, y, w, h = region
    more = margin * max(w, h)
    return x - more, y - more, w + 2 * more, h + 2 * more


def _widened(region: Box) -> Box:
    """The same centre in the shape that all pictures have."""
    x, y, w, h = region
    wide, high = max(w, h * _ASPECT), max(h, w / _ASPECT)
    return x + w / 2 - wide / 2, y + h / 2 - high / 2, wide, high


def _cut(image: Image.Image, view: Box) -> tuple[str, Box]:
    """The part of an image inside a view, as a data URL, and where it lies."""
    left, top = max(0, int(view[0])), max(0, int(view[1]))
    right, bottom = min(image.width, int(view[0] + view[2]) + 1), min(image.height, int(view[1] + view[3]) + 1)
    part = image.crop((left, top, right, bottom))
    if part.mode not in {"RGB", "L"}:
        part = part.convert("RGBA")
        paper = Image.new("RGBA", part.size, "white")
        part = Image.alpha_composite(paper, part).convert("RGB")
    scale = _SIDE / max(part.size)
    if scale < 1:
        part = part.resize(
            (max(1, round(part.width * scale)), max(1, round(part.height * scale))), Image.Resampling.BOX
        )
    data = io.BytesIO()
    part.save(data, "JPEG", quality=82)
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{encoded}", (left, top, right - left, bottom - top)
