"""Where a labelme dataset keeps its parts: the JSON files of a split, and the image that each is about."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from converters.errors import DatasetError
from converters.files import walk_files
from converters.pictures import IMAGE_SUFFIXES
from converters.splits import list_entries, read_list

_FOLDERS = ("images", "JPEGImages", "imgs", "img", "Images")  # beside a folder of annotations
_SAME = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}


def find_files(root: Path, split: str | None) -> tuple[list[str], list[str]]:
    """The JSON files of a split, sorted, and the entries of its list for which there is none.

    ``split`` is a subfolder, a list file (``train`` or ``train.txt``), or ``None`` for every ``*.json``.

    Raises:
        DatasetError: there is no such split, no file in it, or a line of the list may mean several.
    """
    listed = None if split is None else next((p for p in (root / split, root / f"{split}.txt") if p.is_file()), None)
    if split is not None and listed is None and not (root / split).is_dir():
        raise DatasetError(f"{root} has no split {split!r}: neither a folder nor a list file of that name")
    folder = root if listed is not None or split is None else root / split
    files = walk_files(str(folder), lambda name: name.lower().endswith(".json"))
    if not files:
        raise DatasetError(f"no *.json file in {folder}. Is it the folder with the annotations?")
    return (files, []) if listed is None else _listed(files, root, read_list(listed))


def _listed(files: list[str], root: Path, lines: list[str]) -> tuple[list[str], list[str]]:
    """Match the lines of a list with files by their path below the root, or by their name alone."""
    by_name: dict[str, list[str]] = {}
    for path in files:
        below = path[len(str(root)) + 1 : -len(".json")]
        for key in {below, below.rpartition("/")[2]}:
            by_name.setdefault(key, []).append(path)
    found: set[str] = set()
    missing = []
    for line in lines:
        entries = [posixpath.normpath(entry.replace("\\", "/")) for entry in list_entries(line)]
        keys = [key[:-5] if key.lower().endswith(".json") else key for key in entries]
        keys += [key.rpartition("/")[2] for key in keys]
        match = next((by_name[key] for key in keys if key in by_name), None)
        if match is None:
            missing.append(line)
        elif len(match) > 1:
            raise DatasetError(f"the list names {line!r}, which may be {' or '.join(match[:3])}: give its folder, too")
        else:
            found.add(match[0])
    return sorted(found), missing


@dataclass
class ImageFinder:
    """Finds images under one root; every folder is listed once, names are compared without regard to case."""

    root: Path  # the image root: nothing outside it is found
    annotations: Path
    _listings: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    _near: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)

    def find(self, path: str, image_path: str) -> str | None:
        """POSIX name, relative to the root, of the image that the annotation file ``path`` is about.

        labelme's own rule comes first: the image beside the file with the file's stem. Then the place ``imagePath``
        names, which may be a Windows path; of an absolute one, as of one that leaves the root, only the name counts.
        """
        parent, _, name = path.rpartition("/")
        stem = name.rpartition(".")[0]
        said = image_path.replace("\\", "/")
        wanted = said.rpartition("/")[2]
        near, far = self._near.get(parent) or self._near.setdefault(parent, self._folders(parent))
        if "/" in said and wanted.rpartition(".")[0].lower() == stem.lower():
            found = self._exactly(parent, said)
            if found:
                return found
        for folder in near:
            if (found := self._look(folder, stem, wanted)) is not None:
                return found
        if "/" in said and (found := self._exactly(parent, said)):
            return found
        for candidate in (wanted, stem):
            for folder in (*near, *far):
                if candidate and (found := self._look(folder, candidate, wanted)) is not None:
                    return found
        return None

    def every_image(self, folder: Path) -> Iterator[str]:
        """Names of all images under a folder, relative to the root, sorted."""
        for parent, folders, _ in sorted(os.walk(folder)):
            folders.sort()
            relative = self._relative(parent)
            if relative is not None:
                names = {name for own in self._listing(relative).values() for name in own}
                yield from (posixpath.join(relative, name) for name in sorted(names))

    def _exactly(self, parent: str, said: str) -> str | None:
        for base in (parent, str(self.root)):
            folder = self._relative(os.path.join(base, posixpath.dirname(said)))  # noqa: PTH118 (hot)
            if folder is not None and (found := self._look(folder, posixpath.basename(said), "")) is not None:
                return found
        return None

    def _look(self, folder: str, name: str, preferred: str) -> str | None:
        """The image of that name, or of that stem; ``preferred`` decides between several."""
        names = self._listing(folder).get(name.lower())
        if not names:
            return None
        exact = [other for other in names if name in {other, other.rpartition(".")[0]}]
        chosen = preferred if preferred in names else (exact or names)[0]
        return f"{folder}/{chosen}" if folder else chosen

    def _listing(self, folder: str) -> dict[str, list[str]]:
        """Image names of a folder, by lower-case name and by lower-case stem."""
        listing = self._listings.get(folder)
        if listing is None:
            listing = self._listings[folder] = {}
            for name in _image_names(self.root / folder):
                for key in {name.lower(), name.lower().rpartition(".")[0]}:
                    listing.setdefault(key, []).append(name)
        return listing

    def _folders(self, parent: str) -> tuple[list[str], list[str]]:
        """Folders for the files in ``parent``: where a stem is enough, and where else to look."""
        mirrored = str(self.root / os.path.relpath(parent, self.annotations))
        beside = [f"{posixpath.dirname(parent)}/{name}" for name in _FOLDERS]
        inside = [str(self.root / name) for name in _FOLDERS]
        near, far = ([self._relative(folder) for folder in group] for group in ([parent, mirrored], [
            str(self.root), *beside, *inside,
        ]))  # fmt: skip
        return [f for f in dict.fromkeys(near) if f is not None], [f for f in dict.fromkeys(far) if f is not None]

    def _relative(self, folder: str) -> str | None:
        """A folder relative to the root, ``""`` for the root itself, ``None`` for one outside."""
        relative = Path(os.path.relpath(folder, self.root)).as_posix()
        if relative == ".":
            return ""
        return None if relative.split("/")[0] == ".." else relative


def _image_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file()  # noqa: PTH122 (hot)
    )


def name_without_image(relative: str, image_path: str, suffix: str = "") -> str:
    """The name an image would have beside its annotation file.

    Args:
        relative: the annotation file, relative to the root of annotations.
        image_path: ``imagePath`` of it; the last part counts, unless that is no image's name.
        suffix: what the image's format wants it to end in, if that is known.
    """
    name = image_path.replace("\\", "/").rpartition("/")[2]
    stem, _, ending = name.rpartition(".")
    ending = f".{ending.lower()}"
    fits = ending in IMAGE_SUFFIXES and (not suffix or _SAME.get(ending, ending) == suffix)
    if not (stem and fits and name.isprintable()):
        name = relative.rpartition("/")[2].rpartition(".")[0] + (suffix or ".jpg")
    return posixpath.join(posixpath.dirname(relative), name)
