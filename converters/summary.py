"""What a conversion did, as tables for people."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from converters.formats import Conversion
from converters.records import ConversionLog

_MOST_CLASSES = 40  # a longer table helps nobody


def print_summary(result: Conversion, console: Console) -> None:
    """Print images and instances by class and split, what was left out and why, and what was decided."""
    console.print(_counts(result))
    console.print(f"file names are relative to {_shown(str(result.image_root))}", soft_wrap=True)
    for line in log_lines(result.log):
        console.print(line, soft_wrap=True, markup=False)


def _counts(result: Conversion) -> Table:
    table = Table("", *(_shown(name) for name in result.splits), box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("images", *(f"{len(coco['images']):,}" for coco in result.splits.values()))
    without = [len(c["images"]) - len({a["image_id"] for a in c["annotations"]}) for c in result.splits.values()]
    if any(without):
        table.add_row("images without instances", *(f"{count:,}" for count in without))
    table.add_row("instances", *(f"{len(coco['annotations']):,}" for coco in result.splits.values()))
    categories = next(iter(result.splits.values()))["categories"]
    found = [Counter(a["category_id"] for a in coco["annotations"]) for coco in result.splits.values()]
    for category in categories[:_MOST_CLASSES]:
        table.add_row(f"  {_shown(category['name'])}", *(f"{counts[category['id']]:,}" for counts in found))
    if len(categories) > _MOST_CLASSES:
        table.add_row(f"  and {len(categories) - _MOST_CLASSES} more classes")
    return table


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
    """The text with bytes of file names that are not UTF-8 spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _shown(text: str) -> str:
    return escape(printable(text))
