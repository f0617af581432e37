"""The formats that can be read, by name, and the one call that turns a dataset into COCO."""

from __future__ import annotations

import inspect
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import orjson

from converters.coco import Coco, merge_coco, to_coco
from converters.coco_source import coco_categories, read_coco
from converters.collection import paused_collection
from converters.errors import DatasetError
from converters.kitti import kitti_images, read_kitti
from converters.labelme import labelme_categories, read_labelme
from converters.records import ConversionLog, ImageRecord
from converters.splits import check_shares, split_of
from converters.voc import read_voc
from converters.voc_layout import find_layout
from converters.widerface import read_widerface
from converters.yolo import read_yolo, yolo_names

Reader = Callable[..., Iterator[ImageRecord]]
Categories = Sequence[str | Mapping[str, Any]]


def _given_or_root(root: Path, images: Path | None) -> Path:
    return images or root


@dataclass(frozen=True)
class Format:
    """A format: its reader, and what the reader alone can't tell."""

    name: str
    summary: str  # one line: what is read
    read: Reader
    image_root: Callable[[Path, Path | None], Path] = _given_or_root  # what file names are relative to
    categories: Callable[[Path, Mapping[str, Any]], Categories] | None = None  # in the order the source has

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the reader's own options."""
        shared = {"root", "split", "images", "categories", "shard", "log"}
        return tuple(name for name in inspect.signature(self.read).parameters if name not in shared)

    @property
    def parameters(self) -> frozenset[str]:
        """Every parameter the reader has."""
        return frozenset(inspect.signature(self.read).parameters)


FORMATS: Mapping[str, Format] = MappingProxyType({
    format_.name: format_
    for format_ in (
        Format(
            "voc",
            "Pascal VOC XML: devkits, LabelImg, CVAT, Roboflow; boxes, polygons, SegmentationObject masks",
            read_voc,
            lambda root, images: find_layout(root, images).images,
        ),
        Format(
            "labelme",
            "labelme JSON: polygons, rectangles, circles, bitmaps, grouped parts",
            read_labelme,
            categories=lambda root, options: labelme_categories(root) or (),
        ),
        Format(
            "yolo",
            "YOLO text files: boxes, oriented boxes and segments, class names from data.yaml or classes.txt",
            read_yolo,
            categories=lambda root, options: yolo_names(root, options.get("names")),
        ),
        Format("widerface", "WIDER FACE: the lists of faces of train and val", read_widerface),
        Format("kitti", "KITTI object labels: the 2D boxes of label_2", read_kitti, kitti_images),
        Format(
            "coco",
            "COCO JSON: to pick classes, merge, renumber or split anew",
            read_coco,
            lambda root, images: images or (root.parent if root.is_file() else root),
            lambda root, options: coco_categories(root),
        ),
    )
})  # fmt: skip


@dataclass(frozen=True)
class Conversion:
    """COCO datasets by split, all with the same categories, and how they came about."""

    splits: dict[str, Coco] = field(repr=False)
    image_root: Path  # file names are relative to it
    log: ConversionLog = field(repr=False)


