"""Whole pictures with a class: folders, lists, and crops of a COCO file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from helpers_converters import photo, real

from converters import AnnotationError, ConversionLog, DatasetError, convert, crop_boxes, write_coco

PICTURES = {"cat/one.JPG": (40, 30), "cat/deep/two x.png": (20, 50), "dog/three.jpeg": (33, 33)}


def write_pictures(root: Path) -> Path:
    for name, size in PICTURES.items():
        photo(root / name, size)
    return root


def seen(coco: dict[str, Any]) -> dict[str, tuple[str, list[float]]]:
    """Class and box of each picture."""
    names = {category["id"]: category["name"] for category in coco["categories"]}
    files = {image["id"]: image["file_name"] for image in coco["images"]}
    return {files[a["image_id"]]: (names[a["category_id"]], a["bbox"]) for a in coco["annotations"]}


def test_the_three_sources_give_equal_datasets(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "set")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "all_list.txt").write_text("".join(f"{name} {int(name[0] == 'd')}\n" for name in PICTURES))
    (lists / "names.txt").write_text("0 cat\n1 dog\n")

    folders = convert("imagefolder", root).splits["all"]
    listed = convert("imagelist", lists, images=root, options={"label_map": "names.txt"}).splits["all"]
    write_coco(folders, root / "coco.json")
    cropped = crop_boxes(convert("coco", root / "coco.json").splits["all"], ConversionLog())

    assert orjson.dumps(folders) == orjson.dumps(listed) == orjson.dumps(cropped)
    assert seen(folders) == {name: (name[:3], [0, 0, *map(float, size)]) for name, size in sorted(PICTURES.items())}


def test_splits_are_folders_or_shares_and_have_the_same_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_pictures(tmp_path / split)
    photo(tmp_path / "val" / "emu" / "x.png")

    by_folder = convert("imagefolder", tmp_path, {"train": "train", "val": "val"})
    by_share = convert("imagefolder", tmp_path / "val", {"train": 0.5, "val": 0.5})

    assert list(seen(by_folder.splits["train"])) == [f"train/{name}" for name in sorted(PICTURES)]
    assert [len(coco["images"]) for coco in by_folder.splits.values()] == [3, 4]
    assert by_folder.splits["train"]["categories"] == by_folder.splits["val"]["categories"]
    assert sum(len(coco["images"]) for coco in by_share.splits.values()) == 4


def test_numbers_are_in_their_order_and_blanks_and_delimiters_in_paths_are_kept(tmp_path: Path) -> None:
    names = ["a b, c.jpg", *(f"{number}.jpg" for number in range(11))]
    for name in names:
        photo(tmp_path / "jpg" / name)
    lines = [f"jpg/{name} {number}" for number, name in enumerate(names)]
    (tmp_path / "train_list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).encode())

    coco = convert("imagelist", tmp_path, {"train": "train"}).splits["train"]

    assert [category["name"] for category in coco["categories"]] == [str(number) for number in range(12)]
    assert seen(coco)["jpg/a b, c.jpg"][0] == "0"
    for delimiter, text in {"": "jpg/a b, c.jpg\tbig cat\n", ",": "jpg/a b, c.jpg,big cat\n"}.items():
        (tmp_path / "train_list.txt").write_text(text)
        found = convert("imagelist", tmp_path / "train_list.txt", options={"delimiter": delimiter}).splits["all"]
        assert seen(found) == {"jpg/a b, c.jpg": ("big cat", [0, 0, 100, 80])}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("../../etc/passwd 0", "train_list.txt:2: '../../etc/passwd' leads out of"),
        ("/etc/passwd 0", "leads out of"),
        ("C:\\Windows\\a.jpg 0", "leads out of"),
        ("jpg/../../x.jpg 0", "leads out of"),
        ("jpg/missing.jpg 0", "missing.jpg: not a readable image"),
        ("jpg/empty.jpg 0", "empty.jpg: not a readable image"),
        ("jpg 0", "not a readable image"),
        ("jpg/ok.jpg", "'jpg/ok.jpg' is not a path and a label"),
        ("jpg/ok.jpg 7", "the label '7' is not in the label map"),
        ("jpg/ok.jpg 1", "'jpg/ok.jpg' is 'dog' here and 'cat' before"),
        ("a\0b.jpg 0", "leads out of"),
    ],
)
def test_hostile_lines_are_named_and_can_be_left_out(tmp_path: Path, line: str, says: str) -> None:
    photo(tmp_path / "jpg" / "ok.jpg")
    (tmp_path / "jpg" / "empty.jpg").touch()
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    (tmp_path / "train_list.txt").write_text(f"jpg/ok.jpg 0\n{line}\n")
    options = {"label_map": "names.txt"}

    with pytest.raises(AnnotationError) as caught:
        convert("imagelist", tmp_path, {"train": "train_list.txt"}, options=options)
    assert says.replace("'jpg/ok.jpg' is 'dog'", "jpg/ok.jpg is 'dog'") in str(caught.value)
    assert "train_list.txt:2" in str(caught.value)

    log = ConversionLog(skip_bad=True)
    kept = convert("imagelist", tmp_path, {"train": "train_list.txt"}, options=options, log=log)
    assert list(seen(kept.splits["train"])) == ["jpg/ok.jpg"]
    assert len(log.bad_files) == 1


def test_an_absolute_path_into_the_folder_and_a_picture_listed_twice_are_taken(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    (tmp_path / "train_list.txt").write_text(f"{tmp_path}/a.jpg 0\na.jpg 0\n")

    result = convert("imagelist", tmp_path)

    assert seen(result.splits["all"]) == {"a.jpg": ("0", [0, 0, 100, 80])}
    assert result.log.notes.total() == 1


def test_links_loops_dots_and_strangers_in_the_folders(tmp_path: Path) -> None:
    write_pictures(tmp_path / "set")
    (tmp_path / "set/cat/loop").symlink_to(tmp_path / "set/cat")
    (tmp_path / "set/cat/linked.png").symlink_to(tmp_path / "set/dog/three.jpeg")
    (tmp_path / "set/cat/Thumbs.db").touch()
    (tmp_path / "set/.git").mkdir()
    (tmp_path / "set/empty").mkdir()

    result = convert("imagefolder", tmp_path / "set")

    assert set(seen(result.splits["all"])) == {*PICTURES, "cat/linked.png"}
    assert [category["name"] for category in result.splits["all"]["categories"]] == ["cat", "dog"]
    assert result.log.notes == {
        "a file that is no picture by its suffix was passed over": 1,
        "a class folder without pictures was left out": 1,
    }


def test_names_that_are_no_text_or_hold_markup(tmp_path: Path) -> None:
    photo(tmp_path / "<b>&\n" / "ok.png")
    bad = os.fsencode(tmp_path / "<b>&\n") + b"/\xff.png"
    os.link(os.fsencode(tmp_path / "<b>&\n") + b"/ok.png", bad)

    with pytest.raises(AnnotationError, match="the name is not UTF-8"):
        convert("imagefolder", tmp_path)
    log = ConversionLog(skip_bad=True)
    assert list(seen(convert("imagefolder", tmp_path, log=log).splits["all"])) == ["<b>&\n/ok.png"]


def test_a_picture_that_cannot_be_read_is_named_or_counted(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    (tmp_path / "cat" / "torn.jpg").write_bytes((tmp_path / "cat" / "one.JPG").read_bytes()[:20])

    with pytest.raises(AnnotationError, match=r"torn\.jpg: not a readable image"):
        convert("imagefolder", tmp_path)
    log = ConversionLog(skip_bad=True)
    assert set(seen(convert("imagefolder", tmp_path, log=log).splits["all"])) == set(PICTURES)
    assert len(log.bad_files) == 1


@pytest.mark.parametrize(
    ("format_", "splits", "options", "says"),
    [
        ("imagefolder", {"train": "tarin"}, {}, "tarin is no folder"),
        ("imagefolder", {"train": "../.."}, {}, "leads out of"),
        ("imagefolder", None, {}, "holds splits, not classes. Name them"),
        ("imagefolder", {"train": "train/cat/deep"}, {}, "has no folders"),
        ("imagelist", {"train": "train"}, {}, "has no list for split 'train'"),
        ("imagelist", None, {}, "has no list, no *.txt"),
        ("imagelist", None, {"label_map": "twice.names"}, "not a label map"),
        ("imagelist", None, {"label_map": "nowhere"}, "cannot read the list"),
    ],
)
def test_what_makes_no_dataset_is_said(
    tmp_path: Path, format_: str, splits: dict[str, str | float] | None, options: dict[str, str], says: str
) -> None:
    write_pictures(tmp_path / "train")
    (tmp_path / "twice.names").write_text("0 cat\n0 dog\n")
    with pytest.raises(DatasetError) as caught:
        convert(format_, tmp_path, splits, options=options)
    assert says in str(caught.value)


def test_crops_are_padded_inside_the_image_and_what_is_no_object_is_counted(tmp_path: Path) -> None:
    def annotation(number: int, box: list[float], crowd: int = 0) -> dict[str, Any]:
        return {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": 1.0, "iscrowd": crowd}

    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
        "annotations": [
            annotation(1, [0, 0, 100, 80], crowd=1),
            annotation(2, [10, 20, 20, 40]),
            annotation(3, [5, 5, 7, 30]),
            annotation(4, [90, 0, 10, 80]),
        ],
        "categories": [{"id": 1, "name": "x"}],
    }
    log = ConversionLog()

    cropped = crop_boxes(coco, log, padding=0.5)

    assert [(a["id"], a["bbox"], a["segmentation"]) for a in cropped["annotations"]] == [
        (1, [0, 0, 40, 80], []),
        (2, [85, 0, 15, 80], []),
    ]
    assert log.dropped == {
        "crowd region, which is not one object": 1,
        "box of less than 8 pixels, too small to tell what it is": 1,
    }
    assert [a["id"] for a in coco["annotations"]] == [1, 2, 3, 4]


def test_shards_merge_to_the_same(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    one, two = (convert("imagefolder", tmp_path, jobs=jobs).splits["all"] for jobs in (1, 2))
    assert orjson.dumps(one) == orjson.dumps(two)


def test_real_folders_with_upper_case_suffixes() -> None:
    coco = convert("imagefolder", real("cls_sign_digits")).splits["all"]
    assert len(coco["images"]) == 300
    assert [category["name"] for category in coco["categories"]] == list("0123456789")
