"""Two runs at once in one workspace, two on one registry, and a collection while one is under way; real processes."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers_flow import tiny_recipe, tiny_scenes
from helpers_kill import TRAIN, wait_for_steps

from flows.registry import Registry
from tasks.gc import collect

pytestmark = pytest.mark.slow

# Tells what it makes, and waits for the word to begin.
RUN = """
import sys
from pathlib import Path
import tasks.store as store
write = store._write_manifest
def told(folder):
    print("made", folder.name.removeprefix(".").partition("-")[0], flush=True)
    return write(folder)
store._write_manifest = told
from flows.config import load_config
from flows.finetune import finetune
from flows.retrain import retrain
config, _ = load_config(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
state = finetune(config, return_state=True) if len(sys.argv) == 2 else retrain(config, sys.argv[2], return_state=True)
state.result()
print("ended", state.name, flush=True)
"""
STAGES = ("convert", "check", "adapt", "train", "evaluate", "report")


def start(recipe: Path, prefect_server: str, *registry: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PREFECT_API_URL": prefect_server, "PREFECT_HOME": str(recipe.parent / "prefect")}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(recipe), *registry],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def begin(*processes: subprocess.Popen[str]) -> None:
    """Let them go, all at once."""
    for process in processes:
        assert process.stdout
        assert any(line == "ready\n" for line in process.stdout)
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()


def said_by(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    return said


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data"), train=TRAIN)


def test_two_runs_at_once_do_each_stage_once(recipe: Path, prefect_server: str) -> None:
    with start(recipe, prefect_server) as one, start(recipe, prefect_server) as two:
        begin(one, two)
        said = said_by(one) + said_by(two)

    assert Counter(re.findall(r"^made (\w+)", said, re.MULTILINE)) == dict.fromkeys(STAGES, 1)
    assert said.count("ended Completed") == 2


def test_two_retrains_at_once_make_one_champion(recipe: Path, prefect_server: str, tmp_path: Path) -> None:
    registry = str(tmp_path / "registry")
    with start(recipe, prefect_server, registry) as one, start(recipe, prefect_server, registry) as two:
        begin(one, two)
        said = said_by(one) + said_by(two)

    assert sorted(re.findall(r"ended (\w+)", said)) == ["Promoted", "Unchanged"]
    assert Counter(re.findall(r"^made (\w+)", said, re.MULTILINE))["train"] == 1
    assert Registry(registry).versions() == ("0001",)
    assert [entry.event for entry in Registry(registry).history()] == ["promoted"]


def test_a_collection_leaves_a_run_under_way_everything(recipe: Path, prefect_server: str) -> None:
    workspace = recipe.parent / "workspace"
    with start(recipe, prefect_server) as first:
        begin(first)
        said_by(first)
    again = tiny_recipe(recipe.parent, recipe.parent / "data", train={**TRAIN, "seed": 1}, name="other")
    with start(again, prefect_server) as second:
        begin(second)
        wait_for_steps(workspace, second)
        done = collect(workspace, 1)
        said = said_by(second)

    assert done.active == 1
    assert {name.partition("-")[0] for name in done.removed} == {"adapt", "train", "evaluate", "report"}  # the first's
    assert Counter(re.findall(r"^made (\w+)", said, re.MULTILINE)) == dict.fromkeys(
        ("adapt", "train", "evaluate", "report"), 1
    )
