"""Where Cityscapes keeps its parts: the frames of a split, and the folder of the images."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from converters.errors import DatasetError
from converters.files import walk_files

_ANNOTATION = re.compile(r"(.+)_(gtFine|gtCoarse)_(instanceIds\.png|polygons\.json)")
_SPLITS = ("train", "val", "test", "train_extra")
_IMAGE = "_leftImg8bit.png"


class Frame(NamedTuple):
    """The files of one frame."""

    name: str  # split/city/city_000000_000019, for messages
    image: str  # POSIX, relative to leftImg8bit
    png: str | None  # *_instanceIds.png
    polygons: str | None  # *_polygons.json


def find_frames(root: Path, split: str | None, annotations: str, images: Path | None = None) -> list[Frame]:
    """Return the frames of a split, sorted by name.

    Args:
        root: the folder with ``gtFine`` or ``gtCoarse`` in it or one level down, or that folder itself.
        split: a folder below, or ``None`` for all.
        annotations: ``gtFine``, ``gtCoarse`` or ``auto``: the first of both that has the split.
        images: ``leftImg8bit``: a split that has images but no annotations (test) is one of frames without either.

    Raises:
        DatasetError: there is no such folder, or no frame in it.
    """
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder")
    kinds = ("gtFine", "gtCoarse") if annotations == "auto" else (annotations,)
    for kind in kinds:
        for base in _bases(root, kind):
            frames = _annotated(base, split or "", kind)
            if frames:
                return frames
    if images is not None and split is not None:
        frames = _bare(images, split)
        if frames:
            return frames
    raise DatasetError(
        f"no {' or '.join(kinds)} annotations of {f'split {split!r}' if split else 'any split'} in {root}. "
        f"Expected {kinds[0]}/{split or 'train'}/<city>/<city>_..._{kinds[0]}_instanceIds.png or ..._polygons.json"
    )


def find_image_root(root: Path, images: Path | None = None) -> Path:
    """Return the folder that image names are relative to; ``root`` where there is no ``leftImg8bit`` near it."""
    if images is not None:
        return images
    near = [root / "leftImg8bit", *sorted(root.glob("*/leftImg8bit")), root.parent / "leftImg8bit"]
    return next((folder for folder in near if folder.is_dir()), root)


def _bases(root: Path, kind: str) -> list[Path]:
    """Folders that may hold the splits of one kind of annotation."""
    bases = [root / kind, *sorted(root.glob(f"*/{kind}"))]
    if root.name == kind or any((root / split).is_dir() for split in _SPLITS):
        bases.insert(0, root)
    return [base for base in bases if base.is_dir()]


def _annotated(base: Path, split: str, kind: str) -> list[Frame]:
    found: dict[str, dict[str, str]] = {}
    for path in walk_files(str(base / split), lambda name: name.endswith(("_instanceIds.png", "_polygons.json"))):
        match = _ANNOTATION.fullmatch(Path(os.path.relpath(path, base)).as_posix())
        if match and match[2] == kind:
            found.setdefault(match[1], {})[match[3]] = path
    return [
        Frame(name, name + _IMAGE, files.get("instanceIds.png"), files.get("polygons.json"))
        for name, files in sorted(found.items())
    ]


def _bare(images: Path, split: str) -> list[Frame]:
    paths = walk_files(str(images / split), lambda name: name.endswith(_IMAGE))
    names = [Path(os.path.relpath(path, images)).as_posix() for path in paths]
    return [Frame(name.removesuffix(_IMAGE), name, None, None) for name in names]