def convert(
    format: str,  # noqa: A002 (the word the user knows it by)
    root: Path,
    splits: Mapping[str, str | float] | None = None,
    *,
    images: Path | None = None,
    categories: Sequence[str] | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    jobs: int = 1,
    shard: tuple[int, int] | None = None,
    log: ConversionLog | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Conversion:
    """Read a dataset of any known format into COCO.

    Args:
        format: a key of :data:`FORMATS`.
        root: the dataset, as its reader takes it.
        splits: for each split what belongs to it: a selector of the format (an image set, a list file, a folder), or a
            share from 0 to 1 chosen by a stable hash of the file name. ``None``: one split named "all".
        images: the image root, where the format does not tell.
        categories: the classes in the order of their ids; objects of other classes are dropped and counted.
            ``None``: the order of the source where it has one, else all that occur, alphabetically.
        options: options of the reader, by name.
        jobs: processes that read.
        shard: ``(i, n)``: only the i-th of n parts; :func:`merge_coco` joins the results.
        log: takes what was dropped, repaired and decided.
        progress: called with the number of images read since the last call.

    Raises:
        DatasetError: an unknown format or option, shares that don't add up, a split without images.
        AnnotationError: a file cannot be read, unless ``log.skip_bad``.
    """
    chosen = find_format(format)
    options = read_options(chosen, options)
    log = log if log is not None else ConversionLog()
    run = _Run(chosen, root, images, categories, options, shard, log.skip_bad)
    splits = splits or {"all": 1.0}
    shares = _shares(splits)
    parts: dict[str, list[Coco]] = {name: [] for name in splits}
    for name, selector in [("", None)] if shares else splits.items():
        with paused_collection():
            for by_name, part_log in run.read(selector, shares or {name: 1.0}, jobs, progress):
                log.merge(part_log)
                for split, part in by_name.items():
                    parts[split].append(part)
    order = _order(chosen, root, options, categories, parts)
    with paused_collection():
        datasets = {name: merge_coco(own, order) for name, own in parts.items()}
    _check_not_empty(datasets, root, bool(shares), shard, log)
    return Conversion(datasets, chosen.image_root(root, images), log)


def find_format(name: str) -> Format:
    """The format of that name; DatasetError with the nearest one if there is none."""
    if name not in FORMATS:
        raise DatasetError(f"no format {name!r}{_nearest(name, FORMATS)}. There are {', '.join(FORMATS)}")
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
                f"{chosen.name} has no option {name!r}{_nearest(name, chosen.options)}. "
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


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _shares(splits: Mapping[str, str | float]) -> dict[str, float]:
    """The shares, if that is what the splits are; empty for selectors."""
    numbers = {name: float(share) for name, share in splits.items() if not isinstance(share, str)}
    if numbers and len(numbers) < len(splits):
        raise DatasetError(f"the splits {dict(splits)} mix shares with selectors: use one or the other")
    if numbers:
        check_shares(numbers)
    return numbers


def _order(
    chosen: Format,
    root: Path,
    options: Mapping[str, Any],
    categories: Categories | None,
    parts: Mapping[str, list[Coco]],
) -> Categories:
    """The one list of categories of all splits."""
    if categories is not None:
        return categories
    found = {entry["name"] for own in parts.values() for part in own for entry in part["categories"]}
    known = chosen.categories(root, options) if chosen.categories else ()
    names = {entry if isinstance(entry, str) else entry["name"] for entry in known}
    return [*known, *sorted(found - names)]


def _check_not_empty(
    datasets: Mapping[str, Coco], root: Path, by_share: bool, shard: tuple[int, int] | None, log: ConversionLog
) -> None:
    empty = [name for name, coco in datasets.items() if not coco["images"]]
    if shard is not None or not empty:
        return
    if len(empty) == len(datasets) or not by_share:
        skipped = f"; {len(log.bad_files)} files could not be read" if log.bad_files else ""
        raise DatasetError(f"no images in split {empty[0]!r} of {root}{skipped}")
    for name in empty:
        log.note("split without images: too few for its share", name)


@dataclass(frozen=True)
class _Run:
    """What one conversion reads; travels to the processes that read."""

    format: Format
    root: Path
    images: Path | None
    categories: Sequence[str] | None
    options: dict[str, Any]
    shard: tuple[int, int] | None
    skip_bad: bool

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "format": self.format.name}  # readers that are lambdas need not travel

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, format=FORMATS[state["format"]])

    def read(
        self, selector: Any, shares: Mapping[str, float], jobs: int, progress: Callable[[int], None]
    ) -> Iterator[tuple[dict[str, Coco], ConversionLog]]:
        """Yield what each process found, by split."""
        if jobs <= 1 or "shard" not in self.format.parameters or self.shard is not None:
            yield self.read_shard(selector, shares, self.shard, progress)
            return
        context = multiprocessing.get_context("spawn")  # a fork copies the locks of other threads as they stand
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            futures = [pool.submit(_read_in_process, self, selector, shares, (i, jobs)) for i in range(jobs)]
            for future in futures:
                data, log = future.result()
                by_name = orjson.loads(data)
                progress(sum(len(part["images"]) for part in by_name.values()))
                yield by_name, log

    def read_shard(
        self, selector: Any, shares: Mapping[str, float], shard: tuple[int, int] | None, progress: Callable[[int], None]
    ) -> tuple[dict[str, Coco], ConversionLog]:
        log = ConversionLog(self.skip_bad)
        given = {"split": selector, "images": self.images, "categories": self.categories, "shard": shard, "log": log}
        known = {name: value for name, value in given.items() if name in self.format.parameters}
        if shard is not None and "shard" not in known:
            raise DatasetError(f"{self.format.name} cannot be read in shards")
        records = _only(self.format.read(self.root, **known, **self.options), self.categories, log, progress)
        if len(shares) == 1:
            return {name: to_coco(records) for name in shares}, log
        by_name: dict[str, list[ImageRecord]] = {name: [] for name in shares}
        for record in records:
            by_name[split_of(record.file_name, shares)].append(record)
        return {name: to_coco(own) for name, own in by_name.items()}, log


def _read_in_process(
    run: _Run, selector: Any, shares: Mapping[str, float], shard: tuple[int, int]
) -> tuple[bytes, ConversionLog]:
    """JSON travels and unpacks faster than pickled dicts."""
    with paused_collection():
        by_name, log = run.read_shard(selector, shares, shard, lambda count: None)
    return orjson.dumps(by_name), log


def _only(
    records: Iterable[ImageRecord],
    categories: Sequence[str] | None,
    log: ConversionLog,
    progress: Callable[[int], None],
) -> Iterator[ImageRecord]:
    """Drop what is not among the categories, for readers that do not, and count the images."""
    wanted = None if categories is None else frozenset(categories)
    for count, record in enumerate(records, 1):
        if count % 200 == 0:
            progress(200)
        if wanted is None or all(instance.category in wanted for instance in record.instances):
            yield record
            continue
        for instance in record.instances:
            if instance.category not in wanted:
                log.drop(f"class {instance.category!r} is not among the categories", record.source)
        kept = tuple(instance for instance in record.instances if instance.category in wanted)
        yield ImageRecord(record.file_name, record.width, record.height, kept, record.source, record.attributes)
