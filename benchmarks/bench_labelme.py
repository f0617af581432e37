"""labelme to COCO against the floor (read, orjson) and against PaddleDetection's x2coco, in one run.

    python benchmarks/bench_labelme.py [--files 2000] [--peer-files 40] [--repeats 3] [--size 1280x720]

``PADDLEDETECTION_ROOT`` names a checkout of PaddleDetection and ``PEER_PYTHON`` a Python with its dependencies
(opencv, tqdm); without them that row is left out. Figures are CPU milliseconds per file, medians of the repeats,
which take turns; start-up and imports count for nobody.

The scenes: eight polygons of 24 to 36 points in each file. Every fourth is a crescent that no point sees the whole of:
of 237 polygons that people drew (24 photographs of devices and 18 of fruit, 15 points in the median) 61 are so, and
none touches or crosses itself.
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

from bench_voc import FLOOR
from PIL import Image

OURS = """
import sys, time
from pathlib import Path
import converters.labelme  # otherwise imported by the call
from converters import convert, write_coco
folder, images, out = map(Path, sys.argv[1:])
start = time.process_time()
write_coco(convert("labelme", folder, images=images).splits["all"], out)
print(time.process_time() - start)
"""
PEER = """
import runpy, sys, time
script, sys.argv = sys.argv[1], sys.argv[1:]
start = time.process_time()
runpy.run_path(script, run_name="__main__")
print(time.process_time() - start)
"""


def write_set(folder: Path, images: Path, count: int, size: tuple[int, int] = (1280, 720)) -> None:
    """Files with eight polygons each, every fourth of them bent, and one image for each."""
    folder.mkdir(parents=True)
    images.mkdir(parents=True)
    rng = random.Random(0)
    Image.new("RGB", size, "gray").save(images / "one.jpg")
    picture = (images / "one.jpg").read_bytes()
    (images / "one.jpg").unlink()
    for number in range(count):
        (images / f"{number:06}.jpg").write_bytes(picture)
        shapes = [_shape(rng, bent=index % 4 == 3) for index in range(8)]
        data = {
            "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{number:06}.jpg", "imageData": None,
            "imageHeight": size[1], "imageWidth": size[0],
        }  # fmt: skip
        (folder / f"{number:06}.json").write_text(json.dumps(data, indent=2))


def _shape(rng: random.Random, bent: bool) -> dict[str, object]:
    """A blob, or a crescent that no point sees the whole of."""
    x, y, size, count = rng.uniform(200, 1080), rng.uniform(200, 520), rng.uniform(20, 150), rng.randint(24, 36)
    if bent:
        half = count // 2
        angles = [math.radians(20 + 300 * k / (half - 1)) for k in range(half)]
        polar = [(size, a) for a in angles] + [(size * 0.7, a) for a in reversed(angles)]
    else:
        polar = [(size * rng.uniform(0.7, 1.0), math.tau * k / count) for k in range(count)]
    points = [[x + r * math.cos(a), y + r * math.sin(a)] for r, a in polar]
    return {
        "label": rng.choice(("person", "car", "dog")), "points": points, "group_id": None, "description": "",
        "shape_type": "polygon", "flags": {}, "mask": None,
    }  # fmt: skip


def seconds(command: list[str], python: str = sys.executable) -> float:
    """CPU seconds that a script prints last."""
    done = subprocess.run([python, "-c", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--peer-files", type=int, default=40, help="x2coco takes minutes for what takes us a second")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", default="1280x720", help="of the images: x2coco paints one for every polygon")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    root, python = os.environ.get("PADDLEDETECTION_ROOT"), os.environ.get("PEER_PYTHON", sys.executable)
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_set(work / "json", work / "jpg", options.files, (width, height))
        write_set(work / "few/json", work / "few/jpg", options.peer_files, (width, height))
        made = str(work / "ours.json")
        ours = [OURS, str(work / "json"), str(work / "jpg"), made]
        seconds(ours)  # makes the result that the floor dumps, and warms the disk
        for _ in range(options.repeats):
            floor = seconds(
                [FLOOR.format(module="orjson", parse="loads"), str(work / "json"), made, str(work / "floor.json")]
            )
            figures.setdefault("floor: read, orjson", []).append(floor / options.files)
            figures.setdefault("annotune", []).append(seconds(ours) / options.files)
            if root:
                peer = [
                    PEER, str(Path(root) / "tools/x2coco.py"), "--dataset_type", "labelme",
                    "--json_input_dir", str(work / "few/json"), "--image_input_dir", str(work / "few/jpg"),
                    "--output_dir", str(work / "peer"),
                ]  # fmt: skip
                figures.setdefault("PaddleDetection x2coco", []).append(seconds(peer, python) / options.peer_files)
    print(f"{options.files} files of 8 polygons on {options.size}, {os.cpu_count()} cores, {platform.python_version()}")
    ours_median = statistics.median(figures["annotune"])
    for name, rounds in figures.items():
        each = statistics.median(rounds)
        print(f"{name:24} {1000 * each:9.3f} ms a file   {each / ours_median:8.2f} x annotune")


if __name__ == "__main__":
    main()
