"""YOLOv3's anchors: from the recipe, the checkpoint or the dataset, and how many boxes they can reach."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_training import CLASSES, draw_set, initial

from models.errors import DetectorError, WeightsError
from models.training import EvaluateOptions, TrainOptions, evaluate, finetune
from models.training.anchors import anchor_recall, box_sizes, choose_anchors
from models.training.coco import CocoTable, read_coco
from models.training.journal import read_lines
from models.weights.containers import read_checkpoint
from models.zoo import DetectorOptions, resolve_options
from tasks.adapt import adapt
from tasks.keys import content_key
from tasks.store import FileRef

YOLO = DetectorOptions(name="yolov3_mobilenet_v3", min_size=96, max_size=96)


def ref(path: Path) -> FileRef:
    return FileRef(path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size=path.stat().st_size)


def slivers(folder: Path) -> CocoTable:
    """A set of flat boxes that no default anchor fits, with a crowd that fits nothing at all."""
    rows = [
        {"id": n + 1, "image_id": 1, "category_id": 1, "iscrowd": int(n == 40), "area": 1, "bbox": [0, n, 60 + n, 6]}
        for n in range(41)
    ]
    rows[40]["bbox"] = [0, 0, 1, 80]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 120, "height": 96}],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": rows,
    }
    folder.mkdir(exist_ok=True)
    (folder / "coco.json").write_text(json.dumps(content))
    return read_coco(folder / "coco.json", CLASSES)


def test_auto_takes_kmeans_where_the_default_ones_fit_badly(tmp_path: Path) -> None:
    table = slivers(tmp_path)
    options = resolve_options(YOLO)
    assert anchor_recall(table, options) < 0.2  # type: ignore[operator]

    chosen, why = choose_anchors(options, "auto", None, table)

    assert anchor_recall(table, chosen) == 1
    assert why.startswith("by k-means on 40 boxes, best possible recall 1.000, of the default ones 0.")
    assert choose_anchors(options, "auto", None, table) == (chosen, why)
    assert box_sizes(table, options).shape == (40, 2)  # the crowd is left out
    assert np.allclose(box_sizes(table, options)[:, 1], 6 * 76 / 96)  # in pixels of the resized image


def test_auto_keeps_the_default_ones_where_they_fit_and_where_there_is_too_little_to_fit(tmp_path: Path) -> None:
    data = draw_set(tmp_path, 6)
    options = resolve_options(YOLO.model_copy(update={"min_size": 320, "max_size": 320}))
    assert choose_anchors(options, "auto", None, read_coco(data.coco, CLASSES)) == (
        options,
        "the default ones, best possible recall 1.000",
    )
    few = draw_set(tmp_path / "few", 1)
    kept, why = choose_anchors(resolve_options(YOLO), "auto", None, read_coco(few.coco, CLASSES))
    assert kept == resolve_options(YOLO)
    assert "k-means has 9 anchors from 2 boxes" in why


def test_a_checkpoint_that_names_its_anchors_keeps_them(tmp_path: Path) -> None:
    own = tuple((float(n), float(n + 1)) for n in range(8, 17))
    named = read_checkpoint(initial(tmp_path / "a.pt", YOLO.name, anchors=own))
    for word in ("auto", "checkpoint"):
        chosen, why = choose_anchors(resolve_options(YOLO), word, named, slivers(tmp_path))
        assert (chosen.anchors, why) == (own, "those of the checkpoint")
    assert choose_anchors(resolve_options(YOLO), "default", named, None) == (resolve_options(YOLO), "")


def test_a_checkpoint_that_names_none_cannot_be_asked(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(DetectorError, match="do not name any"):
        choose_anchors(resolve_options(YOLO), "checkpoint", read_checkpoint(tmp_path / "a.pth"), None)


def test_words_are_for_detectors_whose_anchors_are_pairs() -> None:
    with pytest.raises(DetectorError, match="fasterrcnn_resnet50_fpn: anchors 'auto' is for YOLOv3 alone"):
        resolve_options(DetectorOptions(anchors="auto"))


def test_adapt_stores_the_anchors_and_depends_on_the_boxes_only_then(tmp_path: Path) -> None:
    slivers(tmp_path)
    train = ref(tmp_path / "coco.json")
    auto = YOLO.model_copy(update={"anchors": "auto"})

    made = adapt(tmp_path / "w", None, None, auto, CLASSES, 0, train)

    anchors = torch.load(made.path / "init.pt", weights_only=True)["meta"]["options"]["anchors"]
    assert max(height for _, height in anchors) < 10
    assert "anchors: by k-means on 40 boxes" in (made.path / "summary.md").read_text()
    other = ref(draw_set(tmp_path / "other").coco)
    keys = {content_key("adapt", "tasks.adapt", {"detector": auto, "train": one}) for one in (train, other, None)}
    assert len(keys) == 3


def test_the_recall_stands_in_the_log_and_in_the_metrics(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "set", 4)
    init = initial(tmp_path / "init.pt", YOLO.name, min_size=64, max_size=96)

    finetune(init, data, None, TrainOptions(epochs=1, threads=1), tmp_path / "run")
    metrics = evaluate(init, data, tmp_path / "eval", options=EvaluateOptions(workers=0, device="cpu"))

    start = read_lines(tmp_path / "run" / "metrics.jsonl")[0]
    options = DetectorOptions(name=YOLO.name, min_size=64, max_size=96)
    assert start["best_possible_recall"] == anchor_recall(read_coco(data.coco, CLASSES), resolve_options(options))
    assert metrics["best_possible_recall"] == start["best_possible_recall"] > 0


def test_other_anchors_than_the_checkpoint_has_are_refused_as_before(tmp_path: Path) -> None:
    weights = ref(initial(tmp_path / "a.pt", YOLO.name, anchors=tuple((float(n), 9.0) for n in range(8, 17))))
    with pytest.raises(WeightsError, match="its anchors are"):
        adapt(tmp_path / "w", weights, None, YOLO, CLASSES, 0)
