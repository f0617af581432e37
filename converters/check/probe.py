"""Looking at image files: the header, or all pixels, of many at once.

Threads, not processes: the time goes into the disk and into Pillow's decoders, which release the interpreter.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Depth = Literal["header", "whole", "pixels"]  # "whole" decodes and keeps nothing
_ORIENTATION = 0x0112  # EXIF tag
_THUMBNAIL = 64  # pixels


@dataclass(frozen=True, slots=True)
class Look:
    """What a file shows; ``error`` says why it shows nothing."""

    error: str = ""
    kind: str = ""  # of the error: missing, unreadable, truncated or huge
    width: int = 0  # pixels as stored
    height: int = 0
    format: str = ""
    mode: str = ""
    frames: int = 1
    orientation: int = 1  # EXIF, 1..8
    size: int = 0  # bytes
    thumbnail: Thumbnail | None = None

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height as shown: after the EXIF orientation."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """What 64 pixels a side tell: a difference hash of 128 bits, and the light in the picture."""

    hash: int
    dark: float  # brightness of the lightest 1 %, 0..1
    bright: float  # brightness of the darkest 5 %, 0..1
    entropy: float  # bits, 0..8
    edges: float  # variance of the Laplacian


def look_at(
    depths: Mapping[Path, Depth],
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Path, Look]:
    """Return a look at each file; ``jobs`` at once, 0 for one a core; ``progress`` hears how many of how many."""
    unique = sorted(depths)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks about odd files become problems here
        with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
            each = map if jobs == 1 else pool.map
            looks = {}
            for path, seen in zip(unique, each(lambda path: look(path, depths[path]), unique), strict=True):
                looks[path] = seen
                if progress is not None:
                    progress(len(looks), len(unique))
            return looks


def look(path: Path, depth: Depth = "header") -> Look:
    """Return what one file shows. Nothing is raised: an image that cannot be read is a finding."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            return Look("not a file", "unreadable")
        if not size:
            return Look("the file is empty", "unreadable")
    except (OSError, ValueError):
        return Look("no such file", "missing")
    try:
        with Image.open(path) as image:
            return _described(image, path, size, depth)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Look(str(error), "huge", size=size)
    except Exception as error:  # Pillow's plugins raise nearly anything on hostile bytes
        text = " ".join(str(error).replace(str(path), path.name).split()) or type(error).__name__
        return Look(text, "truncated" if "truncated" in text else "unreadable", size=size)


def _described(image: Image.Image, path: Path, size: int, depth: Depth) -> Look:
    format_, mode, (width, height) = image.format or "", image.mode, image.size
    frames = getattr(image, "n_frames", 1) if format_ in {"GIF", "WEBP", "PNG"} else 1
    orientation = _orientation(image)
    cut = _ends_early(path, format_)
    if cut:
        return Look(cut, "truncated", width, height, format_, mode, frames, orientation, size)
    thumbnail = None
    if depth != "header" and width * height <= (Image.MAX_IMAGE_PIXELS or width * height):
        image.draft("L", (_THUMBNAIL * 2, _THUMBNAIL * 2))  # JPEG: all bytes are read, few pixels are made
        image.load()
        thumbnail = _thumbnail(image) if depth == "pixels" else None
    return Look("", "", width, height, format_, mode, frames, orientation, size, thumbnail)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, without decoding: of a PNG only what stands before its pixels."""
    if image.format not in {"JPEG", "MPO", "TIFF", "WEBP"} and "exif" not in image.info:
        return 1
    value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _ends_early(path: Path, format_: str) -> str:
    """Whether the end of a JPEG or PNG is missing; trailing bytes that some cameras write are allowed."""
    if format_ not in {"JPEG", "PNG"}:
        return ""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 65536))
        tail = file.read()
    if format_ == "JPEG":
        return "" if b"\xff\xd9" in tail else "the file ends before the JPEG does (no FFD9)"
    return "" if b"IEND" in tail else "the file ends before the PNG does (no IEND)"


def _thumbnail(image: Image.Image) -> Thumbnail:
    grey = image.convert("L")
    pixels = np.asarray(grey.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX), np.float64) / 255
    small = np.asarray(grey.resize((9, 9), Image.Resampling.BOX), np.int16)
    counts = np.bincount((pixels * 255).astype(np.int64).ravel(), minlength=256) / pixels.size
    share = counts[counts > 0]
    inner = pixels[1:-1, 1:-1] * 255
    laplacian = (pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:]) * 255 - 4 * inner
    return Thumbnail(
        _difference_hash(small),
        float(np.quantile(pixels, 0.99)),
        float(np.quantile(pixels, 0.05)),
        float(-(share * np.log2(share)).sum()),
        float(laplacian.var()),
    )


def _difference_hash(small: npt.NDArray[np.int16]) -> int:
    """Whether each of 8x8 cells is darker than its neighbour to the right, and than the one below; 128 bits."""
    right, below = small[:8, 1:] > small[:8, :-1], small[1:, :8] > small[:-1, :8]
    return int.from_bytes(np.packbits(np.concatenate([right.ravel(), below.ravel()])).tobytes(), "big")


def equal_files(looks: Mapping[Path, Look]) -> list[list[Path]]:
    """Return groups of files with the same bytes; only those of one size are read."""
    sizes: defaultdict[int, list[Path]] = defaultdict(list)
    for path, seen in looks.items():
        if seen.size:
            sizes[seen.size].append(path)
    digests: defaultdict[tuple[int, bytes], list[Path]] = defaultdict(list)
    for size, paths in sorted(sizes.items()):
        for path in paths if len(paths) > 1 else []:
            if (digest := _digest(path)) is not None:
                digests[size, digest].append(path)
    return [sorted(paths) for paths in digests.values() if len(paths) > 1]


def _digest(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return None


def near_pairs(looks: Mapping[Path, Look], bits: int) -> list[tuple[Path, Path]]:
    """Return pairs of files whose hashes differ in at most ``bits`` of 128, fewer than 8.

    Of eight pieces of 16 bits at least one is then equal, so only files that share a piece are compared.
    """
    hashes = [
        (seen.thumbnail.hash, path)
        for path, seen in sorted(looks.items())
        if seen.thumbnail and 8 <= seen.thumbnail.hash.bit_count() <= 120  # a blank frame is like any other
    ]
    found: set[tuple[Path, Path]] = set()
    for piece in range(8):
        shared: defaultdict[int, list[int]] = defaultdict(list)
        for index, (value, _) in enumerate(hashes):
            shared[(value >> (16 * piece)) & 0xFFFF].append(index)
        for members in shared.values():
            _compare(hashes, members, bits, found)
    return sorted(found)


def _compare(
    hashes: list[tuple[int, Path]], members: list[int], bits: int, found: set[tuple[Path, Path]], most: int = 2000
) -> None:
    """Add the pairs among ``members``; beyond ``most`` each is compared with the following ones only."""
    for at, first in enumerate(members):
        for second in members[at + 1 : at + most]:
            if (hashes[first][0] ^ hashes[second][0]).bit_count() <= bits:
                found.add((hashes[first][1], hashes[second][1]))
