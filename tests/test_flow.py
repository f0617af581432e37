"""The promises of the flow, on a real Prefect server with real child processes."""

import asyncio
import base64
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest
from helpers_flow import tiny_recipe, tiny_scenes
from prefect.client.orchestration import get_client
from prefect.logging.handlers import APILogHandler

from flows.config import load_config
from flows.finetune import Outcome, finetune
from tasks.training_page import KEY

pytestmark = pytest.mark.usefixtures("prefect_server")

ALL = {"convert", "check", "adapt", "train", "evaluate", "report"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    tiny_recipe(folder, tiny_scenes(folder / "data"))
    return folder


@pytest.fixture(scope="module")
def first(place: Path, prefect_server: str) -> Outcome:
    return run(place)


def run(place: Path, *overrides: str) -> Outcome:
    config, _ = load_config(place / "tiny.yaml", overrides)
    return finetune(config)


def test_the_chain_ends_with_a_checkpoint_metrics_and_a_page(first: Outcome) -> None:
    assert first.reused == ()
    assert set(first.products) == ALL
    assert first.checkpoint.is_file()
    assert 0 <= first.metrics["AP"] <= 1
    page = first.report.read_text()
    assert page.lower().startswith("<!doctype html>")
    assert all(name in page for name in ("balloon", "fish", "mushroom", "rocket"))


def test_training_is_seen_on_prefects_pages(first: Outcome) -> None:
    asyncio.run(APILogHandler.aflush())
    with get_client(sync_client=True) as client:
        (page,) = [found for found in client.read_artifacts() if found.key == KEY]
        told = [log.message for log in client.read_logs(limit=200)]

    assert (page.type, page.data) == ("progress", 100.0)
    assert page.description
    assert "| step | bbox/AP | bbox/AP50 | |" in page.description
    pictures = re.findall(r"data:image/svg\+xml;base64,([^)]+)", page.description)
    drawn = [ElementTree.fromstring(base64.b64decode(picture)) for picture in pictures]
    assert {"Training loss", "Validation while training, in points"} <= {one.findtext("{*}text") for one in drawn}
    assert any(line.startswith("step 3/3 epoch 1.0 loss ") for line in told)
    assert any(line.startswith("step 3: bbox/AP ") for line in told)


def test_a_second_identical_run_reuses_every_stage(place: Path, first: Outcome) -> None:
    again = run(place)

    assert set(again.reused) == ALL
    assert again.products == first.products


def test_only_what_follows_the_learning_rate_runs_again(place: Path, first: Outcome) -> None:
    other = run(place, "train.learning_rate=0.02")

    assert set(other.reused) == {"convert", "check", "adapt"}
    assert other.products["train"].path != first.products["train"].path


@pytest.mark.parametrize("stage", ["convert", "check", "adapt", "evaluate"])
def test_a_deleted_product_and_nothing_else_is_made_again(place: Path, first: Outcome, stage: str) -> None:
    shutil.rmtree(first.products[stage].path)

    again = run(place)

    assert set(again.reused) == ALL - {stage}
    assert again.products[stage].digest == first.products[stage].digest


def test_moved_data_and_a_moved_workspace_are_found_whole(place: Path, first: Outcome, tmp_path: Path) -> None:
    shutil.copytree(place / "workspace", tmp_path / "elsewhere")
    shutil.copytree(place / "data", tmp_path / "data")

    moved = run(place, f"workspace={tmp_path / 'elsewhere'}", f"source.root={tmp_path / 'data'}")

    made = {name: (product.path / "manifest.json").stat().st_mtime_ns for name, product in first.products.items()}
    assert {name: (p.path / "manifest.json").stat().st_mtime_ns for name, p in moved.products.items()} == made
    assert {name: p.digest for name, p in moved.products.items()} == {
        name: p.digest for name, p in first.products.items()
    }


def test_an_edited_annotation_is_noticed(first: Outcome, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "data", tmp_path / "data")
    xml = next(
        path for path in sorted((tmp_path / "data/Annotations").glob("*.xml")) if b"<object>" in path.read_bytes()
    )
    xml.write_text(xml.read_text().replace("<name>", "<name>small ", 1))
    overrides = (f"source.root={tmp_path / 'data'}", f"workspace={tmp_path / 'workspace'}")
    shutil.copytree(place / "workspace", tmp_path / "workspace")

    config, _ = load_config(place / "tiny.yaml", overrides)
    outcome = finetune(config)

    assert not set(outcome.reused) & {"convert", "check", "adapt", "train"}
    assert "small" in (outcome.products["check"].path / "classes.json").read_text()


def test_the_weights_of_a_run_are_the_start_of_the_next(place: Path, first: Outcome) -> None:
    tuned = run(place, f"weights.source={first.checkpoint}", "name=tuned")

    plan = orjson.loads((tuned.products["adapt"].path / "plan.json").read_bytes())
    assert plan["coverage"]["tensors"] == 1.0
    assert tuned.reused == ("convert", "check")
