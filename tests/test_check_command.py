from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer
from helpers_check import Coco, dataset
from helpers_seeds import SEEDS
from typer.testing import CliRunner

from converters.check import find_problems, repair_policy, write_page
from converters.check.command import check, split_names, to_bytes
from converters.check.page import render_page
from converters.errors import DatasetError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(check)


def written(folder: Path, *rules: str) -> tuple[dict[str, Coco], list[str]]:
    """The broken dataset on disk, and the arguments that name it."""
    splits = dataset(folder / "photos")
    for rule in rules:
        SEEDS[rule].breaks(splits, folder / "photos")
    for name, coco in splits.items():
        (folder / f"{name}.json").write_bytes(orjson.dumps(coco))
    return splits, [str(folder / f"{name}.json") for name in splits] + ["--images", str(folder / "photos")]


def run(*arguments: Any, code: int) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def test_exit_codes(tmp_path: Path) -> None:
    _, clean = written(tmp_path / "clean")
    _, warned = written(tmp_path / "warned", "bbox-outside")
    _, broken = written(tmp_path / "broken", "bbox-invalid")

    assert "9 images, 45 annotations: 0 errors, 0 warnings, 0 info" in run(*clean, code=0)
    run(*clean, "--strict", code=0)
    assert "bbox-outside" in run(*warned, code=0)
    run(*warned, "--strict", code=1)
    run(*warned, "--strict", "--policy", "bbox-outside=off", "--policy", "segm-outside=off", code=0)
    assert "bbox-invalid" in run(*broken, code=2)
    run(*broken, "--policy", "bbox-invalid=warn", code=0)


def test_fix_writes_a_repaired_copy_and_its_log_and_never_the_source(tmp_path: Path) -> None:
    _, arguments = written(tmp_path, "bbox-outside", "area-missing")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    first = run(*arguments, "--fix", tmp_path / "fixed", code=0)

    assert {path: path.read_bytes() for path in before} == before
    assert sorted(p.name for p in (tmp_path / "fixed").iterdir()) == [
        "train.changes.json",
        "train.json",
        "val.changes.json",
        "val.json",
    ]
    changes = json.loads((tmp_path / "fixed" / "train.changes.json").read_text())
    assert [change["rule"] for change in changes] == ["bbox-outside", "segm-outside", "area-missing"]
    assert "3 repaired" in first
    again = run(
        *[tmp_path / "fixed" / f"{n}.json" for n in ("train", "val")], *arguments[2:], "--fix", tmp_path / "2", code=0
    )
    assert re.search(r"\d repaired", again) is None
    assert (tmp_path / "2" / "train.json").read_bytes() == (tmp_path / "fixed" / "train.json").read_bytes()


def test_fix_refuses_to_overwrite_its_source_and_to_drop_too_much(tmp_path: Path) -> None:
    _, arguments = written(tmp_path, "drop-budget")
    source = (tmp_path / "train.json").read_bytes()

    with pytest.raises(DatasetError, match="the source stays as it is"):
        CliRunner().invoke(app, [arguments[0], "--fix", arguments[0]], catch_exceptions=False)
    run(*arguments, "--fix", tmp_path / "fixed", code=2)

    assert not (tmp_path / "fixed").exists()
    assert (tmp_path / "train.json").read_bytes() == source
    run(*arguments, "--fix", tmp_path / "fixed", "--max-drop", "0.2", code=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "bbox-tiny"], "write RULE=POLICY"),
        (["--policy", "bbox-tiny=fix"], "this rule takes"),
        (["--images", "nowhere"], "there is no such folder"),
        (["--images", ".", "--images", "."], "once, or once for each"),
    ],
)
def test_what_the_user_gets_wrong_is_one_message(arguments: list[str], message: str, tmp_path: Path) -> None:
    written(tmp_path)

    with pytest.raises(DatasetError, match=message):
        CliRunner().invoke(app, [str(tmp_path / "train.json"), *arguments], catch_exceptions=False)


def test_a_file_that_is_not_there_is_a_finding(tmp_path: Path) -> None:
    assert "cannot read the file: No such file" in run(tmp_path / "none.json", code=2)


def test_splits_are_named_by_file_or_by_folder(tmp_path: Path) -> None:
    def names(*paths: str) -> list[str]:
        return list(split_names([tmp_path / path for path in paths]))

    assert names("a/train.json", "a/val.json") == ["train", "val"]
    assert names("train/_x.json", "valid/_x.json") == ["train", "valid"]
    assert names("a/train.json", "a/val.json", "b/train.json") == ["a-train", "a-val", "b-train"]
    with pytest.raises(DatasetError, match="the same file twice"):
        names("a/train.json", "a/train.json")


