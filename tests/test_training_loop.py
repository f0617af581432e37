"""The loop: what it writes, and that it continues to the bit."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_training import draw_set, initial

from models.checkpoint import load_checkpoint
from models.training import TrainOptions, evaluate, finetune
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
