"""VOC to COCO against the floor (read, parse, dump), PaddleDetection's x2coco and the Rust tools, in one run.

    python benchmarks/bench_voc.py [--files 20000] [--objects 6] [--repeats 3] [--no-peers]

``PADDLEDETECTION_ROOT`` names a checkout of PaddleDetection, ``HOTCOCO`` and ``PANLABEL`` the programs ``coco`` (of
hotcoco) and ``panlabel``, which are otherwise looked for beside this Python; a row whose peer is not there is left out.
Seconds are those of a process and its children, the least of the repeats, which take turns; ratios travel better than
seconds.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

LABELS = ("person", "car", "dog", "bicycle", "bus")

# What no converter in Python can do without; its own CPU seconds go to stdout, start-up not included.
FLOOR = """
import os, sys, time, orjson
from {module} import {parse}
folder, made, out = sys.argv[1:]
start = time.process_time()
for name in sorted(os.listdir(folder)):
    with open(os.path.join(folder, name), "rb") as file:
        {parse}(file.read())
spent = time.process_time() - start
result = orjson.loads(open(made, "rb").read())
start = time.process_time()
with open(out, "wb") as file:
    file.write(orjson.dumps(result))
print(spent + time.process_time() - start)
"""
# The same account of ours: the call, without the start-up of Python and the imports.
OURS = """
import sys, time
from pathlib import Path
import converters.voc  # otherwise imported by the call
from converters import convert, write_coco
folder, out = map(Path, sys.argv[1:])
start = time.process_time()
write_coco(convert("voc", folder).splits["all"], out)
print(time.process_time() - start)
"""
# x2coco draws a progress bar and imports OpenCV for another format; both are spared it here.
PEER = """
import runpy, sys, types
tqdm = types.ModuleType("tqdm")
tqdm.tqdm = iter
sys.modules.update(tqdm=tqdm, cv2=types.ModuleType("cv2"))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Figures(NamedTuple):
    cpu: float  # seconds
    wall: float  # seconds
    peak: float  # MB of the largest process


def write_set(folder: Path, count: int, objects: float = 6.0) -> None:
    """LabelImg files with that many objects on average."""
    folder.mkdir(parents=True)
    rng = random.Random(0)
    for number in range(count):
        name = f"{number:07d}"
        (folder / f"{name}.xml").write_text(_xml(name, rng, rng.randint(0, round(2 * objects))))


