"""A run told to stop leaves wherever it is, a long step among it, as if what it was at had not begun."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from helpers_kill import wait_until
from helpers_training import assert_same_weights, draw_set, initial
from test_training_launch import my_children

from models.checkpoint import load_checkpoint
from models.errors import TrainingCrash, TrainingStopped
from models.training import DetectionData, TrainOptions, TrainSummary, finetune, loop, run_training
from models.training import run as run_module
from models.training.folder import save_run
from models.training.journal import Line
from models.training.run import Run, prepare

OPTIONS = TrainOptions(
    epochs=3, batch_size=4, accumulate=2, ema=0.9, threads=1, devices=0, workers=0, log_every=1,
    checkpoint_every_steps=10_000,
)  # fmt: skip


Made = tuple[Path, DetectionData, DetectionData, TrainSummary]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Initial checkpoint, data and the run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("made")
    init, train, val = initial(folder / "init.pt"), draw_set(folder / "train"), draw_set(folder / "val", 2, seed=1)
    return init, train, val, finetune(init, train, val, OPTIONS, folder / "whole")


def ask() -> None:
    signal.raise_signal(signal.SIGTERM)


def in_forward(run: Run) -> None:
    """Ask once the norms have seen two passes of step 1."""
    passes: list[int] = []

    def after(*_: object) -> None:
        passes.append(run.step)
        if passes.count(1) == 2:
            ask()

    run.model.head.register_forward_hook(after)  # type: ignore[union-attr]


def in_backward(run: Run) -> None:
    """Ask, as another thread does, once the gradient of the last layer is there; that of the first never comes."""
    first, *_, last = run.model.parameters()
    ours: Any = last.register_post_accumulate_grad_hook
    ours(lambda _: run.stop.stop() if run.step == 1 else None)
    theirs: Any = first.register_post_accumulate_grad_hook
    theirs(lambda _: pytest.fail("the pass went on to its end") if run.step == 1 else None)


def in_the_optimizer(run: Run) -> None:
    """Ask while the weights of step 1 change."""
    run.optimizer.register_step_pre_hook(lambda *_: ask() if run.step == 1 else None)


def in_evaluation(run: Run) -> None:
    """Ask while the averaged weights are in the model, in the middle of a forward pass."""
    run.model.backbone.register_forward_hook(lambda *_: None if run.model.training else ask())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("where", "step"), [(in_forward, 1), (in_backward, 1), (in_the_optimizer, 2), (in_evaluation, 1)]
)
def test_a_run_leaves_at_once_and_continues_to_the_same_weights(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Callable[[Run], None], step: int
) -> None:
    init, train, val, whole = made

    def prepared(*given: Any) -> Run:
        run = prepare(*given)
        where(run)
        monkeypatch.setattr(run_module, "save_run", lambda *given, **more: save_under_fire(run, *given, **more))
        return run

    def save_under_fire(leaving: Run, *given: Any, **more: Any) -> None:
        if leaving.stop.asked:
            ask()  # a second time, as a launcher does that ends all of its processes
        save_run(*given, **more)

    monkeypatch.setattr(loop, "prepare", prepared)
    with pytest.raises(TrainingStopped, match=f"stopped at step {step} of 3"):
        finetune(init, train, val, OPTIONS, tmp_path / "run")
    monkeypatch.undo()
    summary = finetune(init, train, val, OPTIONS, tmp_path / "run")

    assert_same_weights(summary.last, whole.last)
    assert_same_weights(summary.best, whole.best)
    assert summary.metrics == whole.metrics


TELLING = """
import os
from pathlib import Path
if "RANK" in os.environ:
    import torch
    from models.training import loop
    attempt, backward, steps = loop._forward_backward, torch.Tensor.backward, []
    def tell(phase):
        Path(os.environ["TOLD"], f"{phase}-{steps[-1]}-{os.environ['RANK']}").touch()
    def telling_attempt(run, batch):
        steps.append(run.step)
        tell("forward")
        return attempt(run, batch)
    def telling_backward(*given, **more):
        tell("backward")
        return backward(*given, **more)
    loop._forward_backward, torch.Tensor.backward = telling_attempt, telling_backward
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where each training process leaves a file named (phase)-(step)-(rank) as it begins it."""
    folder = tmp_path / "told"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(TELLING)
    monkeypatch.setenv("TOLD", str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return folder


@pytest.mark.parametrize(
    ("phase", "ranks"),
    [
        ("backward", {0: signal.SIGTERM}),
        *(
            pytest.param("backward", ranks, marks=pytest.mark.slow)
            for ranks in (
                {0: signal.SIGTERM, 1: signal.SIGTERM},
                {0: signal.SIGTERM, 1: None},
                {0: None, 1: signal.SIGTERM},
                {0: None, 1: signal.SIGKILL},
            )
        ),
        pytest.param("forward", {0: signal.SIGTERM}, marks=pytest.mark.slow),
        pytest.param("forward", {0: None, 1: signal.SIGTERM}, marks=pytest.mark.slow),
    ],
)
def test_signals_in_the_middle_of_a_step_lose_nothing(
    tmp_path: Path, told: Path, phase: str, ranks: dict[int, signal.Signals | None]
) -> None:
    """Some processes are told to stop, or killed; the others find out. The first, which writes, is not killed here."""
    init, train = initial(tmp_path / "init.pt", fixed_size=(320, 320)), draw_set(tmp_path / "train")
    options = OPTIONS.model_copy(update={"devices": len(ranks), "epochs": 2})
    lines: list[Line] = []
    asked: list[float] = []
    train_on = run_training if len(ranks) > 1 else finetune

    def strike(line: Line) -> None:
        lines.append(line)
        if line["event"] == "step":
            wait_until(lambda: all((told / f"{phase}-1-{rank}").exists() for rank in ranks), every=0.01)
            children = my_children()
            for rank, what in ranks.items():
                if what:
                    os.kill(children[rank], what)
            asked.append(time.monotonic())

    killed = signal.SIGKILL in ranks.values()
    with pytest.raises(TrainingCrash, match="ended by SIGKILL" if killed else "stopped at step 1 of 2") as left:
        run_training(init, train, None, options, tmp_path / "run", on_line=strike)
    assert isinstance(left.value, TrainingStopped) == (not killed)
    assert time.monotonic() - asked[0] < 30  # 10 are promised, of a machine that has nothing else to do
    assert [line["event"] for line in lines] == ["start", "step", "stopped"]
    assert load_checkpoint(tmp_path / "run" / "last.pt")[0]["run"]["step"] == 1
    summary = train_on(init, train, None, options, tmp_path / "run")

    assert_same_weights(summary.last, train_on(init, train, None, options, tmp_path / "whole").last)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("processes", [1, 2])
def test_stops_at_random_moments_of_long_steps_leave_the_weights_alone(tmp_path: Path, processes: int) -> None:
    init = initial(tmp_path / "init.pt", "fasterrcnn_mobilenet_v3_large_320_fpn", min_size=480, max_size=640)
    train, val = draw_set(tmp_path / "train"), draw_set(tmp_path / "val", 4, seed=1)
    options = OPTIONS.model_copy(update={"devices": processes, "batch_size": 8 // processes, "accumulate": 1})
    whole = run_training(init, train, val, options, tmp_path / "whole")
    draw, stops = random.Random(processes), 0

    def strike(line: Line) -> None:
        """Perhaps ask one of the processes, at some moment of the step that begins now."""
        if line["event"] in ("start", "resume", "step") and stops < 8:
            Timer(draw.uniform(0, 5), lambda: ask_one(draw.randrange(processes))).start()

    def ask_one(rank: int) -> None:
        try:
            os.kill(my_children()[rank], signal.SIGTERM)
        except (ValueError, IndexError, OSError):  # it has ended before, or another one has not begun
            return

    while not (tmp_path / "run" / "summary.json").exists():
        try:
            run_training(init, train, val, options, tmp_path / "run", on_line=strike)
        except TrainingStopped:
            stops += 1
        except TrainingCrash as error:
            if "ended by SIGTERM" not in str(error):  # before it could hear
                raise
    summary = run_training(init, train, val, options, tmp_path / "run")

    assert stops > 0
    assert_same_weights(summary.last, whole.last)
    assert_same_weights(summary.best, whole.best)
