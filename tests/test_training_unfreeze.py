from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_training import draw_set, initial
from torch import Tensor

from models.checkpoint import load_checkpoint
from models.errors import TrainingStopped
from models.training import DetectionData, TrainOptions, finetune
from models.training.process import StopSignal
from models.zoo import get_detector

# Four epochs of two steps: the backbone waits for two of them.
OPTIONS = TrainOptions(
    epochs=4, batch_size=4, freeze="backbone", unfreeze_at=2, workers=0, threads=1, learning_rate=0.01, log_every=1
)


def backbone(path: Path) -> dict[str, Tensor]:
    content, meta = load_checkpoint(path)
    detector = get_detector(meta.detector)
    return {key: value for key, value in content["model"].items() if detector.part_of(key) == "backbone"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DetectionData]:
    folder = tmp_path_factory.mktemp("unfreeze")
    return initial(folder / "init.pt"), draw_set(folder / "train")


def test_what_is_frozen_stays_and_what_thaws_really_trains(made: tuple[Path, DetectionData], tmp_path: Path) -> None:
    init, train = made
    before = backbone(init)

    held = finetune(init, train, None, OPTIONS.model_copy(update={"unfreeze_at": None}), tmp_path / "held")
    thawed = finetune(init, train, None, OPTIONS, tmp_path / "thawed")

    assert all(torch.equal(value, before[key]) for key, value in backbone(held.last).items())
    after = backbone(thawed.last)
    weights = [key for key in before if key.endswith(("weight", "bias"))]
    untrained = [key for key in weights if torch.equal(after[key], before[key])]
    assert untrained == []  # biases that began as equal zeros among them
    assert not torch.equal(
        *(next(v for k, v in state.items() if k.endswith("running_mean")) for state in (before, after))
    )


def test_a_run_stopped_after_the_thaw_continues_to_the_same_weights(
    made: tuple[Path, DetectionData], tmp_path: Path
) -> None:
    init, train = made
    whole = finetune(init, train, None, OPTIONS, tmp_path / "whole")
    stop = StopSignal()

    def stop_there(line: dict[str, Any]) -> None:
        if line["event"] == "step" and line["step"] == 6:
            stop.stop()

    with pytest.raises(TrainingStopped):
        finetune(init, train, None, OPTIONS, tmp_path / "stopped", echo=stop_there, stop=stop)
    again = finetune(init, train, None, OPTIONS, tmp_path / "stopped")

    first, second = (load_checkpoint(summary.last)[0]["model"] for summary in (whole, again))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_is_held_as_built_stays_and_may_thaw(made: tuple[Path, DetectionData], tmp_path: Path) -> None:
    """From weights most detectors hold their first stages as built; the run's watch over SIGTERM bears with it."""
    init, train = initial(tmp_path / "init.pt", trainable_layers=1), made[1]
    before = backbone(init)
    options = OPTIONS.model_copy(update={"freeze": None, "epochs": 2})

    held = finetune(init, train, None, options.model_copy(update={"unfreeze_at": None}), tmp_path / "held")
    thawed = finetune(init, train, None, options.model_copy(update={"unfreeze_at": 1}), tmp_path / "thawed")

    stays, moves = (
        {
            key
            for key, value in backbone(run.last).items()
            if value.is_floating_point() and torch.equal(value, before[key])
        }
        for run in (held, thawed)
    )
    assert stays > moves
