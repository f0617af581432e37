"""Where a VOC dataset keeps its parts: which XML files a split names, and which image belongs to which XML."""

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

_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "imgs", "img")
_IMAGE_SETS = ("Main", "Segmentation", "Layout", "Action", "")


@dataclass(frozen=True)
class VocLayout:
    """The folders of one dataset: a devkit, a folder of XML beside images, or a folder of XML alone."""

    root: Path
    annotations: Path
    images: Path


def find_layout(root: Path, images: Path | None = None) -> VocLayout:
    """Tell the folders of a VOC dataset apart.

    Raises:
        DatasetError: ``root`` or ``images`` is not a folder.
    """
    for folder in (root, images):
        if folder is not None and not folder.is_dir():
            raise DatasetError(f"{folder} is not a folder")
    annotations = next((root / name for name in ("Annotations", "annotations") if (root / name).is_dir()), root)
    if images is None:
        beside = (annotations.parent if annotations != root else root, *([root.parent] if _only_xml(root) else []))
        candidates = (parent / name for parent in beside for name in _IMAGE_FOLDERS)
        images = next((folder for folder in candidates if folder.is_dir()), root)
    return VocLayout(root, annotations, images)


def _only_xml(folder: Path) -> bool:
    """An annotations folder handed over as the root: nothing but XML in it."""
    names = [entry.name for entry in os.scandir(folder)]
    return bool(names) and all(name.lower().endswith(".xml") for name in names)


def find_xml(layout: VocLayout, split: str | None) -> tuple[list[str], list[str]]:
    """XML files of a split as sorted paths, and the entries of its list for which there is none.

    ``split`` is the name of an image set (``train`` is ``ImageSets/Main/train.txt``; in a folder of devkits
    ``VOC2007/train`` is one of VOC2007's), a list file, a subfolder, or ``None`` for every ``*.xml``.

    Raises:
        DatasetError: there is no such split, or nothing in it.
    """
    if split is None:
        return _xml_under(layout.annotations), []
    listed = _list_file(layout, split)
    if listed is not None:
        return _listed_xml(layout, listed)
    for folder in (layout.root / split, layout.annotations / split):
        if folder.is_dir():
            return _xml_under(folder), []
    sets = [*layout.root.glob("ImageSets/Main/*.txt"), *layout.root.glob("*/ImageSets/Main/*.txt")]
    known = sorted(f"{path.parents[2].relative_to(layout.root) / path.stem}" for path in sets)
    raise DatasetError(
        f"{layout.root} has no split {split!r}: neither ImageSets/Main/{split}.txt nor a list file or folder of that "
        f"name" + (f". Its image sets are {', '.join(known[:20])}" if known else "")
    )


def _xml_under(folder: Path) -> list[str]:
    found = walk_files(str(folder), lambda name: name.lower().endswith(".xml"), folders=True)
    if not found:
        raise DatasetError(f"no *.xml file in {folder}. Is it the folder with the annotations?")
    return found


def _list_file(layout: VocLayout, split: str) -> Path | None:
    devkit, _, name = split.replace("\\", "/").rpartition("/")
    sets = [
        path / "ImageSets" / kind / f"{known}.txt"
        for path, known in ((layout.root, split), (layout.root / devkit, name))
        for kind in _IMAGE_SETS
    ]
    is_folder = (layout.root / split).is_dir()
    candidates = [*sets, layout.root / split, *([] if is_folder else [layout.root / f"{split}.txt"])]
    return next((path for path in candidates if path.is_file()), None)


def _listed_xml(layout: VocLayout, listed: Path) -> tuple[list[str], list[str]]:
    found: set[str] = set()
    missing: list[str] = []
    lines = read_list(listed)
    own = _own_annotations(layout, listed)
    resolve = _Resolver(layout, listed.parent, own)
    for line in lines:
        path = next((path for entry in list_entries(line) if (path := resolve(entry))), None)
        if path is None:
            missing.append((Path(os.path.relpath(own, layout.annotations)) / list_entries(line)[-1]).as_posix())
        else:
            found.add(path)
    if not lines:
        raise DatasetError(f"the list {listed} is empty")
    return sorted(found), missing


