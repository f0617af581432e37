"""The table of formats. Readers are imported when they are used: NumPy alone takes a tenth of a second."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from converters.errors import DatasetError, did_you_mean
from converters.records import ImageRecord

Reader = Callable[..., Iterator[ImageRecord]]
Categories = Sequence[str | Mapping[str, Any]]


@dataclass(frozen=True)
class Format:
    """A format: its reader is ``read_<name>`` in the module ``converters.<module>``."""

    name: str
    summary: str  # one line: what is read
    module: str
    image_root: str = (
        ""  # function (root, images) of the module: what file names are relative to, if not images or root
    )
    categories: str = ""  # function (root, options) of the module: the classes in the order the source has

    @property
    def read(self) -> Reader:
        """The reader."""
        return cast("Reader", self.find(f"read_{self.name}"))

    def find(self, function: str) -> Callable[..., Any]:
        """A function of the format's module."""
        return cast("Callable[..., Any]", getattr(import_module(f"converters.{self.module}"), function))

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the reader's own options."""
        shared = {"root", "split", "images", "categories", "shard", "log"}
        return tuple(name for name in inspect.signature(self.read).parameters if name not in shared)

    @property
    def parameters(self) -> frozenset[str]:
        """Every parameter the reader has."""
        return frozenset(inspect.signature(self.read).parameters)

    @property
    def divisible(self) -> bool:
        """Whether it can be read in shards, and so by several processes; one list cannot."""
        return "shard" in self.parameters

    def find_image_root(self, root: Path, images: Path | None) -> Path:
        """What the file names of the records are relative to."""
        return cast("Path", self.find(self.image_root)(root, images)) if self.image_root else images or root

    def find_categories(self, root: Path, options: Mapping[str, Any]) -> Categories:
        """The classes in the order of the source; empty if it has none."""
        if not self.categories:
            return ()
        function, given = self.find(self.categories), {"root": root, **options}
        wanted = inspect.signature(function).parameters
        return cast("Categories", function(**{name: given[name] for name in wanted if name in given}) or ())


_ROWS = (
    Format(
        "voc",
        "Pascal VOC XML: devkits, LabelImg, CVAT, Roboflow; boxes, polygons, SegmentationObject masks",
        "voc",
        image_root="voc_images",
    ),
    Format(
        "labelme",
        "labelme JSON: polygons, rectangles, circles, bitmaps, grouped parts",
        "labelme",
        categories="labelme_categories",
    ),
    Format(
        "cityscapes",
        "Cityscapes: the visible pixels of each instance, from instanceIds PNGs or polygons",
        "cityscapes",
        image_root="find_image_root",
        categories="cityscapes_categories",
    ),
    Format(
        "yolo",
        "YOLO text files: boxes, oriented boxes and segments, class names from data.yaml or classes.txt",
        "yolo",
        categories="yolo_categories",
    ),
    Format("widerface", "WIDER FACE: the lists of faces of train and val", "widerface"),
    Format("kitti", "KITTI object labels: the 2D boxes of label_2", "kitti", image_root="kitti_images"),
    Format(
        "coco",
        "COCO JSON: to pick classes, merge, renumber or split anew",
        "coco_source",
        image_root="coco_images",
        categories="coco_categories",
    ),
    Format(
        "imagefolder",
        "For classifiers: a folder of pictures for each class, as torchvision's ImageFolder",
        "imagefolder",
    ),
    Format(
        "imagelist",
        "For classifiers: PaddleClas's lists of `path label` lines",
        "imagelist",
        image_root="imagelist_images",
        categories="imagelist_categories",
    ),
)
FORMATS: Mapping[str, Format] = MappingProxyType({row.name: row for row in _ROWS})
"""Every format by its name."""


def find_format(name: str) -> Format:
    """The format of that name; DatasetError with the nearest one if there is none."""
    if name not in FORMATS:
        raise DatasetError(f"no format {name!r}{did_you_mean(name, FORMATS)}. There are {', '.join(FORMATS)}")
    return FORMATS[name]


def read_options(chosen: Format, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the format's reader takes them, text that names a file made a path.

    Raises:
        DatasetError: the reader has no such option, or not of this type.
    """
    hints = get_type_hints(chosen.read)
    for name in options:
        if name not in chosen.options:
            raise DatasetError(
                f"{chosen.name} has no option {name!r}{did_you_mean(name, chosen.options)}. "
                f"It has {', '.join(chosen.options) or 'none'}"
            )
    return {name: _fitting(value, hints[name], f"{chosen.name} option {name!r}") for name, value in options.items()}


def _fitting(value: Any, hint: Any, what: str) -> Any:
    """The value if it is of the type, a path for the text of one; choices are left to the reader, which names them."""
    kinds = set(get_args(hint)) if isinstance(hint, UnionType) else {hint}
    if get_origin(hint) is Literal or (value is None and NoneType in kinds):
        return value
    if Path in kinds and isinstance(value, str):
        return Path(value)
    if float in kinds and type(value) is int:
        return float(value)
    if not any(kind is type(value) or (kind is Path and isinstance(value, Path)) for kind in kinds):
        names = " or ".join(sorted(kind.__name__ for kind in kinds if kind is not NoneType))
        raise DatasetError(f"{what} is {value!r}, not a {names}")
    return value
