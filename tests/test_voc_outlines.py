from pathlib import Path

import numpy as np
import pytest
from helpers_converters import real, voc_object, voc_xml, write_voc
from PIL import Image
from pycocotools import mask as coco_mask

from converters import AnnotationError, ConversionLog, ImageRecord, read_voc, to_coco


def indices(path: Path, *boxes: tuple[int, int, int, int, int], size: tuple[int, int] = (100, 80)) -> None:
    """A palette image with filled boxes (left, top, right, bottom, value)."""
    pixels = np.zeros((size[1], size[0]), dtype=np.uint8)
    for left, top, right, bottom, value in boxes:
        pixels[top:bottom, left:right] = value
    image = Image.fromarray(pixels).convert("P")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def read(root: Path, log: ConversionLog | None = None, **options: object) -> ImageRecord:
    (record,) = read_voc(root, masks=True, log=log, **options)  # type: ignore[arg-type]
    return record


def dataset(tmp_path: Path, *objects: str) -> Path:
    write_voc(tmp_path / "Annotations", "1", voc_xml(*objects, filename="1.jpg"))
    return tmp_path


def test_masks_become_run_lengths_with_their_box_and_area(tmp_path: Path) -> None:
    root = dataset(tmp_path, voc_object("cat", (10, 20, 30, 50)), voc_object("dog", (60, 10, 90, 40)))
    indices(
        root / "SegmentationObject/1.png",
        (10, 20, 30, 50, 1), (60, 10, 90, 40, 2), (10, 20, 12, 50, 255), (70, 20, 80, 30, 0),
    )  # fmt: skip
    log = ConversionLog()
    cat, dog = read(root, log).instances
    annotation = to_coco([read(root)])["annotations"][0]

    assert (cat.category, cat.box, cat.area, cat.iscrowd) == ("cat", (12, 20, 30, 50), 18 * 30, False)
    assert (dog.category, dog.box, dog.area) == ("dog", (60, 10, 90, 40), 30 * 30 - 100)
    assert coco_mask.area(annotation["segmentation"]) == 540
    assert isinstance(annotation["segmentation"]["counts"], str)
    assert not log.dropped  # 255 is no object


def test_masks_go_to_the_object_they_overlap_whatever_their_number(tmp_path: Path) -> None:
    root = dataset(tmp_path, voc_object("cat", (10, 20, 30, 50)), voc_object("dog", (60, 10, 90, 40)))
    indices(root / "SegmentationObject/1.png", (10, 20, 30, 50, 2), (60, 10, 90, 40, 1))

    assert [(i.category, i.box) for i in read(root).instances] == [("cat", (10, 20, 30, 50)), ("dog", (60, 10, 90, 40))]


def test_a_mask_without_an_object_has_the_class_of_most_of_its_pixels(tmp_path: Path) -> None:
    root = dataset(tmp_path, voc_object("cat", (10, 20, 30, 50)))
    indices(root / "SegmentationObject/1.png", (10, 20, 30, 50, 1), (60, 10, 90, 40, 2))
    indices(root / "SegmentationClass/1.png", (10, 20, 30, 50, 8), (60, 10, 90, 40, 15), (60, 10, 65, 40, 255))

    assert [i.category for i in read(root).instances] == ["cat", "person"]


def test_a_mask_of_an_object_that_was_left_out_stays_out(tmp_path: Path) -> None:
    root = dataset(tmp_path, voc_object("cat", (10, 20, 30, 50)), voc_object("dog", (60, 10, 90, 40)))
    indices(root / "SegmentationObject/1.png", (10, 20, 30, 50, 1), (60, 10, 90, 40, 2))
    indices(root / "SegmentationClass/1.png", (10, 20, 30, 50, 8), (60, 10, 90, 40, 12))
    log = ConversionLog()

    assert [i.category for i in read(root, log, categories=["cat"]).instances] == ["cat"]
    assert log.dropped["mask without an object"] == 1


def test_indices_saved_as_colours_are_read_back(tmp_path: Path) -> None:
    root = dataset(tmp_path, voc_object("cat", (10, 20, 30, 50)))
    colours = np.zeros((80, 100, 3), dtype=np.uint8)
    colours[20:50, 10:30] = (128, 0, 0)  # index 1
    colours[20:50, 10:12] = (224, 224, 192)  # index 255
    (root / "SegmentationObject").mkdir()
    Image.fromarray(colours).save(root / "SegmentationObject/1.png")

    assert [(i.category, i.box) for i in read(root).instances] == [("cat", (12, 20, 30, 50))]


def test_objects_without_a_mask_keep_their_box(tmp_path: Path) -> None:
    root = dataset(tmp_path, voc_object("cat", (10, 20, 30, 50)), voc_object("dog", (60, 10, 90, 40)))
    indices(root / "SegmentationObject/1.png", (10, 20, 30, 50, 1))

    assert [i.segmentation is None for i in read(root).instances] == [False, True]


@pytest.mark.parametrize("kind", ["colours", "size", "text"])
def test_what_holds_no_indices_is_an_error(tmp_path: Path, kind: str) -> None:
    root = dataset(tmp_path, voc_object())
    path = root / "SegmentationObject/1.png"
    indices(path, size=(50, 50) if kind == "size" else (100, 80))
    if kind == "colours":
        Image.new("RGB", (100, 80), (1, 2, 3)).save(path)
    if kind == "text":
        path.write_text("no image")

    with pytest.raises(AnnotationError, match=r"SegmentationObject/1\.png"):
        read(root)


def test_polygons_are_cut_at_the_border(tmp_path: Path) -> None:
    points = ((90, 10), (120, 10), (120, 30), (90, 30))
    ring = "".join(f"<x{n}>{x}</x{n}><y{n}>{y}</y{n}>" for n, (x, y) in enumerate(points, 1))
    write_voc(tmp_path, "1", voc_xml(voc_object("cat", (90, 10, 120, 30), f"<polygon>{ring}</polygon>")))
    (record,) = read_voc(tmp_path)
    (annotation,) = to_coco([record])["annotations"]

    assert (annotation["bbox"], annotation["area"]) == ([90, 10, 10, 20], 200)
    assert max(annotation["segmentation"][0][::2]) == 100


def test_devkit_polygons_count_from_one_too(tmp_path: Path) -> None:
    ring = "<polygon><x1>11</x1><y1>11</y1><x2>31</x2><y2>11</y2><x3>31</x3><y3>31</y3></polygon>"
    write_voc(tmp_path, "1", voc_xml(voc_object("cat", None, ring)))
    (record,) = read_voc(tmp_path, corners="devkit")

    assert record.instances[0].box == (10, 10, 30, 30)
    assert record.instances[0].segmentation == ((10, 10, 30, 10, 30, 30),)


def test_the_made_set_of_another_project(tmp_path: Path) -> None:
    log = ConversionLog(skip_bad=True)
    records = list(read_voc(real("vocdevkit_mini/datumaro/voc_dataset1"), masks=True, log=log))

    assert len(records) == 1
    assert not log.bad_files
