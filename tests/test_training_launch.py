"""Training in processes of its own: what comes back from them, and that none outlives its parent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_kill import wait_until
from helpers_training import draw_set, initial
from test_training_resume import assert_same_weights

from models.checkpoint import load_checkpoint
from models.errors import TrainingCrash, TrainingStopped
from models.training import TrainOptions, evaluate, finetune, run_training
from models.training.journal import Line
from models.training.sampling import StepSampler

OPTIONS = TrainOptions(epochs=2, batch_size=4, log_every=1, checkpoint_every_steps=1, threads=1, devices=0)


def children_of(launcher: int) -> list[int]:
    """The training processes that the launcher started."""
    task = Path(f"/proc/{launcher}/task/{launcher}/children")
    return [pid for pid in map(int, task.read_text().split()) if "models.training.child" in cmdline(pid)]


def my_child() -> int:
    """The first training process of the run_training that this process is in."""
    return my_children()[0]


def my_children() -> list[int]:
    """The training processes of the run_training that this process is in, by rank."""
    launchers = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    (launcher,) = {
        int(pid)
        for path in launchers
        for pid in path.read_text().split()
        if "torch.distributed.run" in cmdline(int(pid))
    }
    return children_of(launcher)


def cmdline(pid: int) -> str:
    """The command line of a process, empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def test_a_killed_child_is_a_crash_and_calling_again_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text("raise SystemExit('whoever trains has a models.py of his own here')")
    init, train, val = (
        initial(tmp_path / "init.pt"),
        draw_set(tmp_path / "train"),
        draw_set(tmp_path / "val", 2, seed=1),
    )

    def kill_at_two(line: Line) -> None:
        if line["event"] == "step" and line["step"] == 2:
            os.kill(my_child(), signal.SIGKILL)

    with pytest.raises(TrainingCrash, match=r"ended by SIGKILL. Perhaps memory ran out"):
        run_training(init, train, val, OPTIONS, tmp_path / "run", on_line=kill_at_two)
    lines: list[Line] = []
    summary = run_training(init, train, val, OPTIONS, tmp_path / "run", on_line=lines.append)

    whole = finetune(init, train, val, OPTIONS, tmp_path / "whole")
    assert_same_weights(summary.last, whole.last)
    assert lines[0]["event"] == "resume"
    assert run_training(init, train, val, OPTIONS, tmp_path / "run") == summary


@pytest.mark.slow
def test_a_child_told_to_stop_checkpoints_and_says_so(tmp_path: Path) -> None:
    init, train = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train")
    options = OPTIONS.model_copy(update={"epochs": 500, "checkpoint_every_steps": 10_000})

    def stop_at_two(line: Line) -> None:
        if line["event"] == "step" and line["step"] == 2:
            os.kill(my_child(), signal.SIGTERM)

    with pytest.raises(TrainingStopped, match=r"stopped at step \d+ of 1000"):
        run_training(init, train, None, options, tmp_path / "run", on_line=stop_at_two)
    assert (tmp_path / "run" / "last.pt").exists()


def loaders_of(child: int) -> list[int]:
    """The loading processes of a training process."""
    return [int(pid) for path in Path(f"/proc/{child}/task").glob("*/children") for pid in path.read_text().split()]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigterm_to_everything_that_trains_and_loads_leaves_a_run_to_continue(tmp_path: Path, processes: int) -> None:
    """As a cluster's scheduler sends it: to all processes of a job at once."""
    init, train = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train")
    options = OPTIONS.model_copy(update={"devices": processes, "workers": 2, "epochs": 500, "batch_size": 2})
    lines: list[Line] = []
    asked: list[float] = []

    def stop_at_two(line: Line) -> None:
        lines.append(line)
        if line["event"] == "step" and line["step"] == 2:
            for child in my_children():
                for pid in (*loaders_of(child), child):
                    os.kill(pid, signal.SIGTERM)
            asked.append(time.monotonic())

    with pytest.raises(TrainingStopped, match=r"stopped at step \d+ of"):
        run_training(init, train, None, options, tmp_path / "run", on_line=stop_at_two)

    assert time.monotonic() - asked[0] < 20  # 10 are promised, of a machine that has nothing else to do
    assert lines[-1]["event"] == "stopped"
    assert load_checkpoint(tmp_path / "run" / "last.pt")[0]["run"]["step"] == lines[-1]["step"]


