"""Retraining with a champion, on a real Prefect server with real training of tiny scenes."""

import shutil
from pathlib import Path

import orjson
import pytest
from helpers_flow import tiny_recipe, tiny_scenes

from converters.coco import write_coco
from converters.errors import DatasetError
from flows.config import FinetuneConfig, load_config
from flows.promotion import PromotionRules
from flows.registry import Registry
from flows.retrain import Verdict, new_problems, retrain
from tasks.holdout import holdout, validation_names
from tasks.store import Product, make_product

NEVER = PromotionRules(margin=1.0)
POOR = "train.learning_rate=0.0000001"  # learns nothing, so that the next one is better
ANY_GAIN = PromotionRules(tolerance=1.0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retrain")
    tiny_recipe(folder, tiny_scenes(folder / "data"))
    return folder


def config(place: Path, *overrides: str) -> FinetuneConfig:
    return load_config(place / "tiny.yaml", overrides)[0]


def run(place: Path, rules: PromotionRules, *overrides: str) -> tuple[str, Verdict]:
    state = retrain(config(place, *overrides), str(place / "registry"), rules, return_state=True)
    return state.name, state.result()


def bring_new_data(place: Path) -> None:
    """A class more in both splits, and a training image that the source now counts to its validation split."""
    for number, xml in enumerate(sorted((place / "data/Annotations").glob("*.xml"))):
        if number % 2:
            xml.write_text(xml.read_text().replace("<name>fish", "<name>flying fish"))
    lists = place / "data/ImageSets/Main"
    first, *rest = (lists / "train.txt").read_text().split()
    (lists / "train.txt").write_text("\n".join(rest) + "\n")
    (lists / "val.txt").write_text((lists / "val.txt").read_text() + f"{first}\n")


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_promoted_unchanged_kept_and_promoted_again(place: Path) -> None:
    name, first = run(place, NEVER, POOR)
    assert (name, first.outcome, first.champion) == ("Promoted", "promoted", "0001")
    book = Registry(str(place / "registry"))
    champion = book.champion()
    assert champion is not None
    assert champion.classes == ("balloon", "fish", "mushroom", "rocket")

    name, same = run(place, NEVER, POOR, "name=another-name")
    assert (name, same.champion) == ("Unchanged", "0001")
    assert "nothing new since" in same.reasons[0]
    assert len(book.history()) == 1

    bring_new_data(place)
    more = "train.epochs=4"
    name, kept = run(place, NEVER, more)
    assert (name, kept.champion) == ("Kept", "0001")
    assert "not better by the margin" in kept.reasons[0]
    assert run(place, NEVER, more)[0] == "Unchanged"  # not tried again every night

    name, better = run(place, ANY_GAIN, more)
    assert (name, better.champion) == ("Promoted", "0002")
    assert better.challenger_score is not None
    assert better.challenger_score > (better.champion_score or 0)
    now = book.champion()
    assert now is not None
    assert now.classes == ("balloon", "fish", "flying fish", "mushroom", "rocket")
    assert now.validation == champion.validation  # frozen: the image that moved waits

    plans = [orjson.loads(path.read_bytes()) for path in (place / "workspace/store").glob("adapt-*/plan.json")]
    (plan,) = plans  # the first run had no weights
    assert plan["classes"]["shared"] == ["balloon", "fish", "mushroom", "rocket"]
    assert book.rollback().number == "0001"
    assert run(place, ANY_GAIN, more)[0] == "Unchanged"  # what was rolled back does not come back by itself


def test_what_the_check_finds_more_often_than_last_time_is_named() -> None:
    assert new_problems({"a": 1, "b": 2, "d": 1}, {"a": 3, "b": 2, "c": 1, "d": 0}) == ("2 more of a", "1 more of c")


def test_the_frozen_split_keeps_its_images_and_takes_corrections(tmp_path: Path) -> None:
    checked = checked_set(tmp_path, train=("a", "b", "c"), val=("d", "e"))

    split = holdout(tmp_path, checked, ("b.jpg", "d.jpg"), ("fish",))

    assert validation_names(split) == ("b.jpg", "d.jpg")
    files = {name: orjson.loads((split.path / f"{name}.json").read_bytes()) for name in ("train", "val", "known")}
    assert [image["file_name"] for image in files["train"]["images"]] == ["a.jpg", "c.jpg"]
    names = {image["id"]: image["file_name"] for image in files["val"]["images"]}
    assert [(names[row["image_id"]], row["bbox"][0]) for row in files["val"]["annotations"]] == [
        ("b.jpg", 1), ("b.jpg", 1), ("d.jpg", 0), ("d.jpg", 0)
    ]  # fmt: skip
    assert [row["id"] for row in files["val"]["annotations"]] == [1, 2, 3, 4]
    assert [category["name"] for category in files["known"]["categories"]] == ["fish"]
    assert len(files["known"]["annotations"]) == 2
    assert "1 new ones wait" in (split.path / "summary.md").read_text()


def test_without_a_frozen_split_the_source_decides(tmp_path: Path) -> None:
    checked = checked_set(tmp_path, train=("a", "b"), val=("d",))

    assert validation_names(holdout(tmp_path, checked, (), ())) == ("d.jpg",)


def test_a_frozen_image_that_is_gone_is_an_error(tmp_path: Path) -> None:
    checked = checked_set(tmp_path, train=("a",), val=("d",))

    with pytest.raises(DatasetError, match=r"1 of 2 images of the frozen validation split are gone.*x\.jpg"):
        holdout(tmp_path, checked, ("d.jpg", "x.jpg"), ())


def checked_set(tmp_path: Path, **splits: tuple[str, ...]) -> Product:
    """A product like the check's; each image has a box of either class, at x = its place in its split."""

    def fill(folder: Path) -> None:
        for split, names in splits.items():
            images = [{"id": i, "file_name": f"{name}.jpg", "width": 9, "height": 9} for i, name in enumerate(names, 1)]
            rows = [
                {"id": 2 * i + c, "image_id": i, "category_id": c, "bbox": [i - 1, 0, 1, 1], "area": 1, "iscrowd": 0}
                for i in range(1, len(names) + 1)
                for c in (1, 2)
            ]
            categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "fish"}]
            write_coco({"images": images, "annotations": rows, "categories": categories}, folder / f"{split}.json")
        (folder / "summary.md").write_text("x\n")

    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    return make_product(tmp_path, "check", "0" * 64, fill)
