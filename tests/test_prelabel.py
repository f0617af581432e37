"""Prelabelling: which pictures a person should look at first, and that nobody's corrections are lost."""

import csv
import shutil
from itertools import islice
from pathlib import Path

import orjson
import pytest
from helpers_flow import tiny_recipe, tiny_scenes

from flows.chain import Plainly, chain
from flows.config import FinetuneConfig, load_config
from flows.prelabel import label, prelabel, uncertainty
from flows.registry import RegistryError
from models.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures and a checkpoint that finds something everywhere, more surely than not."""
    folder = tmp_path_factory.mktemp("prelabel")
    config, _ = load_config(tiny_recipe(folder, tiny_scenes(folder / "data")))
    for name, result in chain(config, Plainly(config.workspace)):
        if name == "adapt":
            content, meta = load_checkpoint(result.path / "init.pt")
            break
    state = {key: value.clone() for key, value in content["model"].items()}
    for key, value in state.items():
        if "classification_head" in key and key.endswith("bias") and value.ndim == 1 and len(value) % 5 == 0:
            value.view(-1, 5)[:, 1] = 2.0  # of background and four classes, the first class
    save_checkpoint(folder / "model.pt", state, meta)
    (folder / "new/day").mkdir(parents=True)
    for number, picture in enumerate(sorted((folder / "data/JPEGImages").glob("val*"))[:3]):
        shutil.copy(picture, folder / "new/day" / f"{number}.jpg")
    return folder


def test_uncertainty_is_that_of_the_finding_nearest_to_a_coins_toss() -> None:
    assert uncertainty([]) == 0
    assert uncertainty([0.5, 0.9]) == 1
    assert uncertainty([0.9]) == pytest.approx(0.2)
    assert uncertainty([0.1, 0.95]) == pytest.approx(0.2)


def test_every_picture_gets_a_file_and_a_place_in_the_order(place: Path, tmp_path: Path) -> None:
    done = label(place / "model.pt", place / "new", tmp_path, 0.3, 0)

    assert (done.written, done.skipped) == (3, 0)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json"))
    assert files == ["day/0.json", "day/1.json", "day/2.json"]
    shapes = orjson.loads((tmp_path / "day/0.json").read_bytes())["shapes"]
    assert {shape["label"] for shape in shapes} == {"balloon"}
    rows = list(csv.DictReader(done.order.read_text().splitlines()))
    assert [float(row["uncertainty"]) for row in rows] == sorted((float(r["uncertainty"]) for r in rows), reverse=True)
    assert {int(row["findings"]) for row in rows} != {0}


def test_a_file_that_is_there_is_never_overwritten(place: Path, tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    (tmp_path / "day/1.json").write_text("corrected")

    done = label(place / "model.pt", place / "new", tmp_path, 0.3, 0)

    assert (done.written, done.skipped) == (2, 1)
    assert (tmp_path / "day/1.json").read_text() == "corrected"


def test_a_limit_takes_the_least_certain(place: Path, tmp_path: Path) -> None:
    every = label(place / "model.pt", place / "new", tmp_path / "all", 0.3, 0)
    few = label(place / "model.pt", place / "new", tmp_path / "few", 0.3, 1)

    first = next(csv.DictReader(every.order.read_text().splitlines()))
    assert [row["picture"] for row in csv.DictReader(few.order.read_text().splitlines())] == [first["picture"]]
    assert [path.name for path in (tmp_path / "few").rglob("*.json")] == [Path(first["picture"]).stem + ".json"]


@pytest.mark.usefixtures("prefect_server")
def test_without_a_champion_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no champion yet"):
        prelabel(str(tmp_path / "registry"), tmp_path, tmp_path)


def test_what_a_person_corrected_comes_back_in_as_a_source(place: Path, tmp_path: Path) -> None:
    root = shutil.copytree(place / "new", tmp_path / "new")
    label(place / "model.pt", root, root, 0.3, 0)  # beside the pictures
    source = {"format": "labelme", "root": root, "splits": {"train": 0.5, "val": 0.5}}
    config = FinetuneConfig.model_validate({"workspace": tmp_path / "workspace", "source": source})

    def dataset() -> tuple[object, set[str]]:
        (_, seen), (_, converted) = islice(chain(config, Plainly(config.workspace)), 2)
        about = orjson.loads((converted.path / "about.json").read_bytes())
        assert sum(split["images"] for split in about["splits"].values()) == 3
        return seen, {name for split in about["splits"].values() for name in split["classes"]}

    before, classes = dataset()
    assert classes == {"balloon"}
    corrected = root / "day/1.json"
    corrected.write_text(corrected.read_text().replace('"balloon"', '"kite"'))
    after, classes = dataset()

    assert after != before  # what retrain asks first
    assert classes == {"balloon", "kite"}
