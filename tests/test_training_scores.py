"""COCO's numbers: the fast engine against pycocotools, and the corners where evaluations usually fall over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_training import draw_set, initial

from models.training import EvaluateOptions, evaluate
from models.training.detect import run_lengths
from models.training.evaluation import measure
from models.training.scores import accumulate, complete_truth, summary

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # pycocotools


def scene(seed: int, images: int = 30, classes: int = 4) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth of all sizes with crowds, and detections that hit, miss, repeat and confuse."""
    draw = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        for _ in range(draw.integers(0, 6)):
            side, x, y = draw.uniform(8, 150), *draw.uniform(0, 200, 2)
            category = int(draw.integers(1, classes))  # the last class has no truth
            row: dict[str, Any] = {"id": len(annotations) + 1, "image_id": image, "category_id": category}
            row |= {"bbox": [x, y, side, side], "area": side * side, "iscrowd": int(draw.random() < 0.1)}
            row["segmentation"] = [[x, y, x + side, y, x + side, y + side, x, y + side]]
            if row["iscrowd"]:
                row["segmentation"] = rectangle(x, y, side)
            annotations.append(row)
            for _ in range(draw.integers(0, 4)):
                shift = draw.normal(0, side / 8, 4)
                box = [x + shift[0], y + shift[1], max(1, side + shift[2]), max(1, side + shift[3])]
                found = category if draw.random() < 0.8 else int(draw.integers(1, classes + 1))
                results.append({"image_id": image, "category_id": found, "bbox": box, "score": float(draw.random())})
                results[-1]["segmentation"] = rectangle(box[0], box[1], box[2])
    size = {"width": 400, "height": 400}
    return {
        "images": [{"id": image, "file_name": f"{image}.jpg", **size} for image in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, classes + 1)],
    }, results


def rectangle(x: float, y: float, side: float) -> dict[str, Any]:
    """A square as run lengths in 400 x 400 pixels."""

    mask = torch.zeros(400, 400, dtype=torch.bool)
    mask[max(0, int(y)) : int(y + side), max(0, int(x)) : int(x + side)] = True
    return run_lengths(mask)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_hotcoco_gives_pycocotools_numbers(seed: int, kind: Any) -> None:
    truth, results = scene(seed)
    truth = complete_truth(truth)
    if kind == "segm":  # else the area of loadRes is that of the box
        results = [{key: value for key, value in result.items() if key != "bbox"} for result in results]

    fast = accumulate(truth, results, kind, "hotcoco")
    oracle = accumulate(truth, results, kind, "pycocotools")

    assert summary(fast) == pytest.approx(summary(oracle), abs=1e-6)
    np.testing.assert_allclose(fast.precision, oracle.precision, atol=1e-6)
    np.testing.assert_allclose(fast.recall, oracle.recall, atol=1e-6)


def test_the_limit_of_detections_is_that_of_pycocotools() -> None:
    truth, _ = scene(5)
    crowded = [  # 150 in each image, of which few are right: among the first 1, 10, 100, and behind them
        {"image_id": image["id"], "category_id": 1, "bbox": [400 - 2 * number, 390, 2, 9], "score": 1 - number / 150}
        for image in truth["images"]
        for number in range(150)
    ]
    for row in truth["annotations"]:
        row["category_id"] = 1
        crowded.append({**row, "score": (1.1, 0.97, 0.5, 0.1)[row["id"] % 4]})

    fast, oracle = (accumulate(complete_truth(truth), crowded, "bbox", engine) for engine in ("hotcoco", "pycocotools"))

    assert summary(fast) == pytest.approx(summary(oracle), abs=1e-6)
    np.testing.assert_allclose(fast.recall, oracle.recall, atol=1e-6)
    assert 0.1 < summary(oracle)["AR1"] < summary(oracle)["AR10"] < summary(oracle)["AR100"] < 0.9


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_nothing_found_and_nothing_there(engine: Any) -> None:
    truth, results = scene(0)
    options = EvaluateOptions(engine=engine)

    nothing_found = measure(complete_truth(truth), [], masks=False, options=options)
    nothing_there = measure(complete_truth(truth | {"annotations": []}), results, masks=False, options=options)

    assert nothing_found["bbox"]["AP"] == nothing_found["bbox"]["AR100"] == 0
    assert nothing_there["bbox"]["AP"] == nothing_there["bbox"]["AR100"] == -1
    assert [row["AP"] for row in nothing_found["per_class"]] == [0, 0, 0, -1]
    assert nothing_there["curves"] == {}
    json.dumps([nothing_found, nothing_there])


def test_nothing_found_is_what_one_hopeless_detection_gives() -> None:
    truth, _ = scene(1)
    hopeless = [{"image_id": 1, "category_id": 1, "bbox": [399, 399, 1, 1], "score": 0.1}]

    nothing, something = (accumulate(complete_truth(truth), found, "bbox") for found in ([], hopeless))

    np.testing.assert_array_equal(nothing.recall, something.recall)
    np.testing.assert_array_equal(nothing.precision, something.precision)


