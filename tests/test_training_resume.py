"""A run that is killed anywhere ends with the weights of one that was not, to the bit."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers_training import assert_same_weights, draw_set, initial, run_until_killed

from models.checkpoint import load_checkpoint
from models.errors import TrainingStopped
from models.training import DetectionData, TrainOptions, TrainSummary, finetune
from models.training.folder import claim, newest_checkpoint
from models.training.journal import read_lines
from models.training.process import StopSignal

EVERYTHING = TrainOptions(
    epochs=3,
    batch_size=2,
    accumulate=2,
    ema=0.9,
    workers=0,
    threads=1,
    log_every=1,
    checkpoint_every_steps=2,
    augment=("hflip", "photometric", "iou_crop", "zoom_out"),
    mosaic=0.7,
    mixup=0.4,
    mix_until=-1,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DetectionData, DetectionData, TrainSummary]:
    """Initial checkpoint, data and the run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("made")
    init, train, val = initial(folder / "init.pt"), draw_set(folder / "train"), draw_set(folder / "val", 2, seed=1)
    return init, train, val, finetune(init, train, val, EVERYTHING, folder / "whole")


@pytest.mark.parametrize(("workers", "at"), [(0, 3), (2, 3), (0, 2)])  # an evaluation follows step 2
def test_a_stopped_run_continues_to_the_same_weights(
    made: tuple[Path, DetectionData, DetectionData, TrainSummary], tmp_path: Path, workers: int, at: int
) -> None:
    init, train, val, whole = made
    options = EVERYTHING.model_copy(update={"workers": workers})
    stop = StopSignal()

    def stop_there(line: dict[str, Any]) -> None:
        if line["event"] == "step" and line["step"] == at:
            stop.stop()

    with pytest.raises(TrainingStopped, match=f"stopped at step {at} of 6"):
        finetune(init, train, val, options, tmp_path, echo=stop_there, stop=stop)
    summary = finetune(init, train, val, options, tmp_path)

    assert_same_weights(summary.last, whole.last)
    assert_same_weights(summary.best, whole.best)
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl") if line["event"] == "step"] == [
        *range(1, 7)
    ]


@pytest.mark.parametrize(("lines", "in_write"), [(2, 0), (9, 0), (99, 5)])
def test_a_killed_run_continues_to_the_same_weights(
    made: tuple[Path, DetectionData, DetectionData, TrainSummary], tmp_path: Path, lines: int, in_write: int
) -> None:
    init, train, val, whole = made

    assert run_until_killed(init, train, val, EVERYTHING, tmp_path, lines=lines, in_write=in_write) == -signal.SIGKILL
    summary = finetune(init, train, val, EVERYTHING, tmp_path)

    assert_same_weights(summary.last, whole.last)
    assert_same_weights(summary.best, whole.best)
    assert summary.metrics == whole.metrics
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl") if line["event"] == "step"] == [
        *range(1, 7)
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # each kill costs the start of a process and checkpoints of up to 700 MB
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("ssdlite320_mobilenet_v3_large", 28),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", 16),
        ("maskrcnn_resnet50_fpn", 8),
    ],
)
def test_kills_at_random_places_leave_the_weights_alone(tmp_path: Path, name: str, most: int) -> None:
    small = {} if name.startswith("ssdlite") else {"min_size": 96, "max_size": 128, "rois_per_image": 32}
    init = initial(tmp_path / "init.pt", name, **small)
    train, val = draw_set(tmp_path / "train", outlines=True), draw_set(tmp_path / "val", 2, seed=1, outlines=True)
    options = EVERYTHING.model_copy(update={"checkpoint_every_steps": 1})
    whole = finetune(init, train, val, options, tmp_path / "whole")
    draw, kills, runs = random.Random(name), 0, 0

    while kills < most:
        runs += 1
        folder = tmp_path / f"run{runs}"
        while not (folder / "summary.json").exists() and kills < most:
            where = (
                {"lines": draw.randint(1, 9)} if draw.random() < 0.6 else {"lines": 99, "in_write": draw.randint(1, 9)}
            )
            kills += run_until_killed(init, train, val, options, folder, **where) == -signal.SIGKILL
        summary = finetune(init, train, val, options, folder)
        assert_same_weights(summary.last, whole.last)
        assert_same_weights(summary.best, whole.best)


def test_where_steps_take_long_checkpoints_go_by_the_clock(
    made: tuple[Path, DetectionData, DetectionData, TrainSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init, train, _, _ = made
    monkeypatch.setattr("models.training.loop.CHECKPOINT_SECONDS", 0)

    def fall(line: dict[str, Any]) -> None:
        if line["event"] == "step" and line["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(init, train, None, EVERYTHING.model_copy(update={"checkpoint_every_steps": 1000}), tmp_path, echo=fall)
    path, _ = newest_checkpoint(tmp_path)
    assert path is not None
    assert load_checkpoint(path)[0]["run"]["step"] == 2


def test_what_a_killed_write_left_is_not_kept_with_the_run(tmp_path: Path) -> None:
    (tmp_path / ".last.pt.4711.part").write_bytes(b"half")

    claim(tmp_path, {"options": {}}, TrainOptions())

    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "environment.json"]