def test_the_json_report_is_the_same_on_every_run_and_names_no_place(tmp_path: Path) -> None:
    for at, seed in enumerate("12"):
        _, arguments = written(tmp_path / seed, "leak-near", "bbox-outside", "orphan-category", "image-unlisted")
        photos = tmp_path / seed / "photos"
        for twin, of in ((2, 0), (3, 0), (4, 1), (5, 1)):
            shutil.copy(photos / f"train_{of}.jpg", photos / f"train_{twin}.jpg")
        command = (
            "import typer; from converters.check.command import check; app = typer.Typer(); app.command()(check); app()"
        )
        options = ["--json", str(tmp_path / f"{at}.json"), "--html", str(tmp_path / f"{at}.html"), "--pixels"]
        done = subprocess.run(
            [sys.executable, "-c", command, *arguments, *options, "--jobs", seed],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr

    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    assert (tmp_path / "0.html").read_bytes() == (tmp_path / "1.html").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "0.json").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "0.html").read_bytes()
    found = json.loads((tmp_path / "0.json").read_bytes())
    assert found["rules"]["leak-near"] == {
        "severity": "warning",
        "count": 3,
        "repaired": 0,
        "what": "nearly the same picture is in two splits",
        "remedy": "keep frames of one scene in one split",
    }
    assert found["problems"][0]["file"] == "train_0.jpg"


def test_anything_can_be_written_as_json() -> None:
    odd = {"a": [10**30, float("nan"), "\ud800", b"\xff", {1: (1.5, None)}]}

    assert json.loads(to_bytes(odd)) == {"a": [10**30, None, "\ud800", "ÿ", {"1": [1.5, None]}]}


# -- the page -----------------------------------------------------------------------------------------------------


def test_the_page_shows_pictures_and_needs_no_network(tmp_path: Path) -> None:
    splits, _ = written(tmp_path, "bbox-outside", "leak-near", "annotation-id-nonpositive")
    report = find_problems(splits, tmp_path / "photos", depth="pixels")

    write_page(report, tmp_path / "page.html", tmp_path / "photos")

    page = (tmp_path / "page.html").read_text()
    assert re.findall(r"""(?:src|href)=["'](?!data:image/jpeg;base64,)""", page) == []
    assert "http:" not in page
    assert "https:" not in page
    assert "<script" not in page
    assert page.count("<figure") >= 4
    assert page.count('class="pair"') == 1
    assert "errors to settle before training" in page or "error to settle before training" in page
    assert list(tmp_path.glob(".*")) == []


def test_what_the_dataset_says_is_text_and_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}"
    splits, _ = written(tmp_path, "bbox-outside")
    for coco in splits.values():
        coco["categories"][0]["name"] = evil
    splits[evil] = splits.pop("val")
    splits["train"]["images"][0]["file_name"] = evil
    splits["train"]["annotations"][1]["area"] = evil
    splits["train"][evil] = evil

    page = render_page(find_problems(splits, tmp_path / "photos"), tmp_path / "photos", title=evil)

    assert "<script" not in page
    assert "<img" not in page
    assert "{{ 7*7 }}" in page
    assert "&lt;script&gt;" in page


def test_a_page_of_nothing_and_of_garbage(tmp_path: Path) -> None:
    assert "Nothing stands in the way" in render_page(find_problems({}))
    garbage = {
        "images": [{"id": 1, "file_name": "\ud800", "width": 1e9, "height": -1}],
        "annotations": [{"bbox": [1e308] * 4}],
    }
    report = find_problems({"train": garbage}, tmp_path, policy=repair_policy(), max_drop=1)
    write_page(report, tmp_path / "page.html", tmp_path)
    assert (tmp_path / "page.html").stat().st_size > 5000


def test_no_picture_comes_from_outside_the_image_folder(tmp_path: Path) -> None:
    splits, _ = written(tmp_path)
    (tmp_path / "photos" / "train_0.jpg").rename(tmp_path / "secret.jpg")
    splits["train"]["images"][0]["file_name"] = "../secret.jpg"
    splits["train"]["annotations"][0]["area"] = 5000

    report = find_problems(splits, tmp_path / "photos")

    assert {"file-name-unsafe", "area-wrong"} <= set(report.counts)
    assert "<figure" not in render_page(report, tmp_path / "photos")


def test_a_page_replaces_another_as_a_whole(tmp_path: Path) -> None:
    write_page(find_problems({}), tmp_path / "page.html", title="first")
    (tmp_path / "kept.html").hardlink_to(tmp_path / "page.html")

    write_page(find_problems({}), tmp_path / "page.html", title="second")

    assert "<h1>first</h1>" in (tmp_path / "kept.html").read_text()
    assert "<h1>second</h1>" in (tmp_path / "page.html").read_text()
