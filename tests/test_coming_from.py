"""The recipes: all of them load, and the examples of the systems people come from do here what they do there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from helpers_cityscapes import write_frame
from helpers_weights import write_chainer, write_mmdetection, write_paddle_1x
from PIL import Image

from converters import read_voc, to_coco, write_coco
from flows.chain import Plainly, chain
from flows.config import FinetuneConfig, load_config
from flows.scenes import FAMILIES, draw_scenes
from flows.yaml_config import RECIPES
from models.training.optimizer import Plan, make_plan, rate_at
from models.weights.classes import VOC
from models.weights.freeze import param_groups
from models.weights.plan import LoadPlan
from models.weights.preview import plan_for
from models.zoo import build_detector, get_detector, resolve_options

CONFIGS = Path(__file__).parents[1] / "configs"
FIFTY = tuple(f"class_{number}" for number in range(50))
EIGHT = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")


@pytest.mark.parametrize("path", sorted([*CONFIGS.rglob("*.yaml"), *RECIPES.iterdir()]), ids=lambda path: path.name)
def test_a_recipe_loads_and_its_detector_has_the_options(path: Path) -> None:
    config = loaded(path, *(("source.format=voc", "source.root=data") if path.parent == RECIPES else ()))
    resolve_options(config.detector, config.weights.source if config.weights else None)


def loaded(path: Path, *overrides: str) -> FinetuneConfig:
    return load_config(path, overrides)[0]


def recipe(name: str, *overrides: str) -> FinetuneConfig:
    return loaded(CONFIGS / f"coming-from/{name}.yaml", *overrides)


def schedule(config: FinetuneConfig, steps_per_epoch: int, world: int = 1) -> Plan:
    return make_plan(config.train, get_detector(config.detector.name), steps_per_epoch, world)


# -- the numbers of the four systems -------------------------------------------------------------------------------


def test_paddledetections_rate_follows_from_the_batch() -> None:
    """configs/faster_rcnn_r50_fpn_1x.yml: base_lr 0.02 for 8 GPUs x 2, milestones 60,000 and 80,000 of 90,000."""
    config = recipe("paddledetection-coco")
    plan = schedule(config, 7500, world=8)

    assert (plan.rate, plan.steps, plan.warmup) == (pytest.approx(0.02), 90_000, 1000)
    assert [rate_at(step, plan, config.train) for step in (59_000, 61_000, 81_000)] == pytest.approx([1, 0.1, 0.01])
    assert config.train.decay(get_detector(config.detector.name)) == 1e-4


def test_mmdetections_rate_falls_after_seven_of_eight() -> None:
    """docs/en/user_guides/finetune.md: lr 0.01 at batch 8, 500 steps of warm-up, 8 epochs with a step at 7."""
    config = recipe("mmdetection-cityscapes")
    plan = schedule(config, 372)  # 2,975 images, 8 at a time

    assert (plan.rate, plan.warmup, config.train.batch_size, plan.steps) == (0.01, 500, 8, 8 * 8 * 372)
    assert [rate_at(round(plan.steps * share), plan, config.train) for share in (0.87, 0.88)] == pytest.approx([1, 0.1])


def test_chainercvs_rate_and_decay() -> None:
    """examples/ssd/train.py: 1e-3 at batch 32, a tenth from 80,000 and from 100,000 of 120,000; decay 5e-4."""
    config = recipe("chainercv-ssd300")
    plan = schedule(config, 500)

    assert (plan.rate, config.train.batch_size) == (1e-3, 32)
    assert config.train.decay(get_detector(config.detector.name)) == 5e-4
    shares = (0.66, 0.68, 0.84)
    assert [rate_at(round(plan.steps * share), plan, config.train) for share in shares] == pytest.approx([1, 0.1, 0.01])


def test_paddleclas_rates_by_stage() -> None:
    """ResNet50_vd_ssld_finetune.yaml: 0.00375 at batch 32, lr_mult_list [0.2, 0.2, 0.4, 0.4, 0.6]."""
    config = recipe("paddleclas-flowers102")
    detector = get_detector(config.detector.name)
    with torch.device("meta"):
        model = build_detector(config.detector, 103)
    groups = param_groups(model, detector, 0.00375, config.train.decay(detector), config.train.lr_multipliers)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}

    expected = {"conv1.0": 0.2, "layer1": 0.2, "layer2": 0.4, "layer3": 0.4, "layer4": 0.6, "fc": 1.0}
    for name, parameter in model.named_parameters():
        factor = next((factor for start, factor in expected.items() if name.startswith(start)), 0.2)
        assert rates[id(parameter)] == pytest.approx(0.00375 * factor), name
    assert (config.train.epochs, config.train.batch_size, config.train.schedule) == (20, 32, "cosine")
    assert config.train.decay(detector) == 1e-6


# -- what is loaded of their checkpoints ---------------------------------------------------------------------------


def planned(config: FinetuneConfig, classes: tuple[str, ...], checkpoint: Path) -> LoadPlan:
    return plan_for(config.detector, classes, checkpoint, config.weights)


def skipped(plan: LoadPlan) -> dict[str, str | None]:
    return {tensor.key: tensor.reason for tensor in plan.tensors if tensor.action == "skipped"}


def test_ssd300_skips_the_names_that_chainercv_prints(tmp_path: Path) -> None:
    """docs/source/tutorial/link.rst: from 20 classes to 50, the names whose shapes differ."""
    file = write_chainer(tmp_path / "ssd300_voc0712.npz", "chainercv/ssd300")
    plan = planned(recipe("chainercv-ssd300"), FIFTY, file)

    names = [tensor.source for tensor in plan.tensors if tensor.action == "skipped"]
    assert names == [f"multibox/conf/{scale}/{kind}" for scale in range(6) for kind in "Wb"]
    assert {tensor.action for tensor in plan.tensors} == {"copied", "skipped"}


@pytest.mark.slow
def test_pretrain_weights_alone_and_with_excluded_fields(tmp_path: Path) -> None:
    """docs/advanced_tutorials/TRANSFER_LEARNING.md: what differs in shape is left out; cls_score and bbox_pred are."""
    file = write_paddle_1x(tmp_path / "faster_rcnn_r50_fpn_1x.tar", "paddledetection-0.4/faster_rcnn_r50_fpn")
    head = {
        f"roi_heads.box_predictor.{name}.{kind}" for name in ("cls_score", "bbox_pred") for kind in ("weight", "bias")
    }

    alone = planned(recipe("paddledetection-coco"), FIFTY, file)
    assert skipped(alone) == dict.fromkeys(head, "no shared class")
    excluded = planned(recipe("paddledetection-voc"), VOC, file)
    assert set(skipped(excluded).values()) == {"excluded by 'cls_score'", "excluded by 'bbox_pred'"}
    assert set(skipped(excluded)) == head
    kept = planned(recipe("paddledetection-voc", "weights.exclude=[]"), VOC, file)
    assert (skipped(kept), kept.classes.shared) == ({}, VOC)  # what the fields throw away


# -- each of them, run ---------------------------------------------------------------------------------------------


def voc(root: Path) -> Path:
    """Eight training scenes and four for validation, in the layout of the devkit."""
    return draw_scenes(root, classes=FAMILIES["dream"], train=8, val=4, seed=5, size=(96, 72))


def paddle_voc(root: Path) -> Path:
    """dataset/voc of PaddleDetection: a devkit, and lists of pairs at the root (dataset/voc/create_list.py)."""
    devkit = root / "VOCdevkit/VOC2007"
    devkit.parent.mkdir(parents=True)
    voc(devkit)
    for split, name in (("train", "trainval"), ("val", "test")):
        stems = (devkit / f"ImageSets/Main/{split}.txt").read_text().split()
        folder = "./VOCdevkit/VOC2007"
        lines = [f"{folder}/JPEGImages/{stem}.jpg {folder}/Annotations/{stem}.xml\n" for stem in stems]
        (root / f"{name}.txt").write_text("".join(lines))
    return root


def coco(root: Path) -> Path:
    """dataset/coco of PaddleDetection: annotations/instances_*.json beside train2017 and val2017."""
    source = voc(root / "voc")
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        converted = to_coco(read_voc(source, split=split))
        (root / f"{split}2017").mkdir()
        for image in converted["images"]:
            image["file_name"] = Path(image["file_name"]).name
            shutil.move(source / "JPEGImages" / image["file_name"], root / f"{split}2017")
        write_coco(converted, root / f"annotations/instances_{split}2017.json")
    shutil.rmtree(source)
    return root


def cityscapes(root: Path) -> Path:
    """Frames of two cities, a car and a person in each."""
    for city, split, count in (("aachen", "train", 6), ("lindau", "val", 2)):
        for number in range(count):
            left = 10 + 6 * number
            frame = f"{split}/{city}/{city}_{number:06d}_000019"
            outlines = (("car", left, 20, 60, 50), ("person", left + 70, 10, 95 + left, 60))
            objects = [{"label": label, "polygon": [[a, b], [c, b], [c, d], [a, d]]} for label, a, b, c, d in outlines]
            write_frame(root, objects, frame, size=(192, 96))
            picture = root / f"leftImg8bit/{frame}_leftImg8bit.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (192, 96), (90, 100 + number, ord(city[0]))).save(picture)
    return root


def flowers(root: Path) -> Path:
    """dataset/flowers102: pictures in jpg, and lists of a path and a number (generate_flowers102_list.py)."""
    draw = np.random.default_rng(0)
    (root / "jpg").mkdir(parents=True)
    for split, count in (("train", 12), ("val", 6)):
        lines = []
        for number in range(count):
            name = f"jpg/{split}_{number:05d}.jpg"
            low = 40 + 60 * (number % 3)
            Image.fromarray(draw.integers(low, low + 40, (48, 40, 3), dtype=np.uint8)).save(root / name)
            lines.append(f"{name} {number % 3}\n")
        (root / f"{split}_list.txt").write_text("".join(lines))
    return root


SMALL = ("detector.min_size=64", "detector.max_size=96", "detector.rois_per_image=32")
NET = ("detector.fixed_size=[32, 32]",)
SHORT = ("epochs=1", "batch_size=4", "warmup_steps=1", "threads=1", "workers=0", "eval_every=1")
PADDLE = "paddledetection-0.4/faster_rcnn_r50_fpn"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dataset", "checkpoint", "small"),
    [
        ("paddledetection-coco", coco, (write_paddle_1x, "published.tar", PADDLE), SMALL),
        ("paddledetection-voc", paddle_voc, (write_paddle_1x, "published.tar", PADDLE), SMALL),
        ("chainercv-ssd300", voc, (write_chainer, "published.npz", "chainercv/ssd300"), ()),
        ("paddleclas-flowers102", flowers, (write_paddle_1x, "published.tar", "paddleclas-static/resnet50_vd"), NET),
        ("mmdetection-cityscapes", cityscapes, (write_mmdetection, "a.pth", "mmdetection/mask_rcnn_r50_fpn"), SMALL),
    ],
)
def test_the_recipe_runs_to_its_end(
    tmp_path: Path, name: str, dataset: Callable[[Path], Path], checkpoint: tuple[Any, str, str], small: tuple[str, ...]
) -> None:
    write, file, model = checkpoint
    config = recipe(
        name,
        f"workspace={tmp_path / 'workspace'}",
        f"source.root={dataset(tmp_path / 'data')}",
        f"weights.source={write(tmp_path / file, model)}",
        *small,
        *(f"train.{option}" for option in SHORT),
        "evaluate.workers=0",
    )
    results = dict(chain(config, Plainly(config.workspace)))

    plan = LoadPlan.from_json(orjson.loads((results["adapt"].path / "plan.json").read_bytes()))
    assert plan.coverage.backbone == 1.0
    metrics = orjson.loads((results["evaluate"].path / "metrics.json").read_bytes())
    if name == "paddleclas-flowers102":
        assert 0 <= metrics["accuracy"]["top1"] <= 1
        return
    assert plan.coverage.neck == 1.0
    assert plan.classes.model == (EIGHT if name == "mmdetection-cityscapes" else FAMILIES["dream"])
    assert len(plan.classes.shared) == (7 if plan.classes.model == EIGHT else 0)  # all but the rider
    assert 0 <= metrics["bbox"]["AP"] <= 1
    assert ("segm" in metrics) == (name == "mmdetection-cityscapes")
    assert "<html" in (results["report"].path / "report.html").read_text().lower()
