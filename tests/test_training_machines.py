"""One run over two machines, which here are two launchers on the loopback interface."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from helpers_training import draw_set, initial
from test_training_resume import assert_same_weights

from flows.join import join_runs
from models.errors import TrainingCrash, TrainingStopped
from models.training import TrainOptions, run_training
from models.training.journal import Line
from models.training.machines import Place, meeting_folder, take_place

OPTIONS = TrainOptions(epochs=1, batch_size=2, threads=1, workers=0, devices=1, machines=2, address="127.0.0.1")


@pytest.mark.slow
def test_two_machines_reach_the_weights_of_two_processes_on_one(tmp_path: Path) -> None:
    init, train = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train")
    workspace = tmp_path / "workspace"
    run = workspace / "store" / ".train-abc.part"
    run.mkdir(parents=True)

    other = multiprocessing.get_context("spawn").Process(target=join_runs, args=(workspace,), kwargs={"once": True})
    other.start()
    summary = run_training(init, train, None, OPTIONS, run)
    other.join(60)

    assert other.exitcode == 0
    assert not (run / "machines").exists()
    here = run_training(
        init, train, None, OPTIONS.model_copy(update={"devices": 2, "machines": 1}), tmp_path / "one machine"
    )
    assert_same_weights(summary.last, here.last)


def test_each_place_is_taken_once_and_none_when_the_run_is_over(tmp_path: Path) -> None:
    (tmp_path / "machines").mkdir()
    (tmp_path / "machines" / "place-1").write_text("left by a killed run")
    with meeting_folder(tmp_path) as folder:
        job = Path(folder) / "job.json"
        assert take_place(job) is None
        job.write_text('{"place": {"processes": 4, "machines": 3, "number": 0, "host": "lead", "port": 29500}}')
        places = [take_place(job) for _ in range(3)]
    assert places == [Place(4, 3, 1, "lead", 29500), Place(4, 3, 2, "lead", 29500), None]
    assert take_place(job) is None
    assert not Path(folder).exists()


@pytest.mark.slow
def test_a_machine_that_dies_ends_the_run_and_the_next_attempt_ends_in_the_same_weights(tmp_path: Path) -> None:
    init, train = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train")
    options = OPTIONS.model_copy(update={"epochs": 3, "checkpoint_every_steps": 1, "log_every": 1})
    workspace = tmp_path / "workspace"
    run = workspace / "store" / ".train-abc.part"
    run.mkdir(parents=True)
    spawn = multiprocessing.get_context("spawn")
    first, second = (spawn.Process(target=join_runs, args=(workspace,), kwargs={"once": True}) for _ in range(2))

    def kill_the_other(line: Line) -> None:
        if line["event"] == "step" and line["step"] == 2:
            first.kill()

    first.start()
    with pytest.raises((TrainingCrash, TrainingStopped)):
        run_training(init, train, None, options, run, on_line=kill_the_other)
    second.start()
    lines: list[Line] = []
    summary = run_training(init, train, None, options, run, on_line=lines.append)
    second.join(60)

    assert lines[0]["event"] == "resume"
    undisturbed = options.model_copy(update={"devices": 2, "machines": 1})
    assert_same_weights(summary.last, run_training(init, train, None, undisturbed, tmp_path / "undisturbed").last)
