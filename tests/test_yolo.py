from pathlib import Path

import pytest
from helpers_converters import photo

from converters import AnnotationError, ConversionLog, DatasetError, convert, read_yolo
from converters.yolo_config import read_config


def dataset(tmp_path: Path, labels: dict[str, str], config: str = "names: [cat, 'traffic light']\n") -> Path:
    for name, text in labels.items():
        photo(tmp_path / "images" / f"{name}.jpg")
        path = tmp_path / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "data.yaml").write_text(config)
    return tmp_path


def one(tmp_path: Path, text: str, **options: object):  # type: ignore[no-untyped-def]
    (record,) = read_yolo(dataset(tmp_path, {"a": text}), **options)  # type: ignore[arg-type]
    return record


def test_shares_become_pixels(tmp_path: Path) -> None:
    record = one(tmp_path, "1 0.2 0.5 0.2 0.25\n0 0.5 0.5 1 1\n")

    assert (record.file_name, record.width, record.height) == ("images/a.jpg", 100, 80)
    assert [(i.category, i.box) for i in record.instances] == [
        ("traffic light", pytest.approx((10, 30, 30, 50))),
        ("cat", (0, 0, 100, 80)),
    ]


def test_polygons_and_oriented_boxes_become_rings(tmp_path: Path) -> None:
    record = one(tmp_path, "0 0.1 0.1 0.5 0.1 0.5 0.5\n0 0 0 0.1 0 0.1 0.1 0 0.1\n")

    assert record.instances[0].segmentation == (pytest.approx((10, 8, 50, 8, 50, 40)),)
    assert record.instances[0].box == pytest.approx((10, 8, 50, 40))
    assert len(record.instances[1].segmentation[0]) == 8


def test_rounding_over_the_border_is_put_back_without_a_word(tmp_path: Path) -> None:
    log = ConversionLog()
    record = one(tmp_path, "0 0.0999995 0.5 0.2 1.000001\n", log=log)

    assert record.instances[0].box == pytest.approx((0, 0, 19.99995, 80))
    assert not log.notes


