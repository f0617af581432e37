"""Drop-in for PaddleDetection's tools/x2coco.py: same folders, right numbers, or its numbers with --compat."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from helpers_converters import photo, real, voc_object, voc_xml, write_voc

from converters import ImageRecord
from converters.x2coco import divide, main

Convert = Callable[..., Any]


@pytest.fixture
def x2coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Convert:
    monkeypatch.chdir(tmp_path)

    def x2coco(read: str, /, **flags: object) -> Any:
        arguments = [text for name, value in flags.items() if name != "compat" for text in (f"--{name}", str(value))]
        main([*arguments, *(["--compat"] if flags.get("compat") else [])])
        return orjson.loads((tmp_path / read).read_bytes())

    return x2coco


def shape(label: str, points: list[list[float]], kind: str = "polygon") -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}}


TRIANGLE = [[10, 10], [70, 10], [10, 70]]


def labelme(folder: Path, name: str, *shapes: dict[str, Any], image: str = "") -> None:
    photo(folder / "images" / f"{name}.jpg")
    data = {
        "version": "5.0.1", "flags": {}, "shapes": shapes, "imagePath": image or f"{name}.jpg", "imageData": None,
        "imageHeight": 80, "imageWidth": 100,
    }  # fmt: skip
    (folder / "json").mkdir(exist_ok=True)
    (folder / "json" / f"{name}.json").write_bytes(orjson.dumps(data))


@pytest.fixture
def voc_flags(tmp_path: Path) -> dict[str, object]:
    folder = tmp_path / "Annotations"
    write_voc(folder, "b", voc_xml(voc_object("dog", (31, 41, 90, 80)), filename="b.jpg"))
    write_voc(folder, "a", voc_xml(voc_object("cat", (1, 2, 30.5, 40)), voc_object("dog"), filename="a.jpg"))
    (tmp_path / "list.txt").write_text("./images/b.jpg b.xml\na\n")
    (tmp_path / "labels.txt").write_text("dog\ncat\n")
    return {
        "dataset_type": "voc", "voc_anno_dir": folder, "voc_anno_list": tmp_path / "list.txt",
        "voc_label_list": tmp_path / "labels.txt",
    }  # fmt: skip


def test_voc_lands_in_the_output_folder_with_right_ids(x2coco: Convert, voc_flags: dict[str, object]) -> None:
    coco = x2coco("out/mine.json", **voc_flags, output_dir="out", voc_out_name="mine.json")

    assert [(image["id"], image["file_name"], image["width"]) for image in coco["images"]] == [
        (1, "a.jpg", 100),
        (2, "b.jpg", 100),
    ]
    assert [(a["id"], a["image_id"], a["category_id"], a["bbox"]) for a in coco["annotations"]] == [
        (1, 1, 2, [1, 2, 29.5, 38]),
        (2, 1, 1, [10, 20, 20, 30]),
        (3, 2, 1, [31, 41, 59, 39]),
    ]
    assert [(category["id"], category["name"]) for category in coco["categories"]] == [(1, "dog"), (2, "cat")]


def test_voc_compat_is_paddledetections(x2coco: Convert, voc_flags: dict[str, object]) -> None:
    zeros = {"iscrowd": 0, "ignore": 0}

    assert x2coco("voc.json", **voc_flags, compat=True) == {
        "images": [
            {"file_name": "b.jpg", "height": 80.0, "width": 100.0, "id": 0},
            {"file_name": "a.jpg", "height": 80.0, "width": 100.0, "id": 1},
        ],
        "type": "instances",
        "annotations": [
            {"area": 59.0 * 39, "bbox": [31, 41, 59, 39], "category_id": 1, "image_id": 0, "id": 1, **zeros},
            {"area": 29.5 * 38, "bbox": [1, 2, 29.5, 38], "category_id": 2, "image_id": 1, "id": 2, **zeros},
            {"area": 600.0, "bbox": [10, 20, 20, 30], "category_id": 1, "image_id": 1, "id": 3, **zeros},
        ],
        "categories": [
            {"supercategory": "none", "id": 1, "name": "dog"},
            {"supercategory": "none", "id": 2, "name": "cat"},
        ],
    }  # fmt: skip


def test_labels_of_two_words_and_class_wise_lists(x2coco: Convert, tmp_path: Path) -> None:
    write_voc(tmp_path / "xml", "1", voc_xml(voc_object("traffic light")))
    (tmp_path / "list.txt").write_text("1 -1\n\n")
    (tmp_path / "labels.txt").write_text("traffic light\ncar\n")
    flags = {"voc_anno_dir": "xml", "voc_anno_list": "list.txt", "voc_label_list": "labels.txt"}
    coco = x2coco("voc.json", dataset_type="voc", **flags)

    assert [category["name"] for category in coco["categories"]] == ["traffic light", "car"]
    assert len(coco["annotations"]) == 1


def test_labelme_polygons_have_their_true_area(x2coco: Convert, tmp_path: Path) -> None:
    labelme(
        tmp_path,
        "a",
        shape("cat", TRIANGLE),
        shape("dog", [[30, 50], [10, 20]], "rectangle"),
        shape("x", [[1, 1]], "point"),
    )
    flags = {"dataset_type": "labelme", "json_input_dir": "json", "image_input_dir": "images"}
    ours = x2coco("annotations/instance_train.json", **flags)
    theirs = x2coco("annotations/instance_train.json", **flags, compat=True)

    assert [(a["bbox"], a["area"]) for a in ours["annotations"]] == [([10, 10, 60, 60], 1800), ([10, 20, 20, 30], 600)]
    assert [(a["bbox"], a["area"]) for a in theirs["annotations"]] == [
        ([10, 10, 60, 60], 3600),
        ([10, 20, 20, 30], 600),
    ]
    assert theirs["annotations"][1]["segmentation"] == [[10, 20, 10, 50, 30, 50, 30, 20]]
    assert [category["name"] for category in ours["categories"]] == ["cat", "dog"]
    assert [category["name"] for category in theirs["categories"]] == ["cat", "dog", "x"]
    assert (tmp_path / "train" / "a.jpg").is_file()


def test_no_image_is_lost_and_every_split_has_the_same_classes(x2coco: Convert, tmp_path: Path) -> None:
    for number in range(11):
        labelme(tmp_path, f"{number}", shape(f"class {number}", TRIANGLE))
    flags = {"dataset_type": "labelme", "json_input_dir": "json", "image_input_dir": "images", "output_dir": "out"}
    val = x2coco("out/annotations/instance_val.json", **flags, train_proportion=0.8, val_proportion=0.2)
    train = orjson.loads((tmp_path / "out/annotations/instance_train.json").read_bytes())

    assert (len(train["images"]), len(val["images"])) == (9, 2)
    assert train["categories"] == val["categories"]
    assert len(train["categories"]) == 11
    for split, coco in (("train", train), ("val", val)):
        assert {path.name for path in (tmp_path / "out" / split).iterdir()} == {i["file_name"] for i in coco["images"]}


def test_json_and_images_in_one_folder(x2coco: Convert, tmp_path: Path) -> None:
    for number in range(30):
        labelme(tmp_path, f"{number}", shape("cat", TRIANGLE))
        (tmp_path / "images" / f"{number}.jpg").rename(tmp_path / "json" / f"{number}.jpg")
    coco = x2coco(
        "annotations/instance_train.json", dataset_type="labelme", json_input_dir="json", image_input_dir="json"
    )

    assert len(coco["images"]) == 30


def test_a_second_run_with_other_shares_leaves_no_image_in_two_splits(x2coco: Convert, tmp_path: Path) -> None:
    for number in range(11):
        labelme(tmp_path, f"{number}", shape("cat", TRIANGLE))
    flags = {"dataset_type": "labelme", "json_input_dir": "json", "image_input_dir": "images", "output_dir": "out"}
    for train in (0.8, 0.4):
        x2coco("out/annotations/instance_val.json", **flags, train_proportion=train, val_proportion=1 - train)
    folders = [{path.name for path in (tmp_path / "out" / split).iterdir()} for split in ("train", "val")]

    assert not folders[0] & folders[1]
    assert len(folders[0] | folders[1]) == 11


def test_cityscapes_in_one_folder(x2coco: Convert, tmp_path: Path) -> None:
    photo(tmp_path / "images/a.png")
    square = [[10, 10], [49, 10], [49, 49], [10, 49]]
    objects = [
        {"label": "car", "polygon": square},
        {"label": "persongroup", "polygon": [[60, 10], [69, 10], [69, 19], [60, 19]]},
        {"label": "car", "polygon": [[10, 10], [29, 10], [29, 49], [10, 49]]},
        {"label": "bus", "polygon": square, "deleted": 1},
    ]
    (tmp_path / "json").mkdir()
    (tmp_path / "json/a.json").write_bytes(orjson.dumps({"imgWidth": 100, "imgHeight": 80, "objects": objects}))
    flags = {"dataset_type": "cityscape", "json_input_dir": "json", "image_input_dir": "images"}
    ours = x2coco("annotations/instance_train.json", **flags)
    theirs = x2coco("annotations/instance_train.json", **flags, compat=True)

    assert [(c["name"]) for c in ours["categories"]] == ["car", "person"]
    assert sorted((a["bbox"], a["area"], a["iscrowd"]) for a in ours["annotations"]) == [
        ([10, 10, 20, 40], 800, 0),
        ([30, 10, 20, 40], 800, 0),
        ([60, 10, 10, 10], 100, 1),
    ]
    assert [(c["name"]) for c in theirs["categories"]] == ["car", "persongroup", "bus"]
    assert theirs["annotations"][0]["bbox"] == [10, 10, 39, 39]


@pytest.mark.parametrize("compat", [False, True])
def test_widerface_files_land_in_its_folder(x2coco: Convert, tmp_path: Path, compat: bool) -> None:
    (tmp_path / "wider_face_split").mkdir()
    for split in ("train", "val"):
        text = f"0--Parade/{split}.jpg\n1\n10 20 30 40 2 0 1 0 0 0\n"
        (tmp_path / f"wider_face_split/wider_face_{split}_bbx_gt.txt").write_text(text)
        photo(tmp_path / f"WIDER_{split}/images/0--Parade/{split}.jpg")
    coco = x2coco("widerface_val.json", dataset_type="widerface", widerface_root_dir=tmp_path, compat=compat)
    flags = {"blur": 2, "expression": 0, "illumination": 1, "invalid": 0, "occlusion": 0, "pose": 0}

    assert (tmp_path / "widerface_train.json").is_file()
    assert coco["categories"][0]["name"] == "human_face"
    assert coco["images"][0]["file_name"] == "WIDER_val/images/0--Parade/val.jpg"
    assert coco["annotations"][0].items() >= {"bbox": [10, 20, 30, 40], "area": 1200, "id": 1, **flags}.items()
    assert coco["annotations"][0]["category_id"] == (0 if compat else 1)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"dataset_type": "coco"}, "not one of voc, widerface, labelme, cityscape"),
        ({}, "--dataset_type is None"),
        ({"dataset_type": "voc"}, "needs --voc_anno_dir"),
        ({"dataset_type": "labelme", "json_input_dir": "nowhere"}, "nowhere does not exist"),
        (
            {"dataset_type": "labelme", "json_input_dir": ".", "image_input_dir": ".", "train_proportion": 0.5},
            "add up to 1",
        ),
        (
            {
                "dataset_type": "labelme",
                "json_input_dir": ".",
                "image_input_dir": ".",
                "train_proportion": 2,
                "val_proportion": -1,
            },
            "add up",
        ),
    ],
)
def test_errors_are_told_and_end_with_code_2(
    x2coco: Convert, capsys: pytest.CaptureFixture[str], flags: dict[str, object], says: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        x2coco("none", **flags)

    assert ended.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("compat", [False, True])
def test_a_bad_file_is_named_and_nothing_is_written(
    x2coco: Convert, voc_flags: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str], compat: bool
) -> None:
    write_voc(tmp_path / "Annotations", "a", voc_xml(voc_object(box=None)))
    with pytest.raises(SystemExit) as ended:
        x2coco("voc.json", **voc_flags, compat=compat)

    assert ended.value.code == 2
    assert "a.xml" in capsys.readouterr().err
    assert not (tmp_path / "voc.json").exists()


@pytest.mark.parametrize("count", [1, 2, 7, 10, 11, 100])
def test_shares_are_met_to_the_image(count: int) -> None:
    records = [ImageRecord(f"{number}.jpg", 1, 1) for number in range(count)]
    splits = divide(records, {"train": 0.7, "val": 0.2, "test": 0.1})
    names = [record.file_name for own in splits.values() for record in own]

    assert sorted(names) == sorted(record.file_name for record in records)
    assert all(
        abs(len(splits[name]) - share * count) < 1 for name, share in (("train", 0.7), ("val", 0.2), ("test", 0.1))
    )


# --- against the original ----------------------------------------------------------------------------------------

SHIM = """
import runpy, sys, types
import numpy, PIL.Image
tqdm, cv2 = types.ModuleType("tqdm"), types.ModuleType("cv2")
tqdm.tqdm, cv2.imread = iter, lambda path: numpy.asarray(PIL.Image.open(path))
sys.modules.update(tqdm=tqdm, cv2=cv2)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def original(*arguments: object) -> None:
    root = os.environ.get("PADDLEDETECTION_ROOT")
    if not root:
        pytest.skip("PADDLEDETECTION_ROOT does not name a checkout of PaddleDetection")
    script = Path(root) / "tools/x2coco.py"
    subprocess.run([sys.executable, "-c", SHIM, script, *map(str, arguments)], check=True, capture_output=True)


