"""What a conversion did, as text for people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from converters.formats import Conversion
from converters.records import ConversionLog

_MOST_CLASSES = 40  # a longer table helps nobody
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def summary_lines(result: Conversion) -> list[str]:
    """Images and instances by class and split as a table, what was left out and why, and what was decided."""
    rows = [("", *map(printable, result.splits)), *_counts(result)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        " ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return [*table, f"file names are relative to {printable(str(result.image_root))}", *log_lines(result.log)]


def _counts(result: Conversion) -> Iterator[tuple[str, ...]]:
    """Rows of the table: what is counted, and how many of it there are in each split."""
    splits = list(result.splits.values())
    yield ("images", *(f"{len(coco['images']):,}" for coco in splits))
    without = [len(coco["images"]) - len({a["image_id"] for a in coco["annotations"]}) for coco in splits]
    if any(without):
        yield ("images without instances", *(f"{count:,}" for count in without))
    yield ("instances", *(f"{len(coco['annotations']):,}" for coco in splits))
    categories = splits[0]["categories"]
    found = [Counter(a["category_id"] for a in coco["annotations"]) for coco in splits]
    for category in categories[:_MOST_CLASSES]:
        yield (f"  {printable(category['name'])}", *(f"{counts[category['id']]:,}" for counts in found))
    if len(categories) > _MOST_CLASSES:
        yield (f"  and {len(categories) - _MOST_CLASSES} more classes", *("" for _ in splits))


def log_lines(log: ConversionLog) -> list[str]:
    """Lines of text: what was left out, repaired and decided, most frequent first, with an example each."""
    lines = []
    for title, counts in (("left out", log.dropped), ("noted", log.notes)):
        for reason, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
            example = log.examples.get(reason, [""])[0]
            lines.append(f"{title}: {count:,} x {reason} (as in {example})")
    if log.bad_files:
        lines.append(f"skipped: {len(log.bad_files):,} files that could not be read")
        lines += [f"  {error}" for error in log.bad_files[:10]]
    return [printable(line) for line in lines]


def printable(text: str) -> str:
    """The text on one line, with control characters and bytes of names that are not UTF-8 spelled out."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
