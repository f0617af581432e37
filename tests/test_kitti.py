from pathlib import Path

import pytest
from helpers_converters import photo

from converters import AnnotationError, ConversionLog, DatasetError, read_kitti

CAR = "Car 0.35 1 -1.57 10.50 20.00 30.00 50.25 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59"
REST = "DontCare -1 -1 -10 50 10 60 20 -1 -1 -1 -1000 -1000 -1000 -10"


def dataset(tmp_path: Path, labels: dict[str, str]) -> Path:
    for name, text in labels.items():
        photo(tmp_path / "training/image_2" / f"{name}.png")
        path = tmp_path / "training/label_2" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_boxes_are_edges_and_the_rest_is_left(tmp_path: Path) -> None:
    log = ConversionLog()
    (record,) = read_kitti(dataset(tmp_path, {"000001": f"{CAR}\n{REST}\n\n"}), log=log)

    assert (record.file_name, record.width, record.height) == ("000001.png", 100, 80)
    assert [(i.category, i.box, i.attributes) for i in record.instances] == [
        ("Car", (10.5, 20, 30, 50.25), {"truncated": 0.35, "occluded": 1})
    ]
    assert log.dropped == {"DontCare": 1}


def test_regions_not_cared_about_are_crowds_on_request(tmp_path: Path) -> None:
    (record,) = read_kitti(dataset(tmp_path, {"1": f"{CAR}\n{REST}\n"}), dont_care=True)

    assert [instance.iscrowd for instance in record.instances] == [False, True]
    assert record.instances[1].attributes == {}


def test_an_empty_file_is_an_empty_road(tmp_path: Path) -> None:
    (record,) = read_kitti(dataset(tmp_path, {"1": ""}))

    assert record.instances == ()


def test_splits_are_lists(tmp_path: Path) -> None:
    root = dataset(tmp_path, {"000001": CAR, "000002": CAR})
    (root / "ImageSets").mkdir()
    (root / "ImageSets/val.txt").write_text("000002\n")

    assert [record.file_name for record in read_kitti(root, split="val")] == ["000002.png"]
    assert [record.file_name for record in read_kitti(root / "training")] == ["000001.png", "000002.png"]
    with pytest.raises(DatasetError, match="no list for split 'test'"):
        list(read_kitti(root, split="test"))
    with pytest.raises(DatasetError, match="no folder label_2"):
        list(read_kitti(root / "ImageSets"))


@pytest.mark.parametrize(
    "line", ["Car 0 0", CAR.replace("10.50", "nan"), CAR.replace("10.50", "1e308"), "{}", "Car a b c d e f g h"]
)
def test_a_bad_line_is_named_or_dropped(tmp_path: Path, line: str) -> None:
    root = dataset(tmp_path, {"1": f"{CAR}\n{line}\n"})
    with pytest.raises(AnnotationError, match=r"1\.txt:2: .* is not an object"):
        list(read_kitti(root))
    (record,) = read_kitti(root, log=ConversionLog(skip_bad=True))

    assert len(record.instances) == 1


def test_labels_without_an_image_are_an_error(tmp_path: Path) -> None:
    root = dataset(tmp_path, {"1": CAR})
    (root / "training/image_2/1.png").unlink()
    with pytest.raises(AnnotationError, match=r"1\.txt: no image 1\.png"):
        list(read_kitti(root))