def _xml(name: str, rng: random.Random, objects: int) -> str:
    head = (
        f"<annotation>\n\t<folder>images</folder>\n\t<filename>{name}.jpg</filename>\n\t<path>/data/{name}.jpg</path>\n"
        "\t<source>\n\t\t<database>Unknown</database>\n\t</source>\n\t<size>\n\t\t<width>1280</width>\n"
        "\t\t<height>720</height>\n\t\t<depth>3</depth>\n\t</size>\n\t<segmented>0</segmented>\n"
    )
    parts = [head]
    for _ in range(objects):
        x, y = rng.randint(1, 1000), rng.randint(1, 500)
        parts.append(
            f"\t<object>\n\t\t<name>{rng.choice(LABELS)}</name>\n\t\t<pose>Unspecified</pose>\n"
            f"\t\t<truncated>{rng.randint(0, 1)}</truncated>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n"
            f"\t\t\t<xmin>{x}</xmin>\n\t\t\t<ymin>{y}</ymin>\n\t\t\t<xmax>{x + rng.randint(5, 250)}</xmax>\n"
            f"\t\t\t<ymax>{y + rng.randint(5, 200)}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        )
    return "".join([*parts, "</annotation>\n"])


def measure(command: list[str]) -> Figures:
    """A command and its children; where it prints its own CPU seconds, those."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, errors = process.communicate()
    wall = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(errors.decode())
    return Figures(_own_seconds(out), wall, 0.0)


def _own_seconds(out: bytes) -> float:
    return float(out.splitlines()[-1])


# Runs a command in a process of its own, whose children are then only that command's.
METER = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(done.returncode)
"""


def measure_whole(command: list[str]) -> Figures:
    """A command with its start-up and its children."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", METER, *command], capture_output=True, check=False)
    wall = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    cpu, peak = map(float, done.stdout.split())
    return Figures(cpu, wall, peak)


def rows(folder: Path, work: Path, peers: bool) -> dict[str, tuple[bool, list[str]]]:
    """Name to (whether start-up counts, command)."""
    python, made = sys.executable, str(work / "ours.json")
    command = [python, "-m", "converters.cli", "voc", str(folder), "-o"]
    floor = FLOOR.format(module="lxml.etree", parse="fromstring")
    found = {
        "floor: read, lxml, orjson": (False, [python, "-c", floor, str(folder), made, str(work / "floor.json")]),
        "annotune: the call": (False, [python, "-c", OURS, str(folder), str(work / "call.json")]),
        "annotune-convert": (True, [*command, made]),
        "annotune-convert --jobs 2": (True, [*command, str(work / "two.json"), "--jobs", "2"]),
    }
    if not peers:
        return found
    found |= rust_rows(folder, work)
    root = os.environ.get("PADDLEDETECTION_ROOT")
    if root:
        names, labels = work / "names.txt", work / "labels.txt"
        names.write_text("".join(f"{path.name}\n" for path in sorted(folder.iterdir())))
        labels.write_text("\n".join(LABELS))
        arguments = [
            "--dataset_type", "voc", "--voc_anno_dir", str(folder), "--voc_anno_list", str(names), "--voc_label_list",
            str(labels), "--output_dir", str(work), "--voc_out_name", "peer.json",
        ]  # fmt: skip
        script = str(Path(root) / "tools/x2coco.py")
        found["PaddleDetection x2coco"] = (True, [python, "-c", PEER, script, *arguments])
        found["annotune's x2coco"] = (True, [python, "-m", "converters.x2coco", *arguments])
    return found


def rust_rows(folder: Path, work: Path) -> dict[str, tuple[bool, list[str]]]:
    """hotcoco and panlabel over the same files, which both want as a devkit."""
    devkit = work / "devkit"
    (devkit / "JPEGImages").mkdir(parents=True)
    (devkit / "Annotations").symlink_to(folder)
    hotcoco = ["convert", "--from", "voc", "--to", "coco", "--input", str(devkit), "--output", str(work / "hot.json")]
    panlabel = ["convert", "-f", "voc", "-t", "coco", "-i", str(devkit), "-o", str(work / "pan.json"), "--allow-lossy"]
    rows = {}
    for name, program, arguments in (("hotcoco", "coco", hotcoco), ("panlabel", "panlabel", panlabel)):
        path = Path(os.environ.get(name.upper(), Path(sys.executable).with_name(program)))
        if path.is_file():
            rows[f"{name} (Rust)"] = (True, [str(path), *arguments])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--objects", type=float, default=6.0, help="mean objects per file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = work / "Annotations"
        write_set(folder, options.files, options.objects)
        commands = rows(folder, work, not options.no_peers)
        measure_whole(commands["annotune-convert"][1])  # makes the result that the floor dumps, and warms the disk
        figures: dict[str, list[Figures]] = {name: [] for name in commands}
        for _ in range(options.repeats):
            for name, (whole, command) in commands.items():
                figures[name].append((measure_whole if whole else measure)(command))
        report(figures, options.files, (work / "two.json").read_bytes() == (work / "ours.json").read_bytes())


def report(figures: dict[str, list[Figures]], files: int, same: bool) -> None:
    print(f"{files} XML files, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'':28} {'CPU s':>7} {'wall s':>7} {'x floor':>8} {'x ours, CPU':>12} {'x ours, wall':>13} {'peak MB':>8}")
    best = {name: Figures(*(min(column) for column in zip(*rounds, strict=True))) for name, rounds in figures.items()}
    floor, ours = best["floor: read, lxml, orjson"].cpu, best["annotune-convert"]
    for name, (cpu, wall, peak) in best.items():
        whole = f"{cpu / ours.cpu:12.2f} {wall / ours.wall:13.2f} {peak:8.0f}" if peak else ""
        print(f"{name:28} {cpu:7.2f} {wall:7.2f} {cpu / floor:8.2f} {whole}")
    print(f"--jobs 2 writes the same bytes: {same}")


if __name__ == "__main__":
    main()
