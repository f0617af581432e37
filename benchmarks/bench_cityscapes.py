"""Cityscapes to COCO against decoding the PNGs and against mmdetection's converter, in one run.

    python benchmarks/bench_cityscapes.py [--frames 40] [--repeats 3]

``MMDETECTION_ROOT`` names a checkout of mmdetection (or ``mmdet/.mim`` of its wheel) and ``PEER_PYTHON`` a Python with
opencv, mmengine, pycocotools and cityscapesScripts; without them that row is left out. mmcv is replaced by the OpenCV
call behind its ``imread``. Figures are CPU milliseconds per frame, medians of the repeats, which take turns; start-up
and imports count for nobody.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT = 2048, 1024
LABELS = {"road": 7, "building": 11, "vegetation": 21, "sky": 23, "person": 24, "rider": 25, "car": 26, "bicycle": 33}

FLOOR = """
import sys, time
from pathlib import Path
import numpy as np
from PIL import Image
paths = sorted(Path(sys.argv[1]).rglob("*_instanceIds.png"))
start = time.process_time()
for path in paths:
    np.asarray(Image.open(path))
print(time.process_time() - start)
"""
OURS = """
import sys, time
from pathlib import Path
from converters import to_coco, write_coco
from converters.cityscapes import cityscapes_categories, read_cityscapes
root, out, source = sys.argv[1:]
start = time.process_time()
write_coco(to_coco(read_cityscapes(Path(root), source=source), cityscapes_categories()), Path(out))
print(time.process_time() - start)
"""
SHARDED = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from converters import merge_coco, to_coco
from converters.cityscapes import cityscapes_categories, read_cityscapes
def part(root, i, n):
    return to_coco(read_cityscapes(Path(root), shard=(i, n)), cityscapes_categories())
if __name__ == "__main__":
    root, jobs = sys.argv[1], int(sys.argv[2])
    with ProcessPoolExecutor(jobs) as pool:
        list(pool.map(abs, range(jobs)))
        start = time.perf_counter()
        merge_coco(pool.map(part, [root] * jobs, range(jobs), [jobs] * jobs), cityscapes_categories())
        print(time.perf_counter() - start)
"""
PEER = """
import runpy, sys, time, types
import cv2
mmcv = types.ModuleType("mmcv")
mmcv.imread = lambda path, flag: cv2.imread(path, cv2.IMREAD_UNCHANGED)
sys.modules["mmcv"] = mmcv
script, root = sys.argv[1:]
converter = runpy.run_path(script)
files = converter["collect_files"](root + "/leftImg8bit/train", root + "/gtFine/train")
start = time.process_time()
converter["cvt_annotations"]([converter["load_img_info"](file) for file in files], root + "/peer.json")
print(time.process_time() - start)
"""


def write_set(root: Path, frames: int) -> None:
    """Frames of 12 regions and 30 objects with rough outlines; image files are empty, nobody reads them."""
    rng = random.Random(0)
    folder, images = root / "gtFine/train/aachen", root / "leftImg8bit/train/aachen"
    folder.mkdir(parents=True)
    images.mkdir(parents=True)
    for number in range(frames):
        objects = [_object(rng, "region") for _ in range(12)] + [_object(rng, "thing") for _ in range(30)]
        name = f"aachen_{number:06}_000019"
        data = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
        (folder / f"{name}_gtFine_polygons.json").write_text(json.dumps(data))
        _painted(objects).save(folder / f"{name}_gtFine_instanceIds.png")
        (images / f"{name}_leftImg8bit.png").touch()


def _object(rng: random.Random, kind: str) -> dict[str, object]:
    labels = [label for label, number in LABELS.items() if (number < 24) == (kind == "region")]
    x, y = rng.uniform(0, WIDTH), rng.uniform(300, HEIGHT)
    size = rng.uniform(300, 700) if kind == "region" else rng.uniform(10, 120)
    angles = [math.tau * k / 60 for k in range(60)]
    radii = [size * rng.uniform(0.8, 1.0) for _ in angles]
    points = [[round(x + r * math.cos(a)), round(y + r * math.sin(a))] for r, a in zip(radii, angles, strict=True)]
    return {"label": rng.choice(labels), "polygon": points}


def _painted(objects: list[dict[str, object]]) -> Image.Image:
    canvas = Image.new("I;16", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(canvas)
    seen: dict[int, int] = {}
    for item in objects:
        number = LABELS[str(item["label"])]
        value = number
        if number >= 24:
            value = number * 1000 + seen.get(number, 0)
            seen[number] = seen.get(number, 0) + 1
        draw.polygon([(x, y) for x, y in item["polygon"]], fill=value)  # type: ignore[attr-defined]
    return canvas


def seconds(script: str, *arguments: str, python: str = sys.executable) -> float:
    """Seconds that a script prints last."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(script)
        file.flush()
        done = subprocess.run([python, file.name, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    peer, python = os.environ.get("MMDETECTION_ROOT"), os.environ.get("PEER_PYTHON", sys.executable)
    figures: dict[str, list[float]] = {}

    def take(name: str, spent: float) -> None:
        figures.setdefault(name, []).append(1000 * spent / options.frames)

    with tempfile.TemporaryDirectory() as root:
        write_set(Path(root), options.frames)
        for _ in range(options.repeats):
            take("floor: decode the PNGs", seconds(FLOOR, root))
            take("annotune, png", seconds(OURS, root, f"{root}/png.json", "png"))
            take("annotune, json", seconds(OURS, root, f"{root}/json.json", "json"))
            for jobs in (1, 2):
                take(f"annotune, png, {jobs} process{'es' * (jobs > 1)}, wall", seconds(SHARDED, root, str(jobs)))
            if peer:
                script = str(Path(peer) / "tools/dataset_converters/cityscapes.py")
                take("mmdetection", seconds(PEER, script, root, python=python))
        same = (Path(root) / "png.json").read_bytes() == (Path(root) / "json.json").read_bytes()
    print(f"{options.frames} frames, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    floor = statistics.median(figures["floor: decode the PNGs"])
    for name, rounds in figures.items():
        each = statistics.median(rounds)
        print(f"{name:34} {each:8.1f} ms a frame   {each / floor:6.2f} x floor")
    print(f"PNG and polygons give the same bytes: {same}")


if __name__ == "__main__":
    main()
