"""A classifier through the whole house: the same flow, check, load plan and page."""

from __future__ import annotations

import json
import zlib
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import yaml
from helpers_flow import tiny_scenes
from PIL import Image

from flows.chain import Plainly, chain
from flows.config import FinetuneConfig, load_config
from flows.promotion import PromotionRules, decide, read_scores
from flows.runs import figures, list_runs
from flows.yaml_config import ConfigError

NET = {"name": "timm://test_resnet", "fixed_size": [32, 32]}
TRAIN = {"epochs": 2, "batch_size": 8, "threads": 1, "workers": 0, "learning_rate": 0.02}


def draw_folders(root: Path, classes: tuple[str, ...] = ("bright", "dark"), count: int = 12) -> Path:
    """Noise that is brighter in one class than in the next."""
    draw = np.random.default_rng(zlib.crc32(root.name.encode()))
    for place, label in enumerate(classes):
        for number in range(count):
            low = 190 - 90 * place
            path = root / label / f"{number}.PNG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(low, low + 60, (40, 36, 3), dtype=np.uint8)).save(path)
    return root


def recipe(folder: Path, **sections: Any) -> Path:
    values = {
        "name": "tiny",
        "task": "classification",
        "workspace": "workspace",
        "source": {"format": "imagefolder", "root": "pictures", "splits": {"train": 0.7, "val": 0.3}},
        "detector": NET,
        "train": TRAIN,
        "evaluate": {"workers": 0},
        **sections,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.usefixtures("prefect_server")
def test_the_same_flow_ends_with_accuracy_and_a_page_and_finds_it_again(tmp_path: Path) -> None:
    from flows.finetune import finetune  # noqa: PLC0415 - Prefect's server must be there first

    draw_folders(tmp_path / "pictures")
    config, _ = load_config(recipe(tmp_path))

    first, again = finetune(config), finetune(config)

    assert first.metrics["top1"] >= 0.5
    assert set(first.metrics) == {"top1", "top5", "mean_class"}
    assert set(again.reused) == set(first.products) == {"convert", "check", "adapt", "train", "evaluate", "report"}
    found = orjson.loads((first.products["check"].path / "problems.json").read_bytes())
    assert "bbox-whole-image" not in found["rules"]
    page = first.report.read_text()
    assert "bright" in page
    assert "Top-1" in page
    assert figures(run.metrics for run in list_runs(config.workspace))[:2] == ["top1", "mean_class"]
    tuned = until(load_config(tmp_path / "tiny.yaml", [f"weights.source={first.checkpoint}"])[0], "adapt")
    plan = orjson.loads((tuned.path / "plan.json").read_bytes())
    assert plan["coverage"]["tensors"] == 1.0
    assert plan["classes"]["shared"] == ["bright", "dark"]


def until(config: FinetuneConfig, stage: str) -> Any:
    """The result of a stage, run without Prefect."""
    stages = ("look", "convert", "check", "fetch", "adapt", "train")
    return list(islice(chain(config, Plainly(config.workspace)), stages.index(stage) + 1))[-1][1]


def test_objects_of_any_dataset_are_cut_out(tmp_path: Path) -> None:
    source = {"format": "voc", "root": str(tiny_scenes(tmp_path / "data")), "splits": {"train": "train", "val": "val"}}
    crops = {"padding": 0.2, "min_size": 12}
    config, _ = load_config(recipe(tmp_path, source={**source, "crops": crops}))

    checked = until(config, "check")

    content = orjson.loads((checked.path / "train.json").read_bytes())
    about = orjson.loads(next((config.workspace / "store").glob("convert-*/about.json")).read_bytes())
    assert about["task"] == "classification"
    assert sum(about["dropped"].values()) > 0
    assert all(min(row["bbox"][2:]) >= 12 for row in content["annotations"])


def test_a_single_class_has_nothing_to_tell_apart_and_an_empty_one_is_left_out(tmp_path: Path) -> None:
    draw_folders(tmp_path / "pictures", ("bright",))
    (tmp_path / "pictures/empty").mkdir()
    config, _ = load_config(recipe(tmp_path))

    with pytest.raises(ValueError, match="needs two classes to tell apart, here is 1"):
        until(config, "adapt")


def test_the_check_finds_a_picture_in_two_classes_and_in_two_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        draw_folders(tmp_path / "pictures" / split, ("a", "b"), 3)
    (tmp_path / "pictures/train/b/again.PNG").write_bytes((tmp_path / "pictures/train/a/0.PNG").read_bytes())
    (tmp_path / "pictures/val/b/known.PNG").write_bytes((tmp_path / "pictures/train/b/1.PNG").read_bytes())
    source = {"format": "imagefolder", "root": "pictures", "splits": {"train": "train", "val": "val"}}
    config, _ = load_config(recipe(tmp_path, source=source))

    with pytest.raises(ValueError, match="leak-bytes"):
        until(config, "check")

    found = json.loads(next((config.workspace / "store").glob("check-*/problems.json")).read_bytes())
    assert found["rules"]["leak-bytes"]["count"] == 1
    assert found["rules"]["duplicate-labels"]["count"] == 1
    assert "bbox-whole-image" not in found["rules"]


def test_a_challenger_is_judged_by_the_accuracy_of_its_classes(tmp_path: Path) -> None:
    row = {"name": "bright", "recall": 0.5, "precision": 0.4, "f1": 0.4, "truths": 20, "detections": 25}
    for name, recall in (("before.json", 0.5), ("after.json", 0.75)):
        rows = [{**row, "recall": recall}, {**row, "name": "never seen", "recall": -1.0, "truths": 0}]
        (tmp_path / name).write_text(json.dumps({"per_class": rows}))
    before, after = (read_scores(tmp_path / name) for name in ("before.json", "after.json"))

    assert after.per_class == {"bright": 0.75}
    assert decide(before, after, PromotionRules()).promote
    assert not decide(after, before, PromotionRules()).promote


@pytest.mark.slow
def test_a_class_without_pictures_in_val_is_scored_as_nothing(tmp_path: Path) -> None:
    draw_folders(tmp_path / "pictures/train", ("a", "b", "c"), 4)
    draw_folders(tmp_path / "pictures/val", ("a", "b"), 3)
    splits = {"train": "train", "val": "val"}
    source = {"format": "imagefolder", "root": "pictures", "splits": splits}
    config, _ = load_config(recipe(tmp_path, source=source, train={**TRAIN, "epochs": 1}))
    results = dict(islice(chain(config, Plainly(config.workspace)), 8))

    metrics = orjson.loads((results["evaluate"].path / "metrics.json").read_bytes())
    assert [(row["name"], row["truths"], row["recall"] == -1) for row in metrics["per_class"]] == [
        ("a", 3, False),
        ("b", 3, False),
        ("c", 0, True),
    ]
    assert results["report"].has("report.html")


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"detector": {}}, "task classification, but fasterrcnn_resnet50_fpn is a detector"),
        ({"task": "detection"}, "timm://test_resnet is a classifier. Write task: classification"),
        (
            {"task": "detection", "detector": {}, "source": {"format": "voc", "root": ".", "crops": {}}},
            "source.crops are for task: classification",
        ),
    ],
)
def test_task_and_model_must_agree(tmp_path: Path, sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(recipe(tmp_path, **sections))
    assert str(caught.value).startswith(f"{tmp_path / 'tiny.yaml'}: {says}")