def flat(flags: dict[str, object]) -> list[str]:
    return [text for name, value in flags.items() for text in (f"--{name}", str(value))]


def test_voc_compat_equals_the_original_on_a_real_set(tmp_path: Path) -> None:
    root = real("voc_bccd")
    names = sorted(path.stem for path in (root / "Annotations").iterdir())
    kept = [name for name in names if name not in {"BloodImage_00338", "BloodImage_00343"}]  # it dies of both
    (tmp_path / "list.txt").write_text("\n".join(kept))
    (tmp_path / "labels.txt").write_text("WBC\nRBC\nPlatelets\n")
    flags = flat({
        "dataset_type": "voc", "voc_anno_dir": root / "Annotations", "voc_anno_list": tmp_path / "list.txt",
        "voc_label_list": tmp_path / "labels.txt", "output_dir": tmp_path,
    })  # fmt: skip
    original(*flags, "--voc_out_name", "theirs.json")
    main([*flags, "--voc_out_name", "ours.json", "--compat"])

    assert orjson.loads((tmp_path / "ours.json").read_bytes()) == orjson.loads((tmp_path / "theirs.json").read_bytes())


@pytest.mark.parametrize("kind", ["labelme", "cityscape"])
def test_polygons_compat_equal_the_original(tmp_path: Path, kind: str) -> None:
    if kind == "labelme":
        source = real("triple_tony607_fruits/labelme")
        for path in sorted(source.iterdir()):
            folder = tmp_path / ("json" if path.suffix == ".json" else "images")
            folder.mkdir(exist_ok=True)
            (folder / path.name).write_bytes(path.read_bytes())
        labelme(
            tmp_path, "rectangles", shape("date", [[30, 50], [10.5, 20]], "rectangle"), shape("new", [[5, 5]], "point")
        )
    else:
        for number in range(7):
            photo(tmp_path / f"images/{number}.png")
            objects = [{"label": f"class {number % 3}", "polygon": [[x, 7 * number] for x in (3, 50.5)] + [[20, 77.2]]}]
            (tmp_path / "json").mkdir(exist_ok=True)
            data = {"imgWidth": 100, "imgHeight": 80, "objects": objects}
            (tmp_path / f"json/{number}.json").write_bytes(orjson.dumps(data))
    shares = {"train_proportion": 0.6, "val_proportion": 0.2, "test_proportion": 0.2}
    flags = flat(
        {"dataset_type": kind, "json_input_dir": tmp_path / "json", "image_input_dir": tmp_path / "images", **shares}
    )
    original(*flags, "--output_dir", tmp_path / "theirs")
    main([*flags, "--output_dir", str(tmp_path / "ours"), "--compat"])

    for split in ("train", "val", "test"):
        ours, theirs = (
            orjson.loads((tmp_path / who / f"annotations/instance_{split}.json").read_bytes())
            for who in ("ours", "theirs")
        )
        assert ours == theirs


def test_widerface_compat_equals_the_original(tmp_path: Path) -> None:
    (tmp_path / "wider_face_split").mkdir()
    for split in ("train", "val"):
        text = (
            f"0--P/{split}.jpg\n2\n10 20 30 40 2 0 1 0 0 0\n1 2 3 4 0 0 0 1 0 0\n"
            "0--P/gone.jpg\n1\n1 1 1 1 0 0 0 0 0 0\n"
            "0--P/empty.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n0--P/last.jpg\n1\n5 5 5 5 0 0 0 0 0 0\n"
        )
        (tmp_path / f"wider_face_split/wider_face_{split}_bbx_gt.txt").write_text(text)
        for name in (split, "empty", "last"):
            photo(tmp_path / f"WIDER_{split}/images/0--P/{name}.jpg")
    flags = flat({"dataset_type": "widerface", "widerface_root_dir": tmp_path})
    original(*flags)
    theirs = [orjson.loads((tmp_path / f"widerface_{split}.json").read_bytes()) for split in ("train", "val")]
    main([*flags, "--compat"])

    assert [orjson.loads((tmp_path / f"widerface_{split}.json").read_bytes()) for split in ("train", "val")] == theirs
