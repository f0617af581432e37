"""What goes wrong in a run, and what is said and done about it."""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_training import draw_set, initial
from test_training_resume import assert_same_weights

from models.checkpoint import load_checkpoint
from models.errors import TrainingError, TrainingStopped, WeightsError
from models.report.training import training_figures
from models.training import TrainOptions, evaluate, finetune, loop
from models.training.folder import newest_checkpoint
from models.training.journal import Line, read_lines
from models.training.process import StopSignal

SHORT = TrainOptions(epochs=2, batch_size=4, log_every=1, checkpoint_every_steps=1, threads=1)


def said_by_the_report(folder: Path) -> list[str]:
    """The notes on the run's page."""
    told = training_figures(read_lines(folder / "metrics.jsonl"))
    assert told
    return list(told.notes)


def test_a_loss_that_is_not_finite_names_step_images_and_losses(tmp_path: Path) -> None:
    options = SHORT.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0, "clip_norm": 0.0})

    with pytest.raises(
        TrainingError, match=r"not finite at step 1: bbox_regression .*; gradient norm .*; images \d+ \(00\d\.png\)"
    ):
        finetune(initial(tmp_path / "init.pt"), draw_set(tmp_path / "train"), None, options, tmp_path / "run")


def test_a_loss_that_is_not_finite_is_tried_once_more_at_a_tenth_of_the_rate(tmp_path: Path) -> None:
    options = {"learning_rate": 1e30, "warmup_steps": 0, "clip_norm": 0.0, "on_nonfinite": "retry"}

    with pytest.raises(TrainingError, match="not finite"):
        finetune(
            initial(tmp_path / "init.pt"), draw_set(tmp_path / "train"), None,
            SHORT.model_copy(update=options), tmp_path / "run",
        )  # fmt: skip

    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    (again,) = [line for line in lines if line["event"] == "nonfinite"]
    assert again["rate_factor"] == 0.1
    assert [line["lr"] for line in lines if line["event"] == "step"] == [
        pytest.approx(1e29 if again["step"] == 0 else 1e30)
    ]


attempt = loop._forward_backward


def with_little_memory(run: Any, batch: Any) -> dict[str, float]:
    """A forward pass where there is room for two images."""
    if run.micro_batch > 2:
        attempt(run, batch)  # leaves gradients behind, as a failed attempt does
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    return attempt(run, batch)


def test_out_of_memory_halves_the_images_per_pass_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init, train = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train")
    monkeypatch.setattr(loop, "_forward_backward", with_little_memory)

    summary = finetune(init, train, None, SHORT.model_copy(update={"batch_size": 8}), tmp_path / "small")

    events = [line for line in read_lines(tmp_path / "small" / "metrics.jsonl") if line["event"] == "out_of_memory"]
    assert [event["micro_batch"] for event in events] == [4, 2]
    assert summary.notes == (
        "out of memory at step 0: 4 images per forward pass from there on",
        "out of memory at step 0: 2 images per forward pass from there on",
    )
    assert summary.steps == 2
    assert said_by_the_report(tmp_path / "small") == list(summary.notes)
    with pytest.raises(torch.OutOfMemoryError):
        finetune(init, train, None, SHORT.model_copy(update={"on_out_of_memory": "fail"}), tmp_path / "fail")


def test_a_run_that_had_no_room_resumes_with_what_it_had_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init, train = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train")
    monkeypatch.setattr(loop, "_forward_backward", with_little_memory)
    options, stop = SHORT.model_copy(update={"batch_size": 8}), StopSignal()
    whole = finetune(init, train, None, options, tmp_path / "whole")

    with pytest.raises(TrainingStopped, match="stopped at step 1 of 2"):
        finetune(init, train, None, options, tmp_path / "run", stop=stop, echo=lambda line: stop_at(1, line, stop))
    monkeypatch.undo()  # there is room again: the run keeps to what it knows
    summary = finetune(init, train, None, options, tmp_path / "run")

    assert_same_weights(summary.last, whole.last)
    assert summary.notes == whole.notes


def stop_at(step: int, line: Line, stop: StopSignal) -> None:
    """Ask a run to stop when it tells of this step."""
    if line["event"] == "step" and line["step"] == step:
        stop.stop()


