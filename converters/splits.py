"""Which images go where: shares by a stable hash of the file name, or the lists that datasets bring along."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from converters.errors import DatasetError
from converters.pictures import IMAGE_SUFFIXES
from converters.records import ImageRecord

Splits: TypeAlias = Mapping[str, str | float | Sequence[str]]
"""For each split a share, or what the source calls its images: an image set, a list file, a folder, or several."""


def selectors(splits: Splits) -> Iterator[tuple[str, str]]:
    """What is to be read for each split, one after the other, where they are no shares."""
    for name, chosen in splits.items():
        assert not isinstance(chosen, float | int)
        yield from ((name, one) for one in ([chosen] if isinstance(chosen, str) else chosen))


def split_by_hash(records: Iterable[ImageRecord], shares: Mapping[str, float]) -> dict[str, list[ImageRecord]]:
    """Divide records by name, so that an image stays in its split whatever is added or removed around it.

    Args:
        records: what to divide; order is kept within a split.
        shares: split name to share, 0..1, together 1, e.g. ``{"train": 0.8, "val": 0.2}``.

    Returns:
        One list per split, in the order of ``shares``; a list may be empty.

    Raises:
        DatasetError: the shares are not numbers from 0 to 1 that add up to 1.
    """
    check_shares(shares)
    splits: dict[str, list[ImageRecord]] = {name: [] for name in shares}
    for record in records:
        splits[split_of(record.file_name, shares)].append(record)
    return splits


def split_of(file_name: str, shares: Mapping[str, float]) -> str:
    """The split an image belongs to; ``shares`` as for :func:`split_by_hash`."""
    digest = hashlib.sha256(file_name.encode("utf-8", "surrogateescape")).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    chosen, reached = "", 0.0
    for name, share in shares.items():
        if share > 0:
            chosen, reached = name, reached + share
            if position < reached:
                break
    return chosen


def check_shares(shares: Mapping[str, float]) -> None:
    """Raise :class:`DatasetError` unless the shares lie in 0..1 and add up to 1."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise DatasetError(f"the share of split {name!r} is {share}, not a number from 0 to 1")
    total = math.fsum(shares.values())
    if abs(total - 1) > 1e-5:
        raise DatasetError(f"the shares {dict(shares)} add up to {total:g}, not to 1")


def read_list(path: Path) -> list[str]:
    """Lines of an image-set file, without comments and blank lines; a byte order mark and CRLF do not matter.

    Raises:
        DatasetError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot read the list: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("gb18030", "replace")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


_COLUMNS = re.compile(r"(.*\S)\s+-?\d+")


def list_entries(line: str) -> list[str]:
    """What a line of an image-set file may name, likeliest first.

    Lists hold one name per line (blanks allowed), ``image xml`` pairs (PaddleDetection), a name with flags behind it
    (``000001 -1`` in class-wise sets, ``000001 1`` in layout sets), a quoted name, or an image's file name.
    """
    if line[:1] in {'"', "'"} and (end := line.find(line[0], 1)) > 0:
        line = line[1:end]
    pair = [token for token in line.split() if token.lower().endswith(".xml")]
    if pair:
        return [line, *pair] if line not in pair else pair
    names = [line]
    while match := _COLUMNS.fullmatch(names[-1]):
        names.append(match[1])
    return [entry for name in names for entry in _without_suffix(name)]


def _without_suffix(name: str) -> tuple[str, ...]:
    stem, dot, suffix = name.rpartition(".")
    return (stem, name) if stem and f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else (name,)


def take_shard(files: Sequence[str], shard: tuple[int, int] | None) -> Sequence[str]:
    """The ``i``-th of ``n`` consecutive slices, ``shard = (i, n)`` with ``i`` from 0; everything for ``None``.

    Raises:
        DatasetError: there is no such slice.
    """
    if shard is None:
        return files
    index, count = shard
    if not 0 <= index < count:
        raise DatasetError(f"there is no shard {index} of {count}: they count from 0")
    return files[len(files) * index // count : len(files) * (index + 1) // count]
