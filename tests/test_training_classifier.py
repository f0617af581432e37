"""A classifier in the detectors' loop: crops as pictures, accuracy as the score, and the loop's promises for free."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_training import CLASSES, assert_same_weights, draw_set, initial, run_until_killed
from PIL import Image

from flows.cli import predict as typer_predict
from models.errors import TrainingStopped
from models.training import DetectionData, EvaluateOptions, PredictOptions, TrainOptions, evaluate, finetune, predict
from models.training.accuracy import OTHER, measure
from models.training.coco import read_coco
from models.training.dataset import PlainImages, TrainingImages, read_table_image
from models.training.journal import read_lines
from models.training.process import StopSignal
from models.training.transforms import Augment, WorkingSize

NET = "timm://test_resnet"
OPTIONS = TrainOptions(epochs=2, batch_size=4, workers=0, threads=1, log_every=1, learning_rate=0.05)


def start(path: Path, **options: object) -> Path:
    return initial(path, NET, fixed_size=(32, 32), **options)


def test_a_crop_is_the_pixels_of_its_box_and_crowds_are_none(tmp_path: Path) -> None:
    data = draw_set(tmp_path, 3)
    content = json.loads(data.coco.read_text())
    content["annotations"][1]["iscrowd"] = 1
    content["annotations"][0]["bbox"] = [3.5, 2.25, 10.25, 7.5]
    data.coco.write_text(json.dumps(content))

    table = read_coco(data.coco, CLASSES).one_by_one()

    assert table.annotation_ids.tolist() == [1, 3, 4, 5, 6]
    assert table.image_ids.tolist() == [1, 2, 2, 3, 3]
    picture = np.asarray(Image.open(data.images / "000.png"))
    assert np.array_equal(read_table_image(table, data.images, 0).permute(1, 2, 0).numpy(), picture[2:10, 3:14])


def test_evaluation_sees_the_middle_and_training_a_window_that_follows_the_address(tmp_path: Path) -> None:
    data = draw_set(tmp_path, 2)
    content = json.loads(data.coco.read_text())
    for row, image in zip(content["annotations"], [content["images"][0]] * 2 + [content["images"][1]] * 2, strict=True):
        row["bbox"] = [0, 0, image["width"], image["height"]]
    data.coco.write_text(json.dumps(content))
    table = read_coco(data.coco, CLASSES).one_by_one()
    size = WorkingSize(32, 32, (32, 32), 0.5)
    wide = torch.zeros(3, 40, 120, dtype=torch.uint8)
    wide[:, :, 50:70] = 255  # half of the shorter side, in the middle

    assert size.view(wide).shape == (3, 32, 32)
    assert (size.view(wide)[:, 2:-2, 2:-2] > 250).all()
    images = TrainingImages(table, data.images, Augment(("random_crop", "hflip"), size), seed=1)
    assert torch.equal(images[(0, 1)].image, images[(0, 1)].image)
    assert not torch.equal(images[(0, 1)].image, images[(1, 1)].image)
    assert images[(0, 1)].image.shape == PlainImages(table, data.images, size)[1].image.shape == (3, 32, 32)


def truth(labels: list[int]) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": number, "name": name} for number, name in ((3, "x"), (5, "y"), (8, "z"))],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": label, "bbox": [0, 0, 9, number], "iscrowd": 0}
            for number, label in enumerate(labels, 1)
        ],
    }


def guesses(*ranked: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": 1,
            "annotation_id": number,
            "bbox": [0, 0, 9, number],
            "category_id": guess,
            "score": 0.9 - 0.1 * at,
        }
        for number, own in enumerate(ranked, 1)
        for at, guess in enumerate(own)
    ]


def test_the_scores_are_what_a_hand_counts() -> None:
    metrics = measure(truth([3, 3, 3, 5]), guesses([3, 5], [5, 3], [5, 8], [0, 8]))

    assert metrics["accuracy"] == {"top1": 0.25, "top5": 0.5, "mean_class": pytest.approx((1 / 3 + 0) / 2)}
    assert metrics["per_class"] == [
        {"name": "x", "recall": pytest.approx(1 / 3), "precision": 1.0, "f1": 0.5, "truths": 3, "detections": 1},
        {"name": "y", "recall": 0.0, "precision": 0.0, "f1": 0.0, "truths": 1, "detections": 2},
        {"name": "z", "recall": -1.0, "precision": -1.0, "f1": -1.0, "truths": 0, "detections": 0},
    ]
    assert metrics["confusion"] == {
        "labels": ["x", "y", "z", OTHER],
        "matrix": [[1, 2, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]],
    }
    wrong = [(row["annotated"], row["found"], row["annotated_score"]) for row in metrics["suspects"]]
    assert wrong == [("x", "y", pytest.approx(0.8)), ("x", "y", None), ("y", OTHER, None)]


def test_an_empty_truth_scores_minus_one() -> None:
    metrics = measure(truth([]), [])
    assert metrics["accuracy"] == {"top1": -1.0, "top5": -1.0, "mean_class": -1.0}
    assert metrics["suspects"] == []


def test_it_learns_and_the_best_checkpoint_alone_gives_its_score_again(tmp_path: Path) -> None:
    train, val = draw_set(tmp_path / "train", 32), draw_set(tmp_path / "val", 6, seed=1)
    options = OPTIONS.model_copy(update={"epochs": 8, "batch_size": 8, "augment": ("hflip", "vflip")})

    summary = finetune(start(tmp_path / "init.pt"), train, val, options, tmp_path / "run")
    metrics = evaluate(summary.best, val, tmp_path / "out", options=EvaluateOptions(workers=0))

    assert summary.metrics["mean_class"] >= 0.9
    assert metrics["accuracy"] == summary.metrics
    assert metrics["objects"] == 12
    first = (tmp_path / "out/metrics.json").read_bytes()
    evaluate(summary.best, val, tmp_path / "out", options=EvaluateOptions(workers=0, batch_size=3))
    assert json.loads(first)["accuracy"] == json.loads((tmp_path / "out/metrics.json").read_bytes())["accuracy"]


@pytest.mark.slow
def test_resnet50d_learns(tmp_path: Path) -> None:
    train, val = draw_set(tmp_path / "train", 24), draw_set(tmp_path / "val", 6, seed=1)
    init = initial(tmp_path / "init.pt", "timm://resnet50d", fixed_size=(64, 64))
    options = OPTIONS.model_copy(update={"epochs": 5, "batch_size": 8, "augment": ("hflip", "vflip")})

    summary = finetune(init, train, val, options, tmp_path / "run")

    losses = [line["loss"] for line in read_lines(tmp_path / "run/metrics.jsonl") if line["event"] == "step"]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5]), losses
    assert summary.metrics["mean_class"] >= 0.8


def test_a_class_that_the_file_lacks_is_a_wrong_answer_and_not_left_out(tmp_path: Path) -> None:
    data, init = draw_set(tmp_path, 4), start(tmp_path / "best.pt")
    shares: list[float] = []
    content = json.loads(data.coco.read_text())
    for kept in (1, 2):  # whatever it says of all of them is wrong for one of the two files
        rows = [row for row in content["annotations"] if row["category_id"] == kept]
        categories = [row for row in content["categories"] if row["id"] == kept]
        data.coco.write_text(json.dumps({**content, "annotations": rows, "categories": categories}))
        found = evaluate(init, data, tmp_path / "out", options=EvaluateOptions(workers=0))
        shares.append(found["accuracy"]["top1"])
        assert found["accuracy"]["top5"] == 1.0
        assert found["objects"] == len(rows)
        assert sum(map(sum, found["confusion"]["matrix"])) == len(rows)
    assert min(shares) < 1.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DetectionData, DetectionData, TrainOptions, Path]:
    """A run with everything in it that draws or remembers, that nothing interrupted."""
    folder = tmp_path_factory.mktemp("made")
    options = OPTIONS.model_copy(
        update={"accumulate": 2, "ema": 0.9, "checkpoint_every_steps": 1, "augment": ("random_crop", "photometric")}
    )
    init = start(folder / "init.pt", mixup=0.4, cutmix=1.0, label_smoothing=0.1)
    train, val = draw_set(folder / "train"), draw_set(folder / "val", 2, seed=1)
    finetune(init, train, val, options, folder / "whole")
    return init, train, val, options, folder / "whole"


@pytest.mark.parametrize(("lines", "in_write"), [(3, 0), (99, 4)])
def test_a_killed_run_continues_to_the_same_weights(made: Any, tmp_path: Path, lines: int, in_write: int) -> None:
    init, train, val, options, whole = made

    assert run_until_killed(init, train, val, options, tmp_path, lines=lines, in_write=in_write) == -signal.SIGKILL
    finetune(init, train, val, options, tmp_path)

    assert_same_weights(tmp_path / "last.pt", whole / "last.pt")
    assert_same_weights(tmp_path / "best.pt", whole / "best.pt")


def test_a_stopped_run_continues_with_loading_processes_to_the_same_weights(made: Any, tmp_path: Path) -> None:
    init, train, val, options, whole = made
    options = options.model_copy(update={"workers": 1})
    stop = StopSignal()

    with pytest.raises(TrainingStopped):
        finetune(init, train, val, options, tmp_path, echo=lambda line: stop.stop(), stop=stop)
    finetune(init, train, val, options, tmp_path)

    assert_same_weights(tmp_path / "last.pt", whole / "last.pt")


def test_too_little_memory_halves_the_pictures_of_a_pass(made: Any, tmp_path: Path, monkeypatch: Any) -> None:
    init, train, val, options, _ = made
    real = torch.nn.functional.cross_entropy

    def greedy(logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if len(logits) > 2:
            raise torch.OutOfMemoryError("too much")
        return real(logits, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", greedy)
    summary = finetune(init, train, val, options, tmp_path)

    assert summary.steps == 4
    assert any("2 images per forward pass" in note for note in summary.notes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"best_by": "bbox/AP"}, "best_by bbox/AP: timm://test_resnet has top1 instead"),
        ({"augment": ("iou_crop",)}, "augment iou_crop is not for classification"),
        ({"mosaic": 0.5}, "detector.mixup and detector.cutmix"),
    ],
)
def test_what_only_a_detector_has_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    data = draw_set(tmp_path, 2)
    with pytest.raises(ValueError, match=says):
        finetune(start(tmp_path / "i.pt"), data, data, OPTIONS.model_copy(update=changes), tmp_path / says)


def test_what_only_a_classifier_has_is_refused_for_a_detector(tmp_path: Path) -> None:
    data, init = draw_set(tmp_path, 2), initial(tmp_path / "i.pt")
    for changes, says in (
        ({"best_by": "top1"}, "has bbox/AP instead"),
        ({"augment": ("random_crop",)}, "not for detec"),
    ):
        with pytest.raises(ValueError, match=says):
            finetune(init, data, data, OPTIONS.model_copy(update=changes), tmp_path / says)


def test_it_answers_about_the_pictures_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init = start(tmp_path / "best.pt")
    for name in ("one/a.png", "two/a.PNG"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        Image.new("RGB", (50, 40), (200, 30, 30)).save(tmp_path / "photos" / name)
    files = {name: tmp_path / "out" / name for name in ("found.json", "found.csv", "pictures")}
    files["pictures"].mkdir(parents=True)

    found = list(predict(init, tmp_path / "photos", options=PredictOptions(min_score=0.99, workers=0)))
    typer_predict(
        init, tmp_path / "photos", pictures=files["pictures"], results=files["found.json"], table=files["found.csv"]
    )

    assert [sorted(one.names) for one in found] == [["disc", "square"]] * 2
    answers = json.loads(files["found.json"].read_text())
    assert [row["file_name"] for row in answers] == ["one/a.png", "two/a.PNG"]
    assert [answer["category"] for answer in answers[0]["answers"]] == list(found[0].names)
    assert sum(answer["score"] for answer in answers[0]["answers"]) == pytest.approx(1.0, abs=1e-5)
    lines = files["found.csv"].read_text().splitlines()
    assert lines[0] == "picture,rank,class,score,x,y,width,height"
    assert lines[1].startswith(f"one/a.png,1,{found[0].names[0]},")
    assert lines[1].endswith(",0,0,50,40")
    assert len(lines) == 5
    with Image.open(files["pictures"] / "two/a.jpg") as picture:
        assert picture.height > 40  # the answers stand below
    assert f"one/a.png: {found[0].names[0]} 0." in capsys.readouterr().out
    with pytest.raises(ValueError, match="a classifier finds none"):
        typer_predict(init, tmp_path / "photos", labelme=tmp_path / "labels")