def test_accumulated_passes_train_on_the_images_of_one_large_pass(tmp_path: Path) -> None:
    init, train = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train", 4)
    losses = []

    for images in (2, 4):
        lines: list[Line] = []
        options = SHORT.model_copy(update={"batch_size": images, "accumulate": 4 // images, "learning_rate": 1e-6})
        finetune(init, train, None, options, tmp_path / str(images), echo=lines.append)
        losses.append([line["loss"] for line in lines if line["event"] == "step"])

    assert losses[0] == pytest.approx(losses[1], rel=0.2)  # batch norm and the count of positives differ
    assert losses[0] != losses[1]


def test_an_unreadable_image_is_replaced_and_counted(tmp_path: Path) -> None:
    train = draw_set(tmp_path / "train")
    (train.images / "003.png").write_bytes(b"\x89PNG\r\n\x1a\n not really")
    options = SHORT.model_copy(update={"max_unreadable": 0.2})

    summary = finetune(initial(tmp_path / "init.pt"), train, None, options, tmp_path / "run")

    assert summary.unreadable == ("003.png",)
    assert said_by_the_report(tmp_path / "run") == ["1 of the training images could not be read: 003.png"]
    assert summary.steps == 4


@pytest.mark.parametrize("damage", ["cut", "gone", "other size"])
def test_too_many_unreadable_images_fail_the_run_by_name(tmp_path: Path, damage: str) -> None:
    train = draw_set(tmp_path / "train")
    image = train.images / "003.png"
    if damage == "cut":
        image.write_bytes(image.read_bytes()[:600])
    elif damage == "gone":
        image.unlink()
    else:
        image.write_bytes((train.images / "001.png").read_bytes())

    with pytest.raises(TrainingError, match=r"1 of 8 training images \(12\.5%\) cannot be read.*003\.png"):
        finetune(initial(tmp_path / "init.pt"), train, None, SHORT, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"003\.png"):
        evaluate(initial(tmp_path / "init.pt"), train, tmp_path / "evaluation")


def test_another_run_is_not_continued(tmp_path: Path) -> None:
    init, train = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train", 4)
    finetune(init, train, None, SHORT, tmp_path / "run")

    with pytest.raises(ValueError, match=r"momentum was 0\.9 there and is 0\.8 now"):
        finetune(init, train, None, SHORT.model_copy(update={"momentum": 0.8}), tmp_path / "run")
    again = finetune(init, train, None, SHORT.model_copy(update={"log_every": 7}), tmp_path / "run")
    assert again.steps == 2


def flip_a_bit_of_the_largest_tensor(path: Path) -> None:
    """What a failing disk does."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("both", [False, True])
def test_a_broken_checkpoint_falls_back_and_says_so(tmp_path: Path, both: bool) -> None:
    init, train = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train")
    whole = finetune(init, train, None, SHORT, tmp_path / "whole")
    folder = tmp_path / "run"
    finetune(init, train, None, SHORT, folder)
    (folder / "summary.json").unlink()
    for name in ("last.pt", "previous.pt") if both else ("last.pt",):
        flip_a_bit_of_the_largest_tensor(folder / name)

    summary = finetune(init, train, None, SHORT, folder)

    (fallback,) = [line for line in read_lines(folder / "metrics.jsonl") if line["event"] == "fallback"][:1]
    assert fallback["problem"].startswith("last.pt is damaged (checksum of ")
    assert fallback["resumed_from"] == ("the start" if both else "previous.pt")
    said = f"{fallback['problem']}: continued from {fallback['resumed_from']}, step {fallback['step']}"
    assert summary.notes[0] == said
    assert said_by_the_report(folder) == list(summary.notes)
    assert_same_weights(summary.last, whole.last)


def test_a_fuzzed_checkpoint_is_damaged_or_unchanged(tmp_path: Path) -> None:
    """Whatever happens to its bytes, a checkpoint is found broken or loads exactly as it was written."""
    init, train = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train", 4)
    folder = tmp_path / "run"
    last = finetune(init, train, None, SHORT, folder).last
    whole, expected = last.read_bytes(), load_checkpoint(last)[0]["model"]
    (folder / "previous.pt").unlink()
    draw = random.Random(0)

    for _ in range(40):
        content = bytearray(whole)
        if draw.random() < 0.3:
            del content[draw.randrange(len(content)) :]
        else:
            for _ in range(draw.choice([1, 8])):
                at = draw.choice([draw.randrange(len(content)), len(content) - 1 - draw.randrange(30_000)])
                content[at] = draw.randrange(256)
        last.write_bytes(content)
        path, problems = newest_checkpoint(folder)
        assert (path is None) == bool(problems)
        if path is not None:
            found = load_checkpoint(path)[0]["model"]
            assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": []}, "no images to train on"),
        ({"annotations": []}, "4 images and not one object"),
        ({"categories": [{"id": 1, "name": "cat"}]}, "category 'cat' is not among the detector's classes disc, square"),
        ({"images": [{"id": 1, "file_name": "../a.png", "width": 9, "height": 9}]}, "leads out of the image folder"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    train = draw_set(tmp_path / "train", 4)
    train.coco.write_text(json.dumps(json.loads(train.coco.read_text()) | change))

    with pytest.raises(ValueError, match=said):
        finetune(initial(tmp_path / "init.pt"), train, None, SHORT, tmp_path / "run")


def test_crowds_and_boxes_without_area_do_no_harm(tmp_path: Path) -> None:
    train = draw_set(tmp_path / "train", 4)
    content = json.loads(train.coco.read_text())
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["bbox"] = [5, 5, 0, 10]
    train.coco.write_text(json.dumps(content))
    lines: list[Line] = []

    finetune(initial(tmp_path / "init.pt"), train, train, SHORT, tmp_path / "run", echo=lines.append)

    assert (lines[0]["objects"], lines[0]["left_out"]) == (7, 1)
    assert lines[-1]["event"] == "end"


def test_a_choice_of_the_best_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    train = draw_set(tmp_path / "train", 4)

    with pytest.raises(ValueError, match="predicts no masks"):
        finetune(initial(tmp_path / "init.pt"), train, train, TrainOptions(best_by="segm/AP"), tmp_path / "run")
    with pytest.raises(ValueError, match="no augmentation is called 'hflop'"):
        TrainOptions(augment=("hflop",))


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "init.pt").write_bytes(b"PK\x03\x04 not really")

    with pytest.raises(WeightsError, match="not a whole annotune checkpoint"):
        finetune(tmp_path / "init.pt", draw_set(tmp_path / "train", 2), None, SHORT, tmp_path / "run")


def test_patience_ends_a_run_that_no_longer_gains(tmp_path: Path) -> None:
    train = draw_set(tmp_path / "train", 4)
    options = TrainOptions(epochs=9, learning_rate=1e-12, patience=2, threads=1)

    summary = finetune(initial(tmp_path / "init.pt"), train, train, options, tmp_path / "run")

    assert (summary.steps, summary.best_step) == (3, 1)
    assert summary.notes == ("stopped early at step 3 of 9: no gain in 2 evaluations",)


def test_single_images_are_refused_where_a_live_norm_sees_one_pixel(tmp_path: Path) -> None:
    single = SHORT.model_copy(update={"batch_size": 1, "accumulate": 4})
    data = draw_set(tmp_path / "train", 4)

    with pytest.raises(ValueError, match=r"train.batch_size 1: ssdlite320_mobilenet_v3_large .* train.batch_size=2"):
        finetune(initial(tmp_path / "init.pt"), data, None, single, tmp_path / "run")

    assert not list((tmp_path / "run").glob("*.pt"))
    frozen = initial(tmp_path / "frozen.pt", norm="frozen")
    assert finetune(frozen, data, None, single, tmp_path / "other").steps == 2


def test_a_rest_of_one_image_joins_the_pass_before_it() -> None:
    assert loop.forward_passes(5, 2, 2) == [(0, 2), (2, 5)]
    assert loop.forward_passes(5, 2, 1) == [(0, 2), (2, 4), (4, 5)]
    assert loop.forward_passes(4, 2, 2) == [(0, 2), (2, 4)]
    assert loop.forward_passes(1, 2, 2) == [(0, 1)]


def test_an_epoch_of_five_images_in_steps_of_two_has_no_step_of_one(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "train", 5)
    options = TrainOptions(epochs=1, batch_size=2, threads=1)
    assert finetune(initial(tmp_path / "init.pt"), data, None, options, tmp_path / "run").steps == 3
