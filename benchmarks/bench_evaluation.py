"""COCO evaluation: hotcoco, as Annotune uses it, against pycocotools, on the same detections.

python benchmarks/bench_evaluation.py [--images 1000]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

from models.training.evaluation import measure
from models.training.options import EvaluateOptions
from models.training.scores import accumulate, complete_truth, summary


def made_up(images: int, per_image: int, classes: int = 80) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth with 7 objects an image, as COCO has, and ``per_image`` detections around them."""
    draw = np.random.default_rng(0)
    annotations, results = [], []
    for image in range(1, images + 1):
        boxes = np.concatenate([draw.uniform(0, 400, (7, 2)), draw.uniform(10, 200, (7, 2))], 1)
        labels = draw.integers(1, classes + 1, 7)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            row = {"id": len(annotations) + 1, "image_id": image, "category_id": label, "bbox": box}
            annotations.append(row)
        chosen = draw.integers(0, 7, per_image)
        moved = boxes[chosen] + draw.normal(0, 0.12, (per_image, 4)) * np.tile(boxes[chosen, 2:], 2)
        moved[:, 2:] = np.maximum(moved[:, 2:], 1)
        found = np.where(draw.random(per_image) < 0.8, labels[chosen], draw.integers(1, classes + 1, per_image))
        for box, label, score in zip(moved.tolist(), found.tolist(), draw.random(per_image).tolist(), strict=True):
            results.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in range(1, classes + 1)],
    }, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--oracle-images", type=int, default=500, help="images that pycocotools gets; it is slow")
    parser.add_argument("--turns", type=int, default=3, help="of which the median counts")
    given = parser.parse_args()
    truth, results = made_up(given.images, given.detections)
    truth = complete_truth(truth)

    started = time.perf_counter()
    measure(truth, results, masks=False, options=EvaluateOptions(engine="hotcoco"))
    whole = time.perf_counter() - started
    print(f"everything in metrics.json, {given.images} images, {len(results)} detections: {whole:.1f} s")

    part = given.oracle_images
    few = {**truth, "images": truth["images"][:part]}
    few["annotations"] = [row for row in truth["annotations"] if row["image_id"] <= part]
    found = [result for result in results if result["image_id"] <= part]
    seconds: dict[str, list[float]] = {"hotcoco": [], "pycocotools": []}
    numbers = {}
    for _ in range(given.turns):
        for engine, taken in seconds.items():
            started = time.process_time()
            numbers[engine] = summary(accumulate(few, found, "bbox", engine))
            taken.append(time.process_time() - started)
    ours, theirs = (statistics.median(taken) for taken in seconds.values())
    apart = max(abs(numbers["hotcoco"][key] - numbers["pycocotools"][key]) for key in numbers["hotcoco"])
    print(
        f"the curves, {part} images, {len(found)} detections, processor time: hotcoco {ours:.2f} s, pycocotools "
        f"{theirs:.2f} s, ratio {theirs / ours:.0f}, numbers {apart:.0e} apart"
    )


if __name__ == "__main__":
    main()