def test_confidences_and_key_points_are_left_out(tmp_path: Path) -> None:
    assert one(tmp_path, "0 0.5 0.5 0.5 0.5 0.9\n").instances[0].box == (25, 20, 75, 60)
    config = "names: [cat, b]\nkpt_shape: [2, 3]\n"
    root = dataset(tmp_path / "pose", {"a": "0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.2 0.2 1\n"}, config)
    (record,) = read_yolo(root)

    assert record.instances[0].box == (25, 20, 75, 60)
    assert record.instances[0].segmentation is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("7 0.5 0.5 0.5 0.5", "there is no class 7"),
        ("-1 0.5 0.5 0.5 0.5", "is not a number"),
        ("cat 0.5 0.5 0.5 0.5", "is not a number"),
        ("0 0.5 0.5 0.5", "3 numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "7 numbers"),
        ("0 50 50 20 20", "not a share of the image"),
        ("0 nan 0.5 0.5 0.5", "not a share of the image"),
        ("0 inf 0.5 0.5 0.5", "not a share of the image"),
        ("0 a 0.5 0.5 0.5", "could not convert"),
        ("\u0660 0.5 0.5 0.5 0.5", "is not a number"),
    ],
)
def test_a_bad_line_is_named_or_dropped(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(AnnotationError, match=r"a\.txt:2: ") as caught:
        one(tmp_path, f"0 0.5 0.5 0.5 0.5\n{line}\n")
    log = ConversionLog(skip_bad=True)

    assert says in str(caught.value)
    assert len(one(tmp_path, f"0 0.5 0.5 0.5 0.5\n{line}\n", log=log).instances) == 1
    assert log.dropped == {"line that cannot be read": 1}


def test_images_without_labels_are_negatives_and_labels_without_images_errors(tmp_path: Path) -> None:
    root = dataset(tmp_path, {"a": "", "b": "0 .5 .5 .5 .5"})
    photo(root / "images/c.jpg")
    assert [len(record.instances) for record in read_yolo(root)] == [0, 1, 0]

    (root / "labels/lost.txt").write_text("0 .5 .5 .5 .5")
    with pytest.raises(AnnotationError, match=r"lost\.txt: labels without an image"):
        list(read_yolo(root))


@pytest.mark.parametrize(
    ("config", "splits"),
    [
        ("path: /elsewhere/set\ntrain: images/train\nval: images/val\nnames: [cat]\n", ("train", "val")),
        ("train: ../images/train\nval: ../images/val\nnames: [cat]\n", ("train", "val")),
        ("train: [images/train]\nval: /data/set/images/val\nnames: [cat]\n", ("train", "val")),
        ("train: train.txt\nval: val.txt\nnames: [cat]\n", ("train", "val")),
        ("names: [cat]\n", ("train", "val")),
        ("names: [cat]\n", ("images/train", "images/val")),
        ("names: [cat]\n", ("train.txt", "val.txt")),
    ],
)
def test_splits_by_key_folder_or_list(tmp_path: Path, config: str, splits: tuple[str, str]) -> None:
    root = dataset(tmp_path, {"train/a": "0 .5 .5 .5 .5", "train/b": "", "val/c": "0 .5 .5 .5 .5"}, config)
    (root / "train.txt").write_text("./images/train/a.jpg\n/data/set/images/train/b.jpg\n")
    (root / "val.txt").write_text("images/val/c.jpg\n")
    names = [[record.file_name for record in read_yolo(root, split=split)] for split in splits]

    assert names == [["images/train/a.jpg", "images/train/b.jpg"], ["images/val/c.jpg"]]
    assert [len(r.instances) for s in splits for r in read_yolo(root, split=s)] == [1, 0, 1]


def test_roboflows_folders(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        photo(tmp_path / split / "images/a.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels/a.txt").write_text("0 .5 .5 .5 .5")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\n\nnc: 1\nnames: ['cat']\n")
    result = convert("yolo", tmp_path, {"train": "train", "val": "val"})

    assert [coco["images"][0]["file_name"] for coco in result.splits.values()] == [
        "train/images/a.jpg",
        "valid/images/a.jpg",
    ]


def test_labels_beside_images_and_classes_txt(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("1 .5 .5 .5 .5")
    (tmp_path / "classes.txt").write_text("cat\ntraffic light\n")
    (record,) = read_yolo(tmp_path)

    assert [instance.category for instance in record.instances] == ["traffic light"]


def test_categories_keep_the_order_of_the_numbers(tmp_path: Path) -> None:
    root = dataset(tmp_path, {"a": "2 .5 .5 .5 .5"}, "names:\n  0: zebra\n  1: 'an ant'\n  2: cat\n")
    coco = convert("yolo", root).splits["all"]

    assert [category["name"] for category in coco["categories"]] == ["zebra", "an ant", "cat"]
    assert coco["annotations"][0]["category_id"] == 3


# --- data.yaml ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [a, b]", ["a", "b"]),
        ("names: ['a, b', \"c\", d e]", ["a, b", "c", "d e"]),
        ("names: ['it''s']", ["it's"]),
        ("names: [\n  a,\n  b, # the last\n]\nnc: 2", ["a", "b"]),
        ("names:\n- a\n- b c\n", ["a", "b c"]),
        ("names:\n  - a\n  - 'b'\n", ["a", "b"]),
        ("names:\n  0: a\n  1: b\n", ["a", "b"]),
        ("names:\n  1: b\n  0: a\n", ["a", "b"]),
        ("names: {0: a, 1: 'b'}", ["a", "b"]),
        ("names: [0, 1]", ["0", "1"]),
        (
            "# COCO8\npath: x # here\n\nnames:\n  0: person\n\n# Download\ndownload: |\n  import os\n  x: [1\n",
            ["person"],
        ),
        ("\ufeffnames: [a]", ["a"]),
    ],
)
def test_names_as_people_write_them(tmp_path: Path, text: str, names: list[str]) -> None:
    (tmp_path / "data.yaml").write_text(text)

    assert list(read_config(tmp_path).names) == names


@pytest.mark.parametrize(
    "text",
    [
        "nc: 2", "names:", "names: []", "names: [a", "names: [[a]]", "names: &x [a]", "names: *x", "\x00",
        "names: !!python/name:os.system", "names: !!python/object/apply:os.system ['ls']", "names:\n- *a\n",
        "names:\n  0: a\n  2: b\n", "names:\n  a: b\n  c: d\n", "names: [a]\nnames: [b]", "names: [a,, b]",
        "names: |\n  a\n  b\n", "names: ['a]",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_not_guessed(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match=r"data\.yaml"):
        read_config(tmp_path)


def test_without_names_the_remedy_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="names=FILE"):
        list(read_yolo(tmp_path))


@pytest.mark.parametrize("split", ["../../etc", "/etc", "..", ""])
def test_a_split_never_leaves_the_dataset(tmp_path: Path, split: str) -> None:
    root = dataset(tmp_path, {"a": ""})
    with pytest.raises(DatasetError):
        list(read_yolo(root, split=split))
