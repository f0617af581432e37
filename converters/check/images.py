"""Images: what the JSON says of them, and what lies on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.check.columns import as_integer
from converters.check.draft import DROP, Draft
from converters.check.ids import unsafe
from converters.check.limits import Limits
from converters.check.probe import Look
from converters.masks import MAX_PIXELS

EXTENSIONS = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".mpo"},
    "PNG": {".png", ".apng"},
    "BMP": {".bmp", ".dib"},
    "GIF": {".gif"},
    "TIFF": {".tif", ".tiff"},
    "WEBP": {".webp"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm"},
}
_PICTURES = frozenset().union(*EXTENSIONS.values())


def paths_of(draft: Draft) -> list[Path | None]:
    """The file of each image; None without an image folder or a name that is safe to open."""
    if draft.root is None:
        return [None] * len(draft.images)
    return [_below(draft.root, name) for name in draft.column("images", "file_name")]


def _below(root: Path, name: Any) -> Path | None:
    return None if unsafe(name) else root / name


def check_images(draft: Draft, looks: Mapping[Path, Look], limits: Limits) -> None:
    """All rules about single images; ``looks`` is empty where the disk is not looked at."""
    ends = _box_ends(draft)
    for row, path in enumerate(paths_of(draft)):
        look = looks.get(path) if path is not None else None
        if look is not None and look.kind:
            _report_broken(draft, row, look)
        if look is None or not look.width:
            if look is None or look.kind != "huge":
                _check_stated(draft, row, None, limits)
        else:
            _check_stated(draft, row, look, limits)
            _check_size(draft, row, look, ends)
            _check_file(draft, row, path, look)
            _check_light(draft, row, look)
    draft.settle()
    sizes = draft.image_sizes()
    ratio = np.log(sizes[:, 0] / sizes[:, 1])
    away = np.abs(ratio - (np.median(ratio[~np.isnan(ratio)]) if not np.isnan(ratio).all() else 0))
    for row in np.flatnonzero((away > np.log(limits.image_aspect)) & (len(sizes) >= 10)).tolist():
        draft.hit("image-aspect", row, value=f"{sizes[row, 0]:.0f}x{sizes[row, 1]:.0f}")


def _report_broken(draft: Draft, row: int, look: Look) -> None:
    if look.kind == "huge":
        draft.hit("image-huge", row, look.error)
    else:
        message = look.error
        if look.kind == "missing" and (alike := _alike(draft, row)):
            message += f", but there is {alike}"
        draft.hit(f"image-{look.kind}", row, message, repair=DROP)


def _alike(draft: Draft, row: int) -> str:
    """A file in the same folder whose name differs only in case or extension; empty where there is none."""
    wanted = _below(draft.root, draft.images[row].get("file_name")) if draft.root is not None else None
    if wanted is None or not draft.ledger.room("image-missing"):
        return ""
    try:
        names = sorted(path.name for path in wanted.parent.iterdir())
    except (OSError, ValueError):
        return ""
    return next((name for name in names if Path(name).stem.casefold() == wanted.stem.casefold()), "")


def _check_stated(draft: Draft, row: int, look: Look | None, limits: Limits) -> None:
    """Width and height of the JSON by themselves."""
    image = draft.images[row]
    width, height = as_integer(image.get("width")), as_integer(image.get("height"))
    if width is None or height is None or min(width, height) < 1 or width * height >= MAX_PIXELS:
        value = f"{image.get('width', 'missing')}x{image.get('height', 'missing')}"
        repair = dict(zip(("width", "height"), look.shown, strict=True)) if look else None
        if draft.hit("image-size-invalid", row, value=value, repair=repair) != "fixed":
            return
        width, height = draft.images[row]["width"], draft.images[row]["height"]
    if look:
        width, height = look.shown
    if min(width, height) < limits.image_side:
        draft.hit("image-small", row, value=f"{width}x{height}", repair=DROP)
    if width * height > limits.image_pixels:
        draft.hit("image-huge", row, value=f"{width}x{height}")


def _box_ends(draft: Draft) -> dict[int, tuple[float, float]]:
    """For each image the right and lower end of its boxes."""
    boxes, rows = draft.boxes(), draft.image_rows()
    good = ~np.isnan(boxes[:, 0]) & (rows >= 0)
    ends = np.full((len(draft.images), 2), -np.inf)
    np.maximum.at(ends, rows[good], boxes[good, :2] + boxes[good, 2:])
    return {row: (ends[row, 0], ends[row, 1]) for row in np.unique(rows[good]).tolist()}


def _check_size(draft: Draft, row: int, look: Look, ends: Mapping[int, tuple[float, float]]) -> None:
    image = draft.images[row]
    stated = as_integer(image.get("width")) or 0, as_integer(image.get("height")) or 0
    if stated == look.shown or min(stated) < 1:
        return
    width, height = look.shown
    right, bottom = ends.get(row, (0, 0))
    if _annotated_as_stored(draft, row, look) and right <= stated[0] + 1 and bottom <= stated[1] + 1:
        return  # which is training's way to read it, and what image-exif says
    message = f"the JSON says {stated[0]}x{stated[1]}, the file is {width}x{height}"
    if stated == (look.width, look.height):
        message += f" when shown as its EXIF orientation {look.orientation} asks"
    elif stated == (height, width):
        message += ": exchanged"
    repair = {"width": width, "height": height} if right <= width + 1 and bottom <= height + 1 else None
    if repair is None:
        message += "; the boxes do not fit the file"
    draft.hit("image-size-differs", row, message, f"{stated[0]}x{stated[1]}", repair)


def _annotated_as_stored(draft: Draft, row: int, look: Look) -> bool:
    """Whether the size is that of the stored pixels and not that of the picture as it is shown."""
    image = draft.images[row]
    stated = as_integer(image.get("width")), as_integer(image.get("height"))
    return stated == (look.width, look.height) != look.shown


def _check_file(draft: Draft, row: int, path: Path | None, look: Look) -> None:
    if look.orientation != 1:
        message = "the file is shown turned"
        if look.orientation < 5:
            message += "; its size is the same either way, so training takes the boxes as drawn on what is shown"
        elif _annotated_as_stored(draft, row, look):
            message += "; its size is that of the stored pixels, so training takes the boxes as drawn on those"
        draft.hit("image-exif", row, message, f"EXIF orientation {look.orientation}")
    known = EXTENSIONS.get(look.format)
    if path is not None and known and path.suffix.lower() not in known:
        draft.hit("image-extension", row, f"a {look.format} file called {path.suffix or 'without extension'}")
    odd = [look.mode] if look.mode not in {"RGB", "L", "1"} else []
    odd += [f"{look.frames} frames"] if look.frames > 1 else []
    if odd:
        draft.hit("image-mode", row, value=", ".join(odd))


def _check_light(draft: Draft, row: int, look: Look) -> None:
    """Thresholds of cleanvision: dark 0.32, bright 0.05, low information 0.3, blurred 0.29."""
    seen = look.thumbnail
    if seen is None:
        return
    if seen.dark < 0.32:
        draft.hit("image-dark", row, value=f"lightest 1 % at {seen.dark:.2f}")
    if 1 - seen.bright < 0.05:
        draft.hit("image-bright", row, value=f"darkest 5 % at {seen.bright:.2f}")
    if seen.entropy * 0.1 < 0.3:
        draft.hit("image-flat", row, value=f"{seen.entropy:.1f} bits")
    if 1 - np.exp(-0.01 * seen.edges) < 0.29:
        draft.hit("image-blurred", row, value=f"Laplacian variance {seen.edges:.1f}")


def check_unlisted(drafts: Sequence[Draft]) -> None:
    """Image files that lie in an image folder and stand in none of the files."""
    roots: dict[Path, list[Draft]] = {}
    for draft in drafts:
        if draft.root is not None and draft.ledger.active("image-unlisted"):
            roots.setdefault(draft.root, []).append(draft)
    for root, members in roots.items():
        listed = {os.path.normpath(path) for draft in members for path in paths_of(draft) if path is not None}
        for path in _pictures(root):
            if os.path.normpath(path) not in listed:
                name = path.relative_to(root).as_posix()
                members[0].hit("image-unlisted", message=f"{name} stands in no file", value=name)


def _pictures(root: Path) -> Iterator[Path]:
    """Image files below a folder, sorted; links to folders are not followed, so there are no loops."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in _PICTURES:  # noqa: PTH122 - half the time of a Path
                yield Path(folder, name)


def check_empty(draft: Draft) -> None:
    """Images without annotations."""
    used: set[Any] = set(draft.image_rows().tolist())
    for row in range(len(draft.images)):
        if row not in used:
            draft.hit("image-empty", row)
