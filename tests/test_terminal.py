"""What a terminal shows, however narrow it is."""

import io
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from helpers_flow import tiny_recipe, tiny_scenes
from rich.console import Console
from typer.testing import CliRunner

from flows.chain import Plainly, chain
from flows.cli import PANEL_OF, app
from flows.config import load_config
from models.training.folder import TrainSummary
from models.training.progress import TrainingDisplay
from tasks.stage import as_text
from tasks.train import train_text

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


def test_what_a_dataset_says_is_text_in_the_summaries_of_a_run(tmp_path: Path) -> None:
    evil = "<img src=x>.jpg"
    recipe = tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data"))
    (tmp_path / "data/Annotations" / evil).with_suffix(".xml").write_text("no XML")
    for listed in (tmp_path / "data/ImageSets/Main").glob("train*.txt"):
        listed.write_text(f"{listed.read_text()}<img src=x>\n")
    config, _ = load_config(recipe, ["source.skip_bad=true"])
    results = chain(config, Plainly(config.workspace))
    converted = dict([next(results), next(results)])["convert"]
    trained = TrainSummary(tmp_path, tmp_path, 1, 1.0, 1, {}, 2, (evil,), (f"lost {evil}",))

    for text in ((converted.path / "summary.md").read_text(), train_text(trained)):
        assert r"\<img src=x>" in text
        assert not re.search(r"[^\\]<img", text)


@pytest.mark.slow
def test_ctrl_c_ends_a_flow_in_words(tmp_path: Path) -> None:
    """A terminal sends it to every process of the group, Prefect's temporary server included."""
    recipe = tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data"), train={"epochs": 500})
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environ |= {"PREFECT_HOME": str(tmp_path / "prefect")}
    command = [sys.executable, "-c", "from flows.cli import main; main()", "finetune", str(recipe)]
    with subprocess.Popen(
        command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        assert process.stdout is not None
        said = next(line for line in process.stdout if "step 1" in line)
        os.killpg(process.pid, signal.SIGINT)
        said += process.stdout.read()
    assert process.returncode == 130, said
    assert "error: stopped. Run the same command again" in said
    assert "Traceback" not in said
    assert "Error logging" not in said
