"""The loop: what it writes, and that it continues to the bit."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_training import draw_set, initial

from models.checkpoint import load_checkpoint
from models.training import TrainOptions, evaluate, finetune, loop
from models.training.journal import read_lines


def test_a_run_leaves_checkpoints_metrics_and_a_summary_and_its_best_can_be_evaluated(tmp_path: Path) -> None:
    train, val = draw_set(tmp_path / "train"), draw_set(tmp_path / "val", 4, seed=1)
    folder = tmp_path / "run"

    summary = finetune(
        initial(tmp_path / "init.pt"), train, val, TrainOptions(epochs=2, log_every=1, threads=1), folder
    )

    assert summary.steps == 4
    events = [line["event"] for line in read_lines(folder / "metrics.jsonl")]
    assert events == ["start", "step", "step", "eval", "step", "step", "eval", "end"]
    assert {path.name for path in folder.iterdir()} == {
        "best.pt", "last.pt", "previous.pt", "metrics.jsonl", "config.json", "environment.json", "summary.json",
        "tensorboard",
    }  # fmt: skip
    metrics = evaluate(summary.best, val, tmp_path / "evaluation")
    assert metrics["bbox"]["AP"] == summary.metrics["bbox/AP"]


def test_two_runs_of_the_same_inputs_have_the_same_weights(tmp_path: Path) -> None:
    train, init = draw_set(tmp_path / "train"), initial(tmp_path / "init.pt")
    options = TrainOptions(epochs=2, threads=1, augment=("hflip", "photometric", "iou_crop", "zoom_out"))

    one = finetune(init, train, None, options, tmp_path / "one")
    two = finetune(init, train, None, options, tmp_path / "two")

    weights, again = load_checkpoint(one.last)[0]["model"], load_checkpoint(two.last)[0]["model"]
    assert all(torch.equal(weights[key], again[key]) for key in weights)


@pytest.mark.parametrize(("best_by", "best"), [(None, 3), ("bbox/AP50", 2), ("bbox/AR100", 1)])
def test_the_best_checkpoint_is_the_best_by_the_named_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best_by: str | None, best: int
) -> None:
    scores = [
        {"bbox/AP": 0.1, "bbox/AP50": 0.2, "bbox/AR100": 0.9},
        {"bbox/AP": 0.2, "bbox/AP50": 0.7, "bbox/AR100": 0.9},
        {"bbox/AP": 0.3, "bbox/AP50": 0.6, "bbox/AR100": 0.8},
        {"bbox/AP": 0.3, "bbox/AP50": 0.5, "bbox/AR100": 0.8},
    ]
    said = iter(scores)
    monkeypatch.setattr(loop, "quick_scores", lambda truth, results, detector: next(said))
    train = draw_set(tmp_path / "train", 2)
    options = TrainOptions(epochs=4, batch_size=2, threads=1, best_by=best_by)

    summary = finetune(initial(tmp_path / "init.pt"), train, train, options, tmp_path / "run")

    assert (summary.best_step, summary.steps, summary.metrics) == (best, 4, scores[best - 1])
    _, meta = load_checkpoint(summary.best)
    assert (meta.history["step"], meta.history["metrics"]) == (best, scores[best - 1])


def test_a_tiny_set_is_trained_on_for_the_least_number_of_steps(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    options = TrainOptions(epochs=1, batch_size=2, min_steps=5, threads=1, eval_every=3)
    train = draw_set(tmp_path / "train", 4)

    summary = finetune(initial(tmp_path / "init.pt"), train, train, options, tmp_path / "run", echo=lines.append)

    assert (summary.steps, summary.epochs) == (5, 2.5)
    assert lines[0]["derivations"]["steps"] == "1 epochs x 2 steps = 2, raised to min_steps 5 (2.5 epochs)"
    assert [line["step"] for line in lines if line["event"] == "eval"] == [5]


def test_a_checkpoint_holds_tensors_and_json_and_nothing_else(tmp_path: Path) -> None:
    train = draw_set(tmp_path / "train", 4)
    options = TrainOptions(epochs=1, batch_size=2, threads=1, ema=0.9, optimizer="adamw")
    summary = finetune(initial(tmp_path / "init.pt"), train, train, options, tmp_path / "run")

    for path in (summary.best, summary.last):
        content = torch.load(path, weights_only=True)
        json.dumps(content, default=lambda value: [] if type(value) is torch.Tensor else pytest.fail(str(value)))
    assert {"model", "optimizer", "ema", "run"} <= content.keys()
    assert {value.dtype for value in content["model"].values()} == {torch.float32, torch.int64}


def test_a_run_tells_what_it_ran_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "repository"
    for command in ("init -q", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m first"):
        subprocess.run(["git", "-C", str(repository), *command.split()] if repository.exists() else
                       ["git", *command.split(), str(repository)], check=True)  # fmt: skip
    monkeypatch.chdir(repository)
    (repository / "new.txt").write_text("not committed")
    options = TrainOptions(epochs=1, threads=1)

    finetune(initial(tmp_path / "init.pt"), draw_set(tmp_path / "train", 2), None, options, tmp_path / "run")

    told = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert {"python", "platform", "torch", "torchvision", "cpus", "gpus", "git"} <= told.keys()
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert told["git"] == {"commit": head, "changed": True}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["options"] == options.model_dump(mode="json")


@pytest.mark.slow
def test_two_hundred_steps_leak_nothing(tmp_path: Path) -> None:
    train = draw_set(tmp_path / "train")
    seen: dict[int, tuple[int, int]] = {}

    def measure(line: dict[str, Any]) -> None:
        if line["event"] == "step" and line["step"] in (60, 200):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen[line["step"]] = (len(list(Path("/proc/self/fd").iterdir())), pages * 4096)

    options = TrainOptions(epochs=100, threads=1, workers=2, ema=0.9, eval_every=20)
    before = {child.pid for child in multiprocessing.active_children()}
    finetune(initial(tmp_path / "init.pt"), train, train, options, tmp_path / "run", echo=measure)

    (files, memory), (files_after, memory_after) = seen[60], seen[200]
    assert abs(files_after - files) <= 4  # batches under way
    assert memory_after - memory < 40 * 2**20
    assert {child.pid for child in multiprocessing.active_children()} == before
