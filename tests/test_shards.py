"""A source in shards: the bytes of one run, whoever converts them and whatever dies meanwhile."""

import os
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from helpers_converters import photo, voc_object, voc_xml, write_voc
from helpers_flow import tiny_recipe

from converters.errors import DatasetError
from flows.chain import Plainly, chain
from flows.config import load_config
from tasks.store import Product

LISTS = {"train": "train", "val": "val"}
SHARES = {"train": 0.5, "val": 0.5}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures: a class that occurs in one shard alone, repairs, drops and two bad files."""
    root = tmp_path_factory.mktemp("source")
    for number in range(12):
        name, rare = f"{number:02d}", ("aardvark",) if number == 11 else ()
        objects = [voc_object(label, (5, 5, 20 + number, 30)) for label in ("cat", "dog", *rare)]
        objects += [voc_object("cat", (60, 40, 20, 70)), voc_object("dog", (300, 300, 400, 400))]
        write_voc(root / "Annotations", name, voc_xml(*objects, filename=f"{name}.png"))
        photo(root / "JPEGImages" / f"{name}.png")
    for name in ("02", "07"):
        write_voc(root / "Annotations", name, "<annotation><object>")
    sets = root / "ImageSets/Main"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("".join(f"{number:02d}\n" for number in range(0, 12, 2)))
    (sets / "val.txt").write_text("".join(f"{number:02d}\n" for number in range(1, 12, 2)))
    return root


def recipe(folder: Path, source: Path, splits: dict[str, Any], **convert: Any) -> Path:
    given = {"format": "voc", "root": str(source), "splits": splits, "skip_bad": True}
    folder.mkdir(exist_ok=True)
    return tiny_recipe(folder, source, source=given, convert=convert)


def converted(path: Path) -> Product:
    """What the plain chain makes of a recipe's source."""
    config, _ = load_config(path)
    results = chain(config, Plainly(config.workspace))
    return dict([next(results), next(results)])["convert"]


@pytest.fixture(scope="module")
def at_once(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Product:
    return converted(recipe(tmp_path_factory.mktemp("at-once"), source, LISTS))


@pytest.mark.parametrize("splits", [LISTS, SHARES], ids=["lists", "shares"])
@pytest.mark.parametrize("count", [2, 5, 20])
def test_shards_make_the_product_of_one_run(source: Path, tmp_path: Path, splits: dict[str, Any], count: int) -> None:
    whole = converted(recipe(tmp_path / "whole", source, splits))
    parts = converted(recipe(tmp_path / "parts", source, splits, shards=count))

    assert parts.path.name == whole.path.name
    for name in ("train.json", "val.json", "about.json", "summary.md"):
        assert (parts.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert parts.digest == whole.digest


def test_only_a_lost_shard_is_made_again(source: Path, tmp_path: Path, at_once: Product) -> None:
    path = recipe(tmp_path, source, LISTS, shards=4)
    first = converted(path)
    shards = sorted((tmp_path / "workspace/store").glob("convert_shard-*"))
    made = {shard: (shard / "summary.md").stat().st_mtime_ns for shard in shards}
    shutil.rmtree(shards[1])
    shutil.rmtree(first.path)

    assert converted(path).digest == at_once.digest
    again = {shard for shard in shards if (shard / "summary.md").stat().st_mtime_ns != made[shard]}
    assert again == {shards[1]}


def test_a_format_without_files_to_divide_says_so(tmp_path: Path) -> None:
    path = tiny_recipe(tmp_path, tmp_path, source={"format": "coco", "root": str(tmp_path)}, convert={"shards": 2})

    with pytest.raises(DatasetError, match="coco cannot be read in shards"):
        converted(path)


@pytest.mark.parametrize("count", [1, 2])
def test_files_whose_names_are_not_utf8_are_told_of(source: Path, tmp_path: Path, count: int) -> None:
    shutil.copytree(source, tmp_path / "data")
    folder = os.fsencode(tmp_path / "data/Annotations")
    try:
        Path(os.fsdecode(folder + b"/bad\xff.xml")).write_text("<annotation>")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    made = converted(recipe(tmp_path / "run", tmp_path / "data", SHARES, shards=count))

    bad = orjson.loads((made.path / "about.json").read_bytes())["bad_files"]
    assert any(r"bad\udcff.xml" in error for error in bad)