def test_sigterm_is_heard_while_nothing_comes_from_the_disk(tmp_path: Path) -> None:
    train = draw_set(tmp_path / "train")
    (train.images / "003.png").unlink()
    os.mkfifo(train.images / "003.png")  # who reads it waits for ever
    options = OPTIONS.model_copy(update={"workers": 1, "batch_size": 8, "epochs": 500})

    held: list[int] = []
    loading: list[int] = []

    def being_read() -> bool:
        try:
            held.append(os.open(train.images / "003.png", os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody has opened the other end yet
            return False
        return True

    def stop_while_loading(line: Line) -> None:
        if line["event"] == "start":
            wait_until(being_read)
            loading.extend(os.pidfd_open(pid) for pid in loaders_of(my_child()))
            os.kill(my_child(), signal.SIGTERM)

    with pytest.raises(TrainingStopped, match="stopped at step 0 of 500"):
        run_training(initial(tmp_path / "init.pt"), train, None, options, tmp_path / "run", on_line=stop_while_loading)

    assert load_checkpoint(tmp_path / "run" / "last.pt")[0]["run"]["step"] == 0
    assert select.select(loading, [], [], 10)[0] == loading, "a loading process lives on"
    for file in (*held, *loading):
        os.close(file)


def test_a_users_error_in_the_child_is_the_same_error_here(tmp_path: Path) -> None:
    train = draw_set(tmp_path / "train", 2)

    with pytest.raises(ValueError, match=r"freeze 'backbne' is not known"):
        run_training(
            initial(tmp_path / "init.pt"),
            train,
            None,
            OPTIONS.model_copy(update={"freeze": "backbne"}),
            tmp_path / "run",
        )


@pytest.mark.slow
def test_an_error_while_listening_ends_the_child(tmp_path: Path) -> None:
    train, pids = draw_set(tmp_path / "train"), []

    def interrupted(line: Line) -> None:
        if line["event"] == "step":
            pids.append(my_child())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(
            initial(tmp_path / "init.pt"), train, None, OPTIONS.model_copy(update={"epochs": 500}), tmp_path / "run",
            on_line=interrupted,
        )  # fmt: skip
    assert "models.training.child" not in cmdline(pids[0])


PARENT = """
import os, signal, sys
from pathlib import Path
from models.training import DetectionData, TrainOptions, run_training
from test_training_launch import my_child
folder = Path(sys.argv[1])
def die(line):
    if line["event"] == "step":
        print(my_child(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
run_training(folder / "init.pt", DetectionData(folder / "train/coco.json", folder / "train/images"), None,
             TrainOptions(epochs=500, batch_size=4, log_every=1, threads=1, devices=0), folder / "run", on_line=die)
"""


def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    initial(tmp_path / "init.pt")
    draw_set(tmp_path / "train")
    environ: dict[str, Any] = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}

    parent = subprocess.run(
        [sys.executable, "-c", PARENT, str(tmp_path)], capture_output=True, text=True, env=environ, check=False
    )
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    child = int(parent.stdout)
    try:
        watch = os.pidfd_open(child)
        assert select.select([watch], [], [], 20)[0], "the child still runs"
    except ProcessLookupError:
        pass
    assert (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize(
    "name",
    ["ssdlite320_mobilenet_v3_large", pytest.param("fasterrcnn_mobilenet_v3_large_320_fpn", marks=pytest.mark.slow)],
)
def test_two_processes_train_and_evaluate_together(tmp_path: Path, name: str) -> None:
    small = {} if name.startswith("ssdlite") else {"min_size": 96, "max_size": 128, "rois_per_image": 32}
    init, train = initial(tmp_path / "init.pt", name, **small), draw_set(tmp_path / "train")
    val = draw_set(tmp_path / "val", 3, seed=1)
    options = OPTIONS.model_copy(update={"devices": 2, "batch_size": 2})
    lines: list[Line] = []

    summary = run_training(init, train, val, options, tmp_path / "run", on_line=lines.append)

    assert (lines[0]["processes"], summary.steps) == (2, 4)
    assert "x 2 processes" in lines[0]["derivations"]["learning_rate"]
    scored = evaluate(summary.best, val, tmp_path / "evaluation")["bbox"]
    assert summary.metrics.keys() == {f"bbox/{name}" for name in scored}
    if name.startswith("ssdlite"):  # others see what their batch pads an image with, and batches differ by process
        assert scored["AR100"] > 0, "or the next line says nothing"
        assert summary.metrics == {f"bbox/{name}": pytest.approx(value) for name, value in scored.items()}


ONE_WITHOUT_ROOM = """
import os
if os.environ.get("RANK") == "1":
    import torch
    from models.training import loop
    attempt = loop._forward_backward
    def with_little_memory(run, batch):
        if run.step >= 1 and run.micro_batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return attempt(run, batch)
    loop._forward_backward = with_little_memory
"""


@pytest.mark.slow
def test_two_processes_go_on_with_half_the_images_when_one_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ONE_WITHOUT_ROOM)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    lines: list[Line] = []
    options = OPTIONS.model_copy(update={"devices": 2})

    summary = run_training(
        initial(tmp_path / "init.pt"), draw_set(tmp_path / "train"), None, options, tmp_path / "run",
        on_line=lines.append,
    )  # fmt: skip

    assert summary.steps == 2
    assert summary.notes == ("out of memory at step 1: 2 images per forward pass from there on",)
    assert [line["event"] for line in lines] == ["start", "step", "resume", "out_of_memory", "step", "end"]
    assert lines[2]["step"] == 1


@pytest.mark.parametrize(("processes", "rank"), [(1, 0), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_an_evaluation_told_to_stop_leaves_a_run_to_continue(tmp_path: Path, processes: int, rank: int) -> None:
    """SIGTERM to one process of them, as soon as it evaluates: all leave, within the promised 10 seconds."""
    init, train = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train")
    val = draw_set(tmp_path / "val", 400, seed=1)  # minutes, if nobody could end it
    options = OPTIONS.model_copy(update={"devices": processes, "batch_size": 4 // processes, "epochs": 1})
    lines: list[Line] = []
    asked: list[float] = []

    def stop_at_the_last_step(line: Line) -> None:
        lines.append(line)
        if line["event"] == "step" and line["step"] == line["steps"]:
            os.kill(my_children()[rank], signal.SIGTERM)
            asked.append(time.monotonic())

    with pytest.raises(TrainingStopped, match="stopped at step 2 of 2"):
        run_training(init, train, val, options, tmp_path / "run", on_line=stop_at_the_last_step)

    assert time.monotonic() - asked[0] < 20  # 10 are promised, of a machine that has nothing else to do
    assert [line["event"] for line in lines] == ["start", "step", "step", "stopped"]


def test_two_processes_see_every_image_once(tmp_path: Path) -> None:
    groups = torch.tensor([0, 1, 0, 1, 1, 0, 0, 0, 1, 0, 1])
    ranks = [StepSampler(groups, 2, seed=3, start=0, stop=3, rank=rank, world=2) for rank in (0, 1)]

    seen = [index for sampler in ranks for step in sampler for _, index in step]

    assert len(seen) == 12
    assert set(seen) == set(range(11))