def _own_annotations(layout: VocLayout, listed: Path) -> Path:
    """Where the entries of a list lie: in the annotations of its own devkit, where it is an image set of one within."""
    devkit = next((folder.parent for folder in listed.parents if folder.name == "ImageSets"), layout.root)
    within = devkit.is_relative_to(layout.root) and (devkit / "Annotations").is_dir()
    return devkit / "Annotations" if within else layout.annotations


class _Resolver:
    """From an entry of a list to the XML file it means, which lies under the dataset's root."""

    def __init__(self, layout: VocLayout, beside: Path, own: Path) -> None:
        self.folders = [str(own), str(layout.root), str(beside)]
        self.flat = {entry.name for entry in os.scandir(own) if entry.is_file()}

    def __call__(self, entry: str) -> str | None:
        entry = posixpath.normpath(entry.replace("\\", "/"))
        base = posixpath.basename(entry)
        names = (entry,) if base == entry else (entry, base)
        for name in names:
            file = name if name.lower().endswith(".xml") else name + ".xml"
            if file in self.flat:
                return f"{self.folders[0]}/{file}"
            if file.startswith(("/", "../")) or "/" not in file:
                continue
            for folder in self.folders:
                if os.path.isfile(f"{folder}/{file}"):  # noqa: PTH113 (hot)
                    return os.path.normpath(f"{folder}/{file}")
        return None


@dataclass
class ImageFinder:
    """Finds the image of an annotation file: by its stem first, as the devkit does, then by what the file says.

    Folders are listed once each and looked up without regard to case.
    """

    images: Path  # the image root: names are relative to it
    annotations: Path
    _listings: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    _folders: dict[str, list[str]] = field(default_factory=dict)

    def __call__(self, xml: str, filename: str, path: str) -> str | None:
        """POSIX name of the image relative to the image root; ``None`` if it is not there.

        Args:
            xml: path of the annotation file.
            filename: ``<filename>`` of it; its last part is tried, whatever separators it uses.
            path: ``<path>`` of it, likewise.
        """
        parent, _, name = xml.rpartition("/")
        folders = self._folders.get(parent)
        if folders is None:
            folders = self._folders[parent] = [folder for folder in self._candidates(parent) if self._listing(folder)]
        if not folders:
            return None
        wanted = filename.replace("\\", "/").rpartition("/")[2]
        for candidate in (name[:-4], wanted, path.replace("\\", "/").rpartition("/")[2]):
            for folder in folders:
                found = self._look(folder, candidate, wanted)
                if found is not None:
                    return f"{folder}/{found}" if folder else found
        return None

    def _look(self, folder: str, name: str, preferred: str) -> str | None:
        names = self._listing(folder).get(name.lower())
        if not names:
            return None
        if len(names) == 1:
            return names[0]
        # a.jpg, A.jpg, a.png: the one that <filename> names, else of the same case, else the first.
        exact = [other for other in names if other == name or other.rpartition(".")[0] == name]
        return preferred if preferred in names else (exact or names)[0]

    def _listing(self, folder: str) -> dict[str, list[str]]:
        """Image names of a folder by lower-case name and by lower-case stem."""
        listing = self._listings.get(folder)
        if listing is None:
            listing = self._listings[folder] = {}
            path = self.images / folder
            names = sorted(entry.name for entry in os.scandir(path) if _is_image(entry)) if path.is_dir() else []
            for name in names:
                for key in {name.lower(), name.lower().rpartition(".")[0]}:
                    listing.setdefault(key, []).append(name)
        return listing

    def _candidates(self, parent: str) -> list[str]:
        """Folders, relative to the image root, where images of the XML files in ``parent`` may lie."""
        mirrored = os.path.relpath(parent, self.annotations)
        beside = [str(Path(parent).parent / name) for name in _IMAGE_FOLDERS]
        options = [str(self.images / mirrored), str(self.images), parent, *beside]
        relative = (Path(os.path.relpath(option, self.images)).as_posix() for option in options)
        return list(dict.fromkeys("" if name == "." else name for name in relative if not name.startswith("..")))

    def every_image(self) -> Iterator[str]:
        """All images under the image root, sorted."""
        for path in walk_files(str(self.images), _is_image_name):
            yield Path(os.path.relpath(path, self.images)).as_posix()


def _is_image(entry: os.DirEntry[str]) -> bool:
    return _is_image_name(entry.name) and entry.is_file()


def _is_image_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (hot)
