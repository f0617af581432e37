"""The same scene in every format gives the same records."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from helpers_converters import photo, voc_object, voc_xml, write_voc

from converters import FORMATS, Conversion, convert, write_coco
from converters.errors import CategoriesError

WIDTH, HEIGHT = 100, 80
SCENE = {"a": [("person", (10, 20, 30, 50)), ("car", (0, 0, 100, 80)), ("person", (60, 8, 90, 40))], "b": []}


def as_voc(root: Path) -> None:
    for name, objects in SCENE.items():
        write_voc(root, name, voc_xml(*(voc_object(label, box) for label, box in objects)))
        photo(root / f"{name}.png")


def as_devkit(root: Path) -> None:
    for name, objects in SCENE.items():
        inclusive = [(label, (box[0] + 1, box[1] + 1, box[2], box[3])) for label, box in objects]
        text = voc_xml(*(voc_object(label, box) for label, box in inclusive), database="The VOC2012 Database")
        write_voc(root / "Annotations", name, text)
        photo(root / "JPEGImages" / f"{name}.png")


def as_labelme(root: Path) -> None:
    for name, objects in SCENE.items():
        shapes = [
            {"label": label, "points": [list(box[:2]), list(box[2:])], "shape_type": "rectangle", "group_id": None}
            for label, box in objects
        ]
        data = {"shapes": shapes, "imagePath": f"{name}.png", "imageWidth": WIDTH, "imageHeight": HEIGHT}
        photo(root / f"{name}.png")
        (root / f"{name}.json").write_bytes(orjson.dumps({**data, "version": "5.0.1", "flags": {}, "imageData": None}))


def as_yolo(root: Path) -> None:
    for name, objects in SCENE.items():
        rows = [
            f"{('car', 'person').index(label)} {(left + right) / 2 / WIDTH} {(top + bottom) / 2 / HEIGHT} "
            f"{(right - left) / WIDTH} {(bottom - top) / HEIGHT}"
            for label, (left, top, right, bottom) in objects
        ]
        photo(root / f"{name}.png")
        (root / f"{name}.txt").write_text("\n".join(rows))
    (root / "data.yaml").write_text("names: [car, person]")


def as_kitti(root: Path) -> None:
    for name, objects in SCENE.items():
        rows = [" ".join(map(str, (label, 0, 0, 0, *box, *[0] * 7))) for label, box in objects]
        photo(root / "image_2" / f"{name}.png")
        (root / "label_2").mkdir(exist_ok=True)
        (root / "label_2" / f"{name}.txt").write_text("\n".join(rows))


def as_coco(root: Path) -> None:
    as_voc(root / "voc")
    write_coco(convert("voc", root / "voc").splits["all"], root / "in.json")


def as_cityscapes(root: Path) -> None:
    """The car behind the persons is drawn first, and is therefore what is left of it."""
    for name, objects in SCENE.items():
        drawn = sorted(objects, key=lambda entry: entry[0])
        polygons = [
            {"label": label, "polygon": [[x, y], [u - 1, y], [u - 1, v - 1], [x, v - 1]]}
            for label, (x, y, u, v) in drawn
        ]
        stem = f"x_000000_00000{'ab'.index(name)}"
        path = root / "gtFine/train/x" / f"{stem}_gtFine_polygons.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps({"imgWidth": WIDTH, "imgHeight": HEIGHT, "objects": polygons}))
        photo(root / "leftImg8bit/train/x" / f"{stem}_leftImg8bit.png")


def as_widerface(root: Path) -> None:
    rows = []
    for name, objects in SCENE.items():
        photo(root / "WIDER_train/images" / f"{name}.png")
        boxes = [f"{x} {y} {u - x} {v - y} 0 0 0 0 0 0" for _, (x, y, u, v) in objects]
        rows += [f"{name}.png", str(len(boxes)), *(boxes or ["0 0 0 0 0 0 0 0 0 0"])]
    (root / "wider_face_split").mkdir()
    (root / "wider_face_split/wider_face_train_bbx_gt.txt").write_text("\n".join(rows))


def as_whole_pictures(root: Path) -> None:
    for label in ("car", "person"):
        (root / label).mkdir()
        photo(root / label / "a.png")
    (root / "train_list.txt").write_text("car/a.png car\nperson/a.png person\n")


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "voc": ("voc", as_voc), "devkit": ("voc", as_devkit), "labelme": ("labelme", as_labelme), "yolo": ("yolo", as_yolo),
    "kitti": ("kitti", as_kitti), "coco": ("coco", as_coco), "cityscapes": ("cityscapes", as_cityscapes),
    "widerface": ("widerface", as_widerface),
}  # fmt: skip


def scene(result: Conversion) -> list[list[tuple[Any, ...]]]:
    """Category and box of the instances, image by image."""
    coco = result.splits["all"]
    names = {category["id"]: category["name"] for category in coco["categories"]}
    found: dict[int, list[tuple[Any, ...]]] = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        box = (round(value, 6) for value in annotation["bbox"])
        found[annotation["image_id"]].append((names[annotation["category_id"]], *box))
    return [sorted(own) for own in found.values()]


@pytest.mark.parametrize("writer", WRITERS)
def test_the_same_scene_is_the_same_in_every_format(tmp_path: Path, writer: str) -> None:
    name, write = WRITERS[writer]
    write(tmp_path)
    result = convert(name, tmp_path)
    expected = [sorted((label, x, y, u - x, v - y) for label, (x, y, u, v) in objects) for objects in SCENE.values()]
    if writer == "widerface":
        expected = [sorted(("face", *box) for _, *box in objects) for objects in expected]

    assert scene(result) == expected
    if writer != "coco":
        assert all((result.image_root / image["file_name"]).is_file() for image in result.splits["all"]["images"])


@pytest.mark.parametrize("writer", [*WRITERS, "imagefolder", "imagelist"])
def test_categories_that_match_nothing_are_an_error_in_every_format(tmp_path: Path, writer: str) -> None:
    name, write = WRITERS.get(writer, (writer, as_whole_pictures))
    write(tmp_path)
    known = "face" if writer == "widerface" else "person"

    with pytest.raises(CategoriesError, match=rf"'{known}s' \(did you mean '{known}'\?\), .*\. It has .*{known}"):
        convert(name, tmp_path, categories=[f"{known}s", "tree"])


def test_every_format_is_among_them() -> None:
    whole_pictures = {"imagefolder", "imagelist"}  # tests/test_image_classes.py
    assert {name for name, _ in WRITERS.values()} | whole_pictures == set(FORMATS)
