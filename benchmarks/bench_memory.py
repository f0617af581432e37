"""Peak memory of one process that converts a million VOC files.

    python benchmarks/bench_memory.py [--files 1000000] [--objects 3] [--distinct 20000]

The files are hard links to fewer distinct ones, so that they take folder entries and hardly any disk; every link is
opened, read and parsed like a file of its own. VOC2012 has 2.4 objects in an image.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from bench_voc import measure_whole, write_set


def link_set(distinct: Path, folder: Path, count: int) -> None:
    """Fill ``folder`` with ``count`` links, ten thousand to a subfolder."""
    sources = sorted(distinct.iterdir())
    for number in range(count):
        below = folder / f"{number // 10_000:04d}"
        if number % 10_000 == 0:
            below.mkdir(parents=True)
        os.link(sources[number % len(sources)], below / f"{number:07d}.xml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--objects", type=float, default=3.0, help="mean objects per file")
    parser.add_argument("--distinct", type=int, default=20_000, help="files that are written; the rest are links")
    options = parser.parse_args()
    command = [sys.executable, "-m", "converters.cli", "voc"]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_set(work / "distinct", options.distinct, options.objects)
        link_set(work / "distinct", work / "Annotations", options.files)
        start = measure_whole([*command, "--help"])
        figures = measure_whole([*command, str(work / "Annotations"), "-o", str(work / "coco.json")])
        with (work / "coco.json").open("rb") as file:
            instances = sum(line.count(b'"category_id":') for line in file)
        size = (work / "coco.json").stat().st_size
    each = 1024 * (figures.peak - start.peak) / instances
    print(f"{options.files:,} XML files, {instances:,} objects, {size / 1e6:,.0f} MB of COCO")
    print(f"{figures.cpu:.1f} CPU s, {figures.wall:.1f} s by the clock, peak {figures.peak:,.0f} MB")
    print(f"{each:.2f} KB for each instance, its share of the images included")


if __name__ == "__main__":
    main()
