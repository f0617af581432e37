"""TensorBoard, Weights & Biases and MLflow: read back with their own readers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from helpers_training import draw_set, initial
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.errors import TrainingStopped
from models.training import TrainOptions, finetune, trackers
from models.training.journal import Line, read_lines
from models.training.process import StopSignal

SHORT = TrainOptions(epochs=2, batch_size=4, log_every=1, checkpoint_every_steps=1, threads=1, workers=0)
SECRET = "s3cret-l0gin"
STEP: Line = {
    "event": "step", "step": 1, "steps": 9, "epoch": 0.5, "loss": 3.5, "losses": {"a": 1.5, "b": 2.0},
    "lr": 0.1, "images_per_second": 4.0, "data_wait": 0.0, "gpu_memory": 0,
}  # fmt: skip


def needs(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install annotune[{name}]")


def test_tensorboard_shows_a_resumed_run_once(tmp_path: Path) -> None:
    init, train, val = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train"), draw_set(tmp_path / "val", 2)
    stop = StopSignal()

    def stop_there(line: dict[str, Any]) -> None:
        if line["event"] == "step" and line["step"] == 3:
            stop.stop()

    with pytest.raises(TrainingStopped):
        finetune(init, train, val, SHORT, tmp_path / "run", echo=stop_there, stop=stop)
    finetune(init, train, val, SHORT, tmp_path / "run")

    shown = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    for tag, event, value in (
        ("loss", "step", lambda line: line["loss"]),
        ("run/lr", "step", lambda line: line["lr"]),
        ("bbox/AP50", "eval", lambda line: line["metrics"]["bbox/AP50"]),
    ):
        told = [(line["step"], pytest.approx(value(line))) for line in lines if line["event"] == event]
        assert [(scalar.step, scalar.value) for scalar in shown.Scalars(tag)] == told
    assert sorted(path.name for path in (tmp_path / "run" / "tensorboard").iterdir()) == [
        "events.out.tfevents.000000", "events.out.tfevents.000001",
    ]  # fmt: skip


def test_steps_that_a_killed_process_told_already_are_shown_once(tmp_path: Path) -> None:
    for first, steps in (("start", (1, 2, 3)), ("resume", (3, 4))):
        with trackers.trackers(("tensorboard",), tmp_path, {}, pytest.fail) as track:
            track({"event": first, "step": steps[0] - 1})
            for step in steps:
                track({**STEP, "step": step})

    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [scalar.step for scalar in shown.Scalars("loss")] == [1, 2, 3, 4]


def test_wandb_gets_the_figures_and_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("wandb")
    for key, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_API_KEY": SECRET * 4}.items():
        monkeypatch.setenv(key, value)

    for _ in range(2):
        with trackers.trackers(("wandb",), tmp_path, {"seed": 7}, pytest.fail) as track:
            track(STEP)

    runs = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({path.stem for path in runs}) == 1  # one id
    assert b"images_per_second" in b"".join(path.read_bytes() for path in runs)
    assert_secret_nowhere(tmp_path)


@pytest.mark.filterwarnings("ignore")  # its own, about what it uses of others
def test_mlflow_gets_the_figures_and_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    from mlflow import MlflowClient  # noqa: PLC0415 - an extra

    for step in (1, 2):
        with trackers.trackers(("mlflow",), tmp_path, {"seed": 7}, pytest.fail) as track:
            track({**STEP, "step": step})
            track({"event": "end", "step": step})

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("annotune").experiment_id])
    assert run.data.params == {"seed": "7"}
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss/a")] == [(1, 1.5), (2, 1.5)]
    assert run.info.status == "FINISHED"
    assert_secret_nowhere(tmp_path)


def assert_secret_nowhere(folder: Path) -> None:
    assert not [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_what_is_not_installed_is_said_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with (
        pytest.raises(ValueError, match=r"track: wandb is not installed. Install annotune\[wandb\]"),
        trackers.trackers(("wandb",), tmp_path, {}, pytest.fail),
    ):
        pytest.fail("opened")


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(tmp_path: Path) -> None:
    said: list[str] = []

    with trackers.trackers(("tensorboard",), tmp_path, {}, said.append) as track:
        track({**STEP, "loss": f"http://me:{SECRET}@tracking"})
        track(STEP)

    (text,) = said
    assert text.startswith("tensorboard gets no more lines: ValueError: ")
    assert "http://tracking" in text
    assert SECRET not in text
