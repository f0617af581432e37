"""A classifier as champion: judged by its accuracy, labelling pictures as a list, competing with classifiers alone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from test_flow_classifier import draw_folders, recipe, until

from converters.imagelist import read_imagelist
from flows.config import FinetuneConfig, load_config
from flows.prelabel import LIST, classify
from flows.promotion import PromotionRules
from flows.registry import Entry, Registry, RegistryError, Version
from flows.retrain import champion_for, retrain
from flows.runs import list_runs
from tasks.evaluate import metrics_text


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    folder = tmp_path_factory.mktemp("classifier")
    draw_folders(folder / "pictures", ("bright", "dark as night"))
    return load_config(recipe(folder))[0]


@pytest.fixture(scope="module")
def model(config: FinetuneConfig) -> Path:
    return Path(until(config, "adapt").path / "init.pt")


def test_its_answers_are_lines_of_a_list_the_least_certain_first(
    config: FinetuneConfig, model: Path, tmp_path: Path
) -> None:
    first = classify(model, config.source.root, tmp_path, 3)
    rows = list(csv.DictReader(first.order.read_text().splitlines()))
    assert (first.written, first.skipped, list(rows[0])) == (3, 0, ["picture", "uncertainty", "answer"])

    lines = (tmp_path / LIST).read_text().splitlines()
    corrected = [line.replace("dark as night", "bright") for line in lines]
    (tmp_path / LIST).write_text("\n".join(corrected))  # by hand, without a last newline
    rest = classify(model, config.source.root, tmp_path, 0)

    assert (rest.written, rest.skipped) == (21, 3)
    assert (tmp_path / LIST).read_text().splitlines()[:3] == corrected
    records = list(read_imagelist(tmp_path / LIST, images=config.source.root))
    assert {i.category for record in records for i in record.instances} <= {"bright", "dark as night"}
    assert len(records) == 24
    every = classify(model, config.source.root, tmp_path / "all", 0)
    doubts = [float(row["uncertainty"]) for row in csv.DictReader(every.order.read_text().splitlines())]
    assert doubts == sorted(doubts, reverse=True)
    assert [row["picture"] for row in rows] == [line.split("\t")[0] for line in lines]


def test_it_does_not_compete_with_detectors(config: FinetuneConfig, tmp_path: Path) -> None:
    book = Registry(str(tmp_path / "registry"))
    (tmp_path / "model.pt").write_bytes(b"any")
    old = Version(detector="ssdlite320_mobilenet_v3_large", classes=("a",), scores={}, validation=(), data="")
    entry = Entry(event="promoted", champion="", data="", reasons=())
    assert champion_for(config, book) is None
    book.promote(tmp_path / "model.pt", old, entry, {})

    with pytest.raises(RegistryError, match=r"champion 0001 is ssdlite.* task is classification\. Give each task"):
        champion_for(config, book)


def test_what_could_not_be_measured_is_a_dash_and_each_crop_is_a_picture() -> None:
    row = {"name": "a", "recall": 0.5, "precision": -1.0, "truths": 4}
    metrics = {"accuracy": {"top1": 0.5, "top5": 1.0}, "images": 2, "objects": 4, "per_class": [row]}

    first, *_, row_of_a = metrics_text(metrics, None).splitlines()
    assert (first, row_of_a) == ("top1 0.500, top5 1.000, 4 pictures", "| a | 0.500 | - | 4 |")


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_from_the_first_model_to_the_next_champion(tmp_path: Path) -> None:
    draw_folders(tmp_path / "pictures")
    book = Registry(str(tmp_path / "registry"))
    poor = load_config(recipe(tmp_path), ["train.learning_rate=0.0000001", "train.epochs=1"])[0]
    better = load_config(recipe(tmp_path), ["train.epochs=4"])[0]

    first = retrain(poor, book.url, return_state=True)
    second = retrain(better, book.url, PromotionRules(tolerance=1.0), return_state=True)

    assert (first.name, second.name) == ("Promoted", "Promoted")
    assert second.message.startswith("mean accuracy of the classes ")
    assert second.result().challenger_score > second.result().champion_score
    assert list_runs(better.workspace) == []
