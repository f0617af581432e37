"""The check beside hotcoco's health check: what each finds of one seeded defect a rule, and how long each takes.

    python benchmarks/bench_check.py [--images 20000]

Coverage: the seeds are those of the tests (tests/helpers_seeds.py); a defect counts as named when the tool reports
something that it does not report on the clean dataset, as stopped when it ends in an exception instead.
Time: CPU seconds of one process, median of three, reading the file included. hotcoco is native code and looks at
boxes and references; the check looks at everything in docs/check.md but the images here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import hotcoco
import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers_check import dataset
from helpers_seeds import SEEDS

from converters.check import find_problems
from converters.check.command import to_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    options = parser.parse_args()
    coverage()
    with tempfile.TemporaryDirectory() as folder:
        for points in (0, 30):
            speed(Path(folder) / f"{points}.json", options.images, points)


def coverage() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clean = theirs(Path(folder), dataset(Path(folder)))
    found: dict[str, Counter[str]] = {"ours": Counter(), "hotcoco": Counter()}
    for rule, seed in SEEDS.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            splits: dict[str, Any] = dataset(root)
            seed.breaks(splits, root)
            options: dict[str, Any] = {"classes": ["cat", "bird"]} if rule == "categories-unexpected" else {}
            on = {rule: "warn"} if rule.startswith(("image-", "split-")) else {}
            on |= {"bbox-invalid": "drop"} if rule == "drop-budget" else {}
            report = find_problems(splits, root, depth="pixels", policy=on, **options)
            found["ours"]["named" if rule in report.counts else "silent"] += 1
            what = theirs(root, splits)
            found["hotcoco"]["stopped" if what is None else "named" if set(what) - set(clean or ()) else "silent"] += 1
    print(f"of {len(SEEDS)} seeded defects, one a rule:")
    for tool, counts in found.items():
        print(f"  {tool:8}", ", ".join(f"{counts[how]} {how}" for how in ("named", "stopped", "silent")))


def theirs(root: Path, splits: dict[str, Any]) -> list[str] | None:
    """The codes of what hotcoco says of each split; None where it ends in an exception."""
    said = []
    for name, coco in splits.items():
        path = coco if isinstance(coco, Path) else root / f"{name}.coco.json"
        if not isinstance(coco, Path):
            path.write_bytes(to_bytes(coco))
        try:
            health = hotcoco.COCO(str(path)).healthcheck()
        except Exception:
            return None
        said += [f"{name} {problem['code']}" for problem in health["errors"] + health["warnings"]]
        said += [f"{name} empty"] * bool(health["summary"]["images_without_annotations"])
        said += [f"{name} imbalance"] * (health["summary"]["imbalance_ratio"] >= 50)
    return said


def speed(path: Path, images: int, points: int) -> None:
    path.write_bytes(orjson.dumps(generated(images, points)))
    ours = seconds(lambda: find_problems({"train": path}))
    peer = seconds(lambda: hotcoco.COCO(str(path)).healthcheck())
    read = seconds(lambda: orjson.loads(path.read_bytes()))
    what = f"polygons of {points} points" if points else "boxes alone"
    print(
        f"{images:,} images, {7 * images:,} annotations, {what}: "
        f"check {ours:.2f} s = {ours / read:.1f} x orjson.loads, hotcoco {peer:.2f} s, ratio {ours / peer:.1f}"
    )


def seconds(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(3):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return median(times)


def generated(images: int, points: int) -> dict[str, Any]:
    """A clean COCO of seven objects an image, 80 classes; rings of ``points`` points, or boxes alone."""
    random = np.random.default_rng(0)
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    annotations = []
    for number in range(7 * images):
        x, y, r = random.uniform(60, 580), random.uniform(60, 420), random.uniform(8, 55)
        entry = {"id": number + 1, "image_id": number // 7 + 1, "category_id": number % 80 + 1, "iscrowd": 0}
        if points:
            reach = r * random.uniform(0.7, 1, points)
            ring = np.stack([x + reach * np.cos(turn), y + reach * np.sin(turn)], axis=1).round(2)
            low, high = ring.min(axis=0), ring.max(axis=0)
            area = abs(np.sum(ring[:, 0] * np.roll(ring[:, 1], -1) - np.roll(ring[:, 0], -1) * ring[:, 1])) / 2
            entry |= {"segmentation": [ring.ravel().tolist()], "area": float(area)}
            entry["bbox"] = [*low.tolist(), *(high - low).tolist()]
        else:
            entry |= {"segmentation": [], "bbox": [x - r, y - r, 2 * r, 2 * r], "area": 4 * r * r}
        annotations.append(entry)
    return {
        "info": {},
        "licenses": [],
        "images": [{"id": i, "file_name": f"{i:06}.jpg", "width": 640, "height": 480} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}", "supercategory": ""} for i in range(1, 81)],
    }


if __name__ == "__main__":
    main()
