"""What a terminal shows, however narrow it is."""

import io
import re
from importlib.metadata import version

import typer
from rich.console import Console
from typer.testing import CliRunner

from flows.cli import PANEL_OF, app
from models.training.progress import TrainingDisplay
from tasks.stage import as_text

STEP = {
    "event": "step", "step": 70100, "steps": 90000, "epoch": 9.5, "loss": 12.3456, "lr": 0.00123,
    "images_per_second": 142.1, "data_wait": 0.03, "gpu_memory": 12 * 2**30,
}  # fmt: skip


def test_steps_and_time_left_are_shown_whole_on_80_columns() -> None:
    written = io.StringIO()
    with TrainingDisplay(Console(file=written, force_terminal=True, width=80, no_color=True)) as show:
        show(STEP)

    bar, figures = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written.getvalue()).split("\n")[-3:-1]
    assert re.fullmatch(r"training \S+ +70100/90000 [-\d:]+ left", bar.strip())
    assert figures.strip() == "epoch 9.5 loss 12.346 lr 0.0012 142.1 images/s (3% waiting for data) 12.0 GiB"


def test_the_version_can_be_asked() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"annotune {version('annotune')}\n"


def test_every_command_has_its_place_in_the_help() -> None:
    assert sorted(PANEL_OF) == sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_names_from_outside_are_text_in_a_summary() -> None:
    assert as_text("a|b\n| c | <img src=x> `d` [e](javascript:f) BloodImage_00001.jpg") == (
        r"a\|b \| c \| \<img src=x> \`d\` [e\](javascript:f) BloodImage_00001.jpg"
    )
