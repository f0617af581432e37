"""The lines of a run for programs that draw curves: TensorBoard in the run's folder, Weights & Biases and MLflow.

Where the latter two send their lines, and how they log in, is theirs to know: their own environment variables and
settings files. Nothing of that is read or written down here.
"""

# mypy: untyped-calls-exclude=tensorboard
# mypy: disable-error-code=attr-defined
from __future__ import annotations

import importlib.util
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import orjson

from models.files import write_json
from models.training.journal import Line

TrackerName = Literal["tensorboard", "wandb", "mlflow"]
Tracker = Callable[[Line], None]
PROJECT = "annotune"  # W&B's project and MLflow's experiment, unless their own settings name another
TENSORBOARD = "tensorboard"  # folder of the events, in that of the run
IDS = "tracking.json"  # under which names W&B and MLflow know the run, so that a resumed run goes on there
LOGIN = re.compile(r"(\w://)[^\s/@'\"]+@")  # of a URL: user name and password


@contextmanager
def trackers(
    names: Sequence[TrackerName], folder: Path, config: Mapping[str, Any], say: Callable[[str], None]
) -> Iterator[Tracker]:
    """What hands each line of a run to these programs. One that fails on the way is left out from there on, and said.

    Args:
        names: which ones.
        folder: of the run.
        config: what the run was made of, as JSON, to compare runs by.
        say: gets a sentence when one drops out.

    Raises:
        ValueError: a program is not installed, or does not accept the run: no login, no such server.
    """
    with ExitStack() as stack:
        opened: dict[str, Tracker] = {}
        for name in names:
            opened[name] = stack.enter_context(_opened(name, folder, config))

        def track(line: Line) -> None:
            for name, tracker in list(opened.items()):
                try:
                    tracker(line)
                except Exception as error:  # whatever it is, the training is worth more
                    del opened[name]
                    say(f"{name} gets no more lines: {_said(error)}")

        yield track


@contextmanager
def _opened(name: TrackerName, folder: Path, config: Mapping[str, Any]) -> Iterator[Tracker]:
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"track: {name} is not installed. Install annotune[{name}], or leave it out of train.track")
    opener = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}[name]
    with ExitStack() as stack:
        try:
            tracker = stack.enter_context(opener(folder, config))
        except Exception as error:
            raise ValueError(f"track: {name} does not take this run: {_said(error)}") from None
        yield tracker


def _said(error: Exception) -> str:
    """The first line of an error, without the login that a URL in it may have."""
    return LOGIN.sub(r"\1", f"{type(error).__name__}: {error}".partition("\n")[0])


def scalars(line: Line) -> dict[str, float]:
    """The figures of a line by name, empty where it has none to draw."""
    if line["event"] == "eval":
        return {name: float(value) for name, value in line["metrics"].items()}
    if line["event"] != "step":
        return {}
    named = {f"loss/{name}": float(value) for name, value in line["losses"].items()}
    run = ("epoch", "lr", "images_per_second", "data_wait", "gpu_memory")
    return {"loss": float(line["loss"]), **named, **{f"run/{name}": float(line[name]) for name in run}}


@contextmanager
def _tensorboard(folder: Path, config: Mapping[str, Any]) -> Iterator[Tracker]:
    """Event files, one more each time the run is taken up: a killed process leaves the end of its file in pieces.

    Written as tensorboard's own writer does, but without its thread, and under names that say nothing of the machine.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # noqa: PLC0415 - only where it is wanted
    from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415
    from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415

    events = folder / TENSORBOARD
    events.mkdir(exist_ok=True)
    number = sum(1 for _ in events.iterdir())
    with (events / f"events.out.tfevents.{number:06d}").open("wb") as file:
        writer = RecordWriter(file)

        def write(**content: Any) -> None:
            writer.write(Event(wall_time=time.time(), **content).SerializeToString())
            writer.flush()

        def track(line: Line) -> None:
            if line["event"] in ("start", "resume"):  # what came after that step is told again
                write(step=line["step"] + 1, session_log=SessionLog(status=SessionLog.START))
            if found := scalars(line):
                values = [Summary.Value(tag=tag, simple_value=value) for tag, value in found.items()]
                write(step=line["step"], summary=Summary(value=values))

        write(file_version="brain.Event:2")
        yield track


@contextmanager
def _wandb(folder: Path, config: Mapping[str, Any]) -> Iterator[Tracker]:
    """Weights & Biases; without a login it works with WANDB_MODE=offline."""
    import wandb  # noqa: PLC0415 - an extra

    settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
    run = wandb.init(
        project=None if "WANDB_PROJECT" in os.environ else PROJECT,
        id=_known_as("wandb", folder, lambda: uuid.uuid4().hex[:12]),
        resume="allow",
        config=dict(config),
        settings=settings,
    )
    with run:
        run.define_metric("*", step_metric="step")

        def track(line: Line) -> None:
            if found := scalars(line):
                run.log({**found, "step": line["step"]})

        yield track


@contextmanager
def _mlflow(folder: Path, config: Mapping[str, Any]) -> Iterator[Tracker]:
    """MLflow, where MLFLOW_TRACKING_URI says."""
    from mlflow import MlflowClient  # noqa: PLC0415 - an extra

    client = MlflowClient()

    def created() -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else client.create_experiment(name)
        run = str(client.create_run(number).info.run_id)
        for key, value in config.items():
            client.log_param(run, key, value)
        return run

    run = _known_as("mlflow", folder, created)
    client.update_run(run, "RUNNING")

    def track(line: Line) -> None:
        for name, value in scalars(line).items():
            client.log_metric(run, name, value, step=line["step"])
        if line["event"] == "end":
            client.set_terminated(run)

    yield track


def _known_as(name: str, folder: Path, make: Callable[[], str]) -> str:
    """Under which id a program knows this run: the one it got when it began."""
    path = folder / IDS
    known: dict[str, str] = orjson.loads(path.read_bytes()) if path.exists() else {}
    if name not in known:
        known[name] = make()
        write_json(path, known)
    return known[name]
