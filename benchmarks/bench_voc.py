"""VOC to COCO against the floor (read, parse, dump) and against PaddleDetection's x2coco, in one run.

    python benchmarks/bench_voc.py [--files 20000] [--repeats 3] [--memory 1000000]

``PADDLEDETECTION_ROOT`` names a checkout of PaddleDetection; without it that row is left out. Seconds are CPU seconds
of one process and its children, the median of the repeats; the table shows ratios, which travel better.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(sys.executable)
LABELS = ("person", "car", "dog", "traffic light", "bus")

FLOOR = """
import os, sys, orjson
from lxml import etree
folder, coco, out = sys.argv[1:]
for name in sorted(os.listdir(folder)):
    with open(os.path.join(folder, name), "rb") as file:
        etree.fromstring(file.read())
result = orjson.loads(open(coco, "rb").read())
import time
start = time.process_time()
data = orjson.dumps(result)
open(out, "wb").write(data)
print(time.process_time() - start, file=sys.stderr)
"""


def write_set(folder: Path, count: int, objects: float = 6.0) -> None:
    """LabelImg files of six objects on average, as in the published figures."""
    folder.mkdir(parents=True)
    rng = random.Random(0)
    for number in range(count):
        name = f"{number:07d}"
        (folder / f"{name}.xml").write_text(_xml(name, rng, rng.randint(0, round(2 * objects))))


def _xml(name: str, rng: random.Random, objects: int) -> str:
    parts = [
        f"<annotation>\n\t<folder>images</folder>\n\t<filename>{name}.jpg</filename>\n\t<path>/data/{name}.jpg</path>\n"
        "\t<source>\n\t\t<database>Unknown</database>\n\t</source>\n\t<size>\n\t\t<width>1280</width>\n"
        "\t\t<height>720</height>\n\t\t<depth>3</depth>\n\t</size>\n\t<segmented>0</segmented>\n"
    ]
    for _ in range(objects):
        x, y = rng.randint(1, 1000), rng.randint(1, 500)
        parts.append(
            f"\t<object>\n\t\t<name>{rng.choice(LABELS)}</name>\n\t\t<pose>Unspecified</pose>\n"
            f"\t\t<truncated>{rng.randint(0, 1)}</truncated>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n"
            f"\t\t\t<xmin>{x}</xmin>\n\t\t\t<ymin>{y}</ymin>\n\t\t\t<xmax>{x + rng.randint(5, 250)}</xmax>\n"
            f"\t\t\t<ymax>{y + rng.randint(5, 200)}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        )
    return "".join([*parts, "</annotation>\n"])


def measure(command: list[str], environment: dict[str, str] | None = None) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and peak MB of a command and its children."""
    start = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **(environment or {})}
    )
    _, errors = process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(errors.decode())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - start, after.ru_maxrss / 1024


def startup(imports: str) -> float:
    return statistics.median(measure([sys.executable, "-c", imports])[0] for _ in range(3))


def commands(folder: Path, work: Path) -> dict[str, list[str]]:
    ours = ["-m", "converters.cli", "voc", str(folder), "-o"]
    rows = {
        "floor: read, lxml, orjson": ["-c", FLOOR, str(folder), str(work / "ours.json"), str(work / "floor.json")],
        "annotune-convert": [*ours, str(work / "ours.json")],
        "annotune-convert --jobs 2": [*ours, str(work / "two.json"), "--jobs", "2"],
    }
    root = os.environ.get("PADDLEDETECTION_ROOT")
    if root:
        names, labels = work / "names.txt", work / "labels.txt"
        names.write_text("".join(f"{path.name}\n" for path in sorted(folder.iterdir())))
        labels.write_text("\n".join(label.replace(" ", "_") for label in LABELS))
        rows["PaddleDetection x2coco"] = [
            str(Path(root) / "tools/x2coco.py"), "--dataset_type", "voc", "--voc_anno_dir", str(folder),
            "--voc_anno_list", str(names), "--voc_label_list", str(labels), "--output_dir", str(work),
            "--voc_out_name", "paddle.json",
        ]  # fmt: skip
    return {name: [sys.executable, *arguments] for name, arguments in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--objects", type=float, default=6.0, help="mean objects per file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = work / "Annotations"
        write_set(folder, options.files, options.objects)
        rows = commands(folder, work)
        measure(rows["annotune-convert"])  # makes the result that the floor dumps, and warms the disk
        figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in rows}
        for _ in range(options.repeats):
            for name, command in rows.items():
                figures[name].append(measure(command))
        report(figures, options.files, (work / "two.json").read_bytes() == (work / "ours.json").read_bytes())


def report(figures: dict[str, list[tuple[float, float, float]]], files: int, same: bool) -> None:
    print(f"{files} XML files, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'':30} {'CPU s':>8} {'wall s':>8} {'x floor':>8} {'peak MB':>8}")
    floor = statistics.median(cpu for cpu, _, _ in figures["floor: read, lxml, orjson"])
    for name, rounds in figures.items():
        cpu, wall, peak = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:30} {cpu:8.2f} {wall:8.2f} {cpu / floor:8.2f} {peak:8.0f}")
    print(f"--jobs 2 writes the same bytes: {same}")


if __name__ == "__main__":
    main()
