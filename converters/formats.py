"""The one call that turns a dataset of any format into COCO, in one process, in several, or in shards."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import orjson

from converters.coco import Coco, merge_coco, to_coco
from converters.collection import paused_collection
from converters.errors import CategoriesError, DatasetError, did_you_mean
from converters.format_table import FORMATS, Categories, Format, find_format, read_options
from converters.records import ConversionLog, ImageRecord, other_class
from converters.splits import Splits, check_shares, selectors, split_of

__all__ = ["FORMATS", "Conversion", "Format", "Progress", "convert", "find_format", "join_shards"]

Progress: TypeAlias = Callable[[int, int], None]
"""Is told of images read since the last call, and of how many there are in all: about, and 0 where nobody knows."""


@dataclass(frozen=True)
class Conversion:
    """COCO datasets by split, all with the same categories, and how they came about."""

    splits: dict[str, Coco] = field(repr=False)
    image_root: Path  # file names are relative to it
    log: ConversionLog = field(repr=False)


@paused_collection()
def convert(
    format: str,  # noqa: A002 (the word the user knows it by)
    root: Path,
    splits: Splits | None = None,
    *,
    images: Path | None = None,
    categories: Sequence[str] | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    jobs: int = 1,
    shard: tuple[int, int] | None = None,
    log: ConversionLog | None = None,
    progress: Progress = lambda count, expected: None,
) -> Conversion:
    """Read a dataset of any known format into COCO.

    Args:
        format: a key of :data:`FORMATS`.
        root: the dataset, as its reader takes it.
        splits: for each split what belongs to it: a selector of the format (an image set, a list file, a folder) or
            several, or a share from 0 to 1 chosen by a stable hash of the file name. ``None``: one split named "all".
        images: the image root, where the format does not tell.
        categories: the classes in the order of their ids; objects of other classes are dropped and counted.
            ``None``: the order of the source where it has one, else all that occur, alphabetically.
        options: options of the reader, by name.
        jobs: processes that read; one list (a format that is not ``divisible``) is read by one.
        shard: ``(i, n)``: only the i-th of n parts; :func:`merge_coco` joins the results.
        log: takes what was dropped, repaired and decided.
        progress: told while images are read.

    Raises:
        DatasetError: an unknown format or option, shares that don't add up, a split without images.
        CategoriesError: there are objects, but none of any of the categories.
        AnnotationError: a file cannot be read, unless ``log.skip_bad``.
    """
    chosen = find_format(format)
    options = read_options(chosen, options)
    log = log if log is not None else ConversionLog()
    run = _Run(chosen, root, images, categories, options, shard, log.skip_bad)
    splits = splits or {"all": 1.0}
    shares = _shares(splits)
    parts: dict[str, list[Coco]] = {name: [] for name in splits}
    for name, selector in [("", None)] if shares else selectors(splits):
        tell = partial(_tell, progress, log.expected)
        for by_name, part_log in run.read(selector, shares or {name: 1.0}, jobs, tell):
            log.merge(part_log)
            for split, part in by_name.items():
                parts[split].append(part)
    result = _joined(chosen, root, images, options, categories, parts, log)
    if shard is None:
        _check_not_empty(result, root, bool(shares))
        _check_categories(result, chosen, root, options, categories)
    return result


def _tell(progress: Progress, before: int, count: int, expected: int) -> None:
    progress(count, before + expected)


@paused_collection()
def join_shards(
    format: str,  # noqa: A002
    root: Path,
    shards: Iterable[Mapping[str, Coco]],
    splits: Splits | None = None,
    *,
    images: Path | None = None,
    categories: Sequence[str] | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    log: ConversionLog | None = None,
) -> Conversion:
    """Put together what :func:`convert` made of all shards of a dataset, to what one run makes of it.

    Args:
        format: as for :func:`convert`; so are ``root``, ``splits``, ``images``, ``categories`` and ``options``.
        root: the dataset; its images are not read again.
        shards: the datasets by split of every shard, in order; they are taken apart.
        splits: of the whole.
        images: of the whole.
        categories: of the whole.
        options: of the whole.
        log: what was counted while the shards were read.

    Raises:
        DatasetError: a split without images, an image in two shards, or no object of any of the categories.
    """
    chosen, splits = find_format(format), splits or {"all": 1.0}
    parts: dict[str, list[Coco]] = {name: [] for name in splits}
    for shard in shards:
        for name, part in shard.items():
            parts[name].append(part)
    given = read_options(chosen, options)
    result = _joined(chosen, root, images, given, categories, parts, log if log is not None else ConversionLog())
    _check_not_empty(result, root, bool(_shares(splits)))
    _check_categories(result, chosen, root, given, categories)
    return result


def _joined(
    chosen: Format,
    root: Path,
    images: Path | None,
    options: Mapping[str, Any],
    categories: Categories | None,
    parts: Mapping[str, list[Coco]],
    log: ConversionLog,
) -> Conversion:
    order = _order(chosen, root, options, categories, parts)
    datasets = {name: merge_coco(own, order, log) for name, own in parts.items()}
    return Conversion(datasets, chosen.find_image_root(root, images), log)


def _shares(splits: Splits) -> dict[str, float]:
    """The shares, if that is what the splits are; empty for selectors."""
    numbers = {name: float(share) for name, share in splits.items() if isinstance(share, float | int)}
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
    known = chosen.find_categories(root, options)
    names = {entry if isinstance(entry, str) else entry["name"] for entry in known}
    return [*known, *sorted(found - names)]


def _check_not_empty(result: Conversion, root: Path, by_share: bool) -> None:
    empty = [name for name, coco in result.splits.items() if not coco["images"]]
    if empty and (len(empty) == len(result.splits) or not by_share):
        bad = len(result.log.bad_files)
        raise DatasetError(
            f"no images in split {empty[0]!r} of {root}{f'; {bad} files could not be read' if bad else ''}"
        )
    for name in empty:
        result.log.note("split without images: too few for its share", name)


def _check_categories(
    result: Conversion, chosen: Format, root: Path, options: Mapping[str, Any], wanted: Sequence[str] | None
) -> None:
    """Note the categories without any object; where that is all of them, and it is not for want of objects, raise."""
    if wanted is None:
        return
    names = {category["id"]: category["name"] for coco in result.splits.values() for category in coco["categories"]}
    found = {names[annotation["category_id"]] for coco in result.splits.values() for annotation in coco["annotations"]}
    absent = [name for name in wanted if name not in found]
    if wanted and not absent:
        return
    others = result.log.other_classes()
    if not others:  # no object of any; some formats say what there could be
        known = chosen.find_categories(root, options)
        others = [entry if isinstance(entry, str) else entry["name"] for entry in known]
    said = _some([f"{name!r}{did_you_mean(name, others)}" for name in absent])
    if not found and (others or not wanted) and not set(others) & set(wanted):
        there = _some(others) or "no objects"
        raise CategoriesError(f"categories: none is in {root}: {said or 'the list is empty'}. It has {there}")
    result.log.note(f"categories without any object: {said}", ", ".join(result.splits))


def _some(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


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

    def read(
        self, selector: Any, shares: Mapping[str, float], jobs: int, progress: Progress
    ) -> Iterator[tuple[dict[str, Coco], ConversionLog]]:
        """Yield what each process found, by split; this one reads the first part while the others start."""
        if jobs <= 1 or not self.format.divisible or self.shard is not None:
            yield self.read_shard(selector, shares, self.shard, progress)
            return
        import multiprocessing  # noqa: PLC0415 (a run in one process does not wait for these)
        from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

        context = multiprocessing.get_context("spawn")  # a fork copies the locks of other threads as they stand
        with ProcessPoolExecutor(jobs - 1, mp_context=context, initializer=_end_quietly) as pool:
            with _interrupts_waiting():
                futures = [pool.submit(_read_in_process, self, selector, shares, (i, jobs)) for i in range(1, jobs)]
            yield self.read_shard(selector, shares, (0, jobs), lambda count, part: progress(count, part * jobs))
            for future in futures:
                data, log = future.result()
                by_name = orjson.loads(data)
                progress(sum(len(part["images"]) for part in by_name.values()), log.expected * jobs)
                yield by_name, log

    def read_shard(
        self, selector: Any, shares: Mapping[str, float], shard: tuple[int, int] | None, progress: Progress
    ) -> tuple[dict[str, Coco], ConversionLog]:
        log = ConversionLog(self.skip_bad)
        given = {"split": selector, "images": self.images, "categories": self.categories, "shard": shard, "log": log}
        known = {name: value for name, value in given.items() if name in self.format.parameters}
        if shard is not None and not self.format.divisible:
            raise DatasetError(f"{self.format.name} cannot be read in shards: it is one list. Convert it as a whole")
        records = _only(self.format.read(self.root, **known, **self.options), self.categories, log, progress)
        if len(shares) == 1:
            return {name: to_coco(records, log=log) for name in shares}, log
        by_name: dict[str, list[ImageRecord]] = {name: [] for name in shares}
        for record in records:
            by_name[split_of(record.file_name, shares)].append(record)
        return {name: to_coco(own, log=log) for name, own in by_name.items()}, log


@contextmanager
def _interrupts_waiting() -> Iterator[None]:
    """Let Ctrl-C wait; processes begun meanwhile begin like that, or it would find them importing and end in traces."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_quietly() -> None:
    """In a process that reads: Ctrl-C, which a terminal sends to all, ends it without a word; the first one speaks.

    Where the first one does not listen (`nohup`, a shell's background), this one does not either.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@paused_collection()
def _read_in_process(
    run: _Run, selector: Any, shares: Mapping[str, float], shard: tuple[int, int]
) -> tuple[bytes, ConversionLog]:
    """JSON travels and unpacks faster than pickled dicts."""
    by_name, log = run.read_shard(selector, shares, shard, lambda count, expected: None)
    return orjson.dumps(by_name), log


def _only(
    records: Iterable[ImageRecord],
    categories: Sequence[str] | None,
    log: ConversionLog,
    progress: Progress,
) -> Iterator[ImageRecord]:
    """Drop what is not among the categories, for readers that do not, and count the images."""
    wanted = None if categories is None else frozenset(categories)
    for count, record in enumerate(records, 1):
        if count % 200 == 0:
            progress(200, log.expected)
        if wanted is None or all(instance.category in wanted for instance in record.instances):
            yield record
            continue
        for instance in record.instances:
            if instance.category not in wanted:
                log.drop(other_class(instance.category), record.source)
        kept = tuple(instance for instance in record.instances if instance.category in wanted)
        yield ImageRecord(record.file_name, record.width, record.height, kept, record.source, record.attributes)
