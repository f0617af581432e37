"""Several datasets in one split: the years of a devkit, folders, and formats that meet in COCO."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from helpers_converters import photo, voc_object, voc_xml, write_voc
from helpers_flow import tiny_recipe
from helpers_labelme import shape
from helpers_labelme import write as write_labelme

from converters import write_coco
from converters.errors import DatasetError
from converters.formats import convert, join_shards
from flows.chain import Plainly, chain
from flows.config import load_config

YEARS: dict[str, Any] = {"train": ["VOC2007/trainval", "VOC2012/trainval"], "val": "VOC2007/test"}


@pytest.fixture
def devkits(tmp_path: Path) -> Path:
    """Two years with pictures of the same names, as VOC's own have, and a class that only one of them knows."""
    for year, label in (("VOC2007", "cat"), ("VOC2012", "dog")):
        folder = tmp_path / "VOCdevkit" / year
        sets = folder / "ImageSets/Main"
        sets.mkdir(parents=True)
        for number in range(6):
            box = voc_object(label, (5, 5, 20 + number, 30))
            write_voc(folder / "Annotations", f"{number:06}", voc_xml(box, filename=f"{number:06}.jpg"))
            photo(folder / f"JPEGImages/{number:06}.jpg")
        (sets / "trainval.txt").write_text("".join(f"{number:06}\n" for number in range(4)))
        (sets / "test.txt").write_text("000004\n000005\n")
    return tmp_path / "VOCdevkit"


def files(coco: dict[str, Any]) -> list[str]:
    return [image["file_name"] for image in coco["images"]]


def test_the_years_of_a_devkit_are_learned_together(devkits: Path) -> None:
    result = convert("voc", devkits, YEARS)

    assert files(result.splits["train"]) == [
        f"{year}/JPEGImages/{number:06}.jpg" for year in ("VOC2007", "VOC2012") for number in range(4)
    ]
    assert files(result.splits["val"]) == [f"VOC2007/JPEGImages/{number:06}.jpg" for number in (4, 5)]
    assert [category["name"] for category in result.splits["val"]["categories"]] == ["cat", "dog"]
    assert [row["bbox"][2] for row in result.splits["train"]["annotations"]] == [15, 16, 17, 18] * 2
    lists = {name: [f"{year}/ImageSets/Main/trainval.txt" for year in ("VOC2007", "VOC2012")] for name in ("train",)}
    assert convert("voc", devkits, lists).splits["train"]["images"] == result.splits["train"]["images"]


def test_in_shards_and_in_a_recipe_it_is_the_same(devkits: Path, tmp_path: Path) -> None:
    whole = convert("voc", devkits, YEARS).splits
    shards = [convert("voc", devkits, YEARS, shard=(number, 3)).splits for number in range(3)]
    assert orjson.dumps(join_shards("voc", devkits, shards, YEARS).splits) == orjson.dumps(whole)

    recipe = tiny_recipe(tmp_path, devkits, source={"format": "voc", "root": str(devkits), "splits": YEARS})
    for parts in (1, 2):
        config, _ = load_config(recipe, [f"convert.shards={parts}", f"workspace={tmp_path}/{parts}"])
        results = chain(config, Plainly(config.workspace))
        converted = dict([next(results), next(results)])["convert"]
        for split, coco in whole.items():
            write_coco(coco, tmp_path / "expected.json")
            assert (converted.path / f"{split}.json").read_bytes() == (tmp_path / "expected.json").read_bytes()


def test_on_the_command_line_a_name_may_come_again(devkits: Path) -> None:
    words = ["--split", "train=VOC2007/trainval", "--split", "train=VOC2012/trainval", "--split", "val=VOC2007/test"]
    command = [sys.executable, "-m", "converters.cli", "voc", str(devkits), "-o", str(devkits / "{split}.json"), *words]
    subprocess.run(command, check=True, capture_output=True)

    read = {name: orjson.loads((devkits / f"{name}.json").read_bytes()) for name in YEARS}
    assert {name: files(coco) for name, coco in read.items()} == {
        name: files(coco) for name, coco in convert("voc", devkits, YEARS).splits.items()
    }


def test_formats_meet_in_coco(devkits: Path, tmp_path: Path) -> None:
    drawings = tmp_path / "drawings"
    drawings.mkdir()
    write_labelme(drawings, shape("mouse", [[5, 5], [20, 20]], "rectangle"), image=True)
    for format_, folder in (("voc", devkits), ("labelme", drawings)):
        write_coco(convert(format_, folder).splits["all"], folder / "train.json")

    both = {"train": ["VOCdevkit/train.json", "drawings/train.json"]}
    train = convert("coco", tmp_path, both).splits["train"]

    assert [category["name"] for category in train["categories"]] == ["cat", "dog", "mouse"]
    assert len(train["images"]) == 13
    assert all((tmp_path / name).is_file() for name in files(train))


def test_the_classes_may_stand_in_a_file_beside_the_recipe(devkits: Path, tmp_path: Path) -> None:
    """PaddleDetection's label_list.txt: the order is that of the lines, and it is their content that counts."""
    (tmp_path / "label_list.txt").write_text("dog\ntraffic light\ncat\n")
    source = {"format": "voc", "root": str(devkits), "splits": YEARS, "categories": "label_list.txt"}
    recipe = tiny_recipe(tmp_path, devkits, source=source)

    config, _ = load_config(recipe)
    (tmp_path / "label_list.txt").write_text("dog\n")

    assert config.source.categories == ["dog", "traffic light", "cat"]
    assert load_config(recipe)[0].source.binding() != config.source.binding()
    results = chain(config, Plainly(config.workspace))
    converted = dict([next(results), next(results)])["convert"]
    names = [row["name"] for row in orjson.loads((converted.path / "val.json").read_bytes())["categories"]]
    assert names == ["dog", "traffic light", "cat"]


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        ({"train": ["VOC2007/trainval", "VOC2007/trainval"]}, "000000.jpg"),
        ({"train": ["VOC2007/trainval", "VOC2010/trainval"]}, "VOC2007/test, VOC2007/trainval, VOC2012/test"),
        ({"train": []}, "no images in split 'train'"),
        ({"train": ["VOC2007/trainval"], "val": 0.5}, "mix shares with selectors"),
    ],
)
def test_what_cannot_be_joined_is_named(devkits: Path, splits: dict[str, Any], told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        convert("voc", devkits, splits)


def test_a_listed_file_that_is_not_there_is_named_with_its_year(devkits: Path) -> None:
    (devkits / "VOC2012/ImageSets/Main/trainval.txt").write_text("000000\n000099\n")

    with pytest.raises(ValueError, match=r"VOC2012/Annotations/000099\.xml: listed, but not in"):
        convert("voc", devkits, YEARS)
