"""Pictures with what is there beside what was found; embedded, so that the page is one file."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image, ImageOps

from models.pictures import as_rgb
from models.report.matching import Found, Matched, Truth
from models.report.shapes import mask_path

LONGEST_SIDE = 640  # pixels of an embedded picture
THUMBNAIL = 224  # pixels of one that shows a mistake
CANVAS = 480.0  # width in drawing units: about the pixels it has on a screen
MOST_BOXES = 40  # drawn in one picture
MOST_LETTERS = 27  # of a label, the score included
TAG = 17  # height of a label in drawing units


@dataclass(frozen=True)
class Picture:
    """Both sides of one image, and what to say about it."""

    file_name: str
    truth: Markup
    found: Markup
    right: int
    wrong: int
    missed: int


@dataclass(frozen=True)
class Mark:
    """One box to draw; ``state`` is its class in the style sheet: right, wrong, missed or crowd."""

    box: tuple[float, float, float, float]
    label: str
    state: str
    mask: str = ""  # SVG path in pixels of the picture


def choose(matched: Sequence[Matched], score: float, count: int) -> tuple[list[Matched], list[Matched]]:
    """The worst images, and typical ones from the middle of the ranking; the same number of each."""
    ranked = sorted(matched, key=lambda m: (m.f1(score), -m.mistakes(score), str(m.image.get("file_name"))))
    worst = [image for image in ranked if image.mistakes(score)][:count]
    rest = [image for image in ranked[len(worst) :] if image.truths]
    middle = rest[len(rest) // 4 : len(rest) - len(rest) // 4] if len(rest) > 2 * count else rest
    step = max(1, len(middle) / count)
    typical = [middle[int(index * step)] for index in range(count) if int(index * step) < len(middle)]
    return worst, typical


def picture(matched: Matched, images: Path, score: float, identity: str) -> Picture | None:
    """Both sides of an image, or None where it cannot be read below ``images``.

    Args:
        matched: the image with its boxes.
        images: folder that ``file_name`` is relative to; nothing outside of it is opened.
        score: detections below it are not drawn.
        identity: an id that is unique on the page.
    """
    name = str(matched.image.get("file_name", ""))
    read = _embedded(images, matched.image)
    if read is None:
        return None
    uri, (width, height) = read
    scale = CANVAS / width
    size = (CANVAS, height * scale)
    truths = [Mark(t.box, t.name, _state(t, score), mask_path(t.segmentation, height, width)) for t in matched.truths]
    kept = [f for f in matched.found if f.score >= score]
    found = [_found(f, height, width) for f in kept]
    image = Markup('<image id="{}" href="{}" width="{:g}" height="{:.1f}" preserveAspectRatio="none"/>')
    again = Markup('<use href="#{}"/>').format(identity)
    return Picture(
        file_name=name,
        truth=_panel(f"{name}: what is there", image.format(identity, uri, *size), truths, size, scale),
        found=_panel(f"{name}: what was found", again, found, size, scale),
        right=sum(f.right is True for f in kept),
        wrong=sum(f.right is False for f in kept),
        missed=matched.missed(score),
    )


@dataclass(frozen=True)
class Mistake:
    """A picture that was taken for something else."""

    uri: str
    file_name: str
    annotated: str
    found: str
    score: float
    annotated_score: float | None  # None: not among the five most probable


def mistakes(metrics: Mapping[str, Any], coco: Mapping[str, Any], images: Path, most: int = 12) -> list[Mistake]:
    """The surest wrong answers of a classifier, as small pictures of what it looked at.

    Args:
        metrics: ``metrics.json``.
        coco: the COCO file that was evaluated.
        images: folder that ``file_name`` is relative to; nothing outside of it is opened.
        most: how many.
    """
    found, entries = [], {str(image.get("file_name")): image for image in coco["images"]}
    for row in (metrics.get("suspects") or [])[:most]:
        read = _embedded(images, entries.get(str(row["file_name"]), row), row["bbox"])
        if read is not None:
            names = (str(row["file_name"]), str(row["annotated"]), str(row["found"]))
            found.append(Mistake(read[0], *names, float(row["score"]), row.get("annotated_score")))
    return found


def _found(found: Found, height: int, width: int) -> Mark:
    state = {True: "right", False: "wrong", None: "crowd"}[found.right]
    label = f"{_clipped(found.name, MOST_LETTERS - 5)} {found.score:.2f}"
    return Mark(found.box, label, state, mask_path(found.segmentation, height, width))


def _state(truth: Truth, score: float) -> str:
    if truth.crowd:
        return "crowd"
    return "missed" if truth.found is None or truth.found < score else "right"


def _panel(said: str, image: Markup, marks: Sequence[Mark], size: tuple[float, float], scale: float) -> Markup:
    listed = ", ".join(f"{mark.label} ({mark.state})" for mark in marks[:MOST_BOXES]) or "nothing"
    head = Markup('<svg viewBox="0 0 {:g} {:.1f}" role="img" aria-label="{}: {}">').format(*size, said, listed)
    boxes = Markup("").join(_outline(mark, scale) for mark in marks[:MOST_BOXES])
    tags = Markup("").join(_tag(mark, place) for mark, place in _tag_places(marks[:MOST_BOXES], size, scale))
    return head + image + boxes + tags + Markup("</svg>")


def _outline(mark: Mark, scale: float) -> Markup:
    """A mask, and a box with a dark halo, so that it shows on any picture."""
    x, y, width, height = (value * scale for value in mark.box)
    place = Markup('x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"').format(x, y, max(width, 1), max(height, 1))
    mask = Markup('<path class="mask" d="{}" transform="scale({:.5f})"/>').format(mark.mask, scale) if mark.mask else ""
    drawn = Markup('<g class="mark {0}">{2}<rect class="halo" {1}/><rect class="box" {1}/></g>')
    return drawn.format(mark.state, place, mask)


def _tag_places(
    marks: Sequence[Mark], size: tuple[float, float], scale: float
) -> list[tuple[Mark, tuple[float, float, float]]]:
    """Left, top and width of each label: above its box, or just inside, or lower where another one is already."""
    places: list[tuple[Mark, tuple[float, float, float]]] = []
    for mark in marks:
        x, y = mark.box[0] * scale, mark.box[1] * scale
        wide = 9 + sum(4.2 if c in "ijltf.I1 " else 10.6 if c in "mwMW" else 7.2 for c in _clipped(mark.label))
        left = min(max(0.0, x - 1), max(0.0, size[0] - wide))
        top = y - TAG if y >= TAG else max(y, 0.0)
        for _, (other, above, width) in sorted(places, key=lambda place: place[1][1]):
            if left < other + width and other < left + wide and abs(top - above) < TAG:
                top = above + TAG
        places.append((mark, (left, min(top, size[1] - TAG), wide)))
    return places


def _tag(mark: Mark, place: tuple[float, float, float]) -> Markup:
    left, top, wide = place
    return Markup(
        '<g class="mark {}"><rect class="tag" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" rx="2"/>'
        '<text x="{:.1f}" y="{:.1f}">{}</text></g>'
    ).format(mark.state, left, top, wide, TAG, left + 4, top + 12.5, _clipped(mark.label))


def _clipped(text: str, most: int = MOST_LETTERS) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _embedded(
    images: Path, entry: Mapping[str, Any], box: Sequence[float] | None = None
) -> tuple[str, tuple[int, int]] | None:
    """A small JPEG as a data URI, and the size of the picture it was made from.

    As the training reads it: upright, unless the size of the ``entry`` of the COCO file is that of the stored pixels
    alone. With a ``box`` (xywh pixels) only what is in it, smaller.
    """
    longest = LONGEST_SIDE if box is None else THUMBNAIL
    path = images / str(entry.get("file_name", ""))
    if not path.resolve().is_relative_to(images.resolve()) or not path.is_file():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is no reason to go without the picture
            with Image.open(path) as opened:
                turned = opened.getexif().get(0x0112, 1) >= 5
                shown = opened.size[::-1] if turned else opened.size
                as_stored = (entry.get("width"), entry.get("height")) == opened.size != shown
                size = opened.size if as_stored else shown
                if box is None:
                    opened.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
                small = as_rgb(opened if as_stored else ImageOps.exif_transpose(opened))
                if box is not None:
                    small = small.crop((int(box[0]), int(box[1]), ceil(box[0] + box[2]), ceil(box[1] + box[3])))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), size