def test_what_a_perfect_detector_gets() -> None:
    truth, _ = scene(2)
    perfect = [{**row, "score": 0.9} for row in truth["annotations"] if not row["iscrowd"]]

    metrics = measure(complete_truth(truth), perfect, masks=True, options=EvaluateOptions())

    assert metrics["bbox"]["AP"] == pytest.approx(1)
    assert metrics["segm"]["AP50"] == pytest.approx(1)
    matrix = np.array(metrics["confusion"]["matrix"])
    assert matrix.sum() == np.trace(matrix) == len(perfect)
    assert metrics["confusion"]["labels"][-1] == "background"
    assert metrics["worst_images"] == []
    assert all(kind["count"] == 0 for kind in metrics["errors"].values())


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_every_class_has_its_own_figures_of_boxes_and_of_masks(engine: Any) -> None:
    truth, results = scene(3)
    truth = complete_truth(truth)

    rows = measure(truth, results, masks=True, options=EvaluateOptions(engine=engine))["per_class"]

    assert [row["name"] for row in rows] == ["class 1", "class 2", "class 3", "class 4"]
    for number, row in enumerate(rows, 1):
        alone = {**truth, "categories": [truth["categories"][number - 1]]}
        alone["annotations"] = [one for one in truth["annotations"] if one["category_id"] == number]
        found = [one for one in results if one["category_id"] == number]
        for kind, (precision, recall) in {"bbox": ("AP", "AR"), "segm": ("mask_AP", "mask_AR")}.items():
            oracle = summary(accumulate(alone, found, kind, "pycocotools"))  # type: ignore[arg-type]
            assert (row[precision], row[recall]) == pytest.approx((oracle["AP"], oracle["AR100"]), abs=1e-6)
    assert rows[0]["AP"] != rows[0]["mask_AP"]


def test_mistakes_are_told_apart() -> None:
    size = {"width": 100, "height": 100}
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg", **size}, {"id": 2, "file_name": "b.jpg", **size}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20]},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [50, 50, 20, 20]},
            {"id": 3, "image_id": 2, "category_id": 2, "bbox": [50, 50, 20, 20]},
        ],
    }
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20], "score": 0.9},  # right
        {"image_id": 1, "category_id": 1, "bbox": [0, 1, 20, 20], "score": 0.8},  # duplicate
        {"image_id": 1, "category_id": 1, "bbox": [50, 50, 20, 20], "score": 0.7},  # a dog taken for a cat
        {"image_id": 2, "category_id": 2, "bbox": [0, 0, 10, 10], "score": 0.6},  # background; the dog is missed
    ]

    metrics = measure(complete_truth(truth), results, masks=False, options=EvaluateOptions())

    counts = {name: kind["count"] for name, kind in metrics["errors"].items()}
    assert counts == {"class": 1, "localisation": 0, "both": 0, "duplicate": 1, "background": 1, "missed": 1}
    assert metrics["confusion"]["matrix"] == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
    assert [(image["file_name"], image["f1"]) for image in metrics["worst_images"]] == [("b.jpg", 0), ("a.jpg", 0.4)]
    assert [(one["kind"], one["found"], one["annotated"], one["bbox"]) for one in metrics["suspects"]] == [
        ("wrong_label", "cat", "dog", [50, 50, 20, 20]),
        ("missing_annotation", "dog", None, [0, 0, 10, 10]),
    ]


def test_an_evaluation_is_the_same_bytes_on_every_run(tmp_path: Path) -> None:
    data, init = draw_set(tmp_path / "set", 5), initial(tmp_path / "init.pt")

    first = evaluate(init, data, tmp_path / "one", options=EvaluateOptions(batch_size=2))
    evaluate(init, data, tmp_path / "two", options=EvaluateOptions(batch_size=2))

    for name in ("metrics.json", "detections.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert first["images"] == 5
    assert "seconds" not in json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert {"bbox", "per_class", "curves", "confusion", "errors", "worst_images", "images"} <= first.keys()


def test_masks_are_scored_where_the_detector_has_them(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "set", 2, outlines=True)
    init = initial(tmp_path / "init.pt", "maskrcnn_resnet50_fpn", min_size=64, max_size=96, score_threshold=0.0)

    metrics = evaluate(init, data, tmp_path / "evaluation")

    assert metrics["segm"].keys() == metrics["bbox"].keys()
    assert "segmentation" in json.loads((tmp_path / "evaluation" / "detections.json").read_text())[0]


def test_categories_are_matched_by_name_not_by_id(tmp_path: Path) -> None:
    data, init = draw_set(tmp_path / "set", 3), initial(tmp_path / "init.pt")
    content = json.loads(data.coco.read_text())
    before = evaluate(init, data, tmp_path / "one")
    renumbered = {1: 40, 2: 7}
    content["categories"] = [{"id": 7, "name": "square"}, {"id": 40, "name": "disc"}]
    for row in content["annotations"]:
        row["category_id"] = renumbered[row["category_id"]]
    data.coco.write_text(json.dumps(content))

    after = evaluate(init, data, tmp_path / "two")

    assert after["bbox"] == pytest.approx(before["bbox"])
