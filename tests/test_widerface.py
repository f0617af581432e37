from pathlib import Path

import pytest
from helpers_converters import photo

from converters import AnnotationError, ConversionLog, DatasetError, convert, read_widerface

LIST = """0--Parade/a.jpg
2
10 20 30 40 2 0 1 0 0 0
50 5 4 4 0 0 0 1 0 0
0--Parade/b.jpg
0
0 0 0 0 0 0 0 0 0 0
1--Handshaking/c.jpg
1
90 70 30 40 0 0 0 0 2 1
"""


def dataset(tmp_path: Path, train: str = LIST, val: str | None = None) -> Path:
    (tmp_path / "wider_face_split").mkdir(exist_ok=True)
    for name, text in (("train", train), ("val", val)):
        if text is None:
            continue
        (tmp_path / f"wider_face_split/wider_face_{name}_bbx_gt.txt").write_text(text)
        for line in text.splitlines():
            if line.endswith(".jpg") and ".." not in line and not line.startswith("/"):
                photo(tmp_path / f"WIDER_{name}/images" / line)
    return tmp_path


def test_faces_are_read_with_their_flags(tmp_path: Path) -> None:
    log = ConversionLog()
    records = list(read_widerface(dataset(tmp_path), log=log))

    assert [(r.file_name, len(r.instances)) for r in records] == [
        ("WIDER_train/images/0--Parade/a.jpg", 2),
        ("WIDER_train/images/0--Parade/b.jpg", 0),
        ("WIDER_train/images/1--Handshaking/c.jpg", 1),
    ]
    first, second = records[0].instances
    flags = {"blur": 2, "expression": 0, "illumination": 1, "invalid": 0, "occlusion": 0, "pose": 0}
    assert (first.category, first.box, first.iscrowd) == ("face", (10, 20, 40, 60), False)
    assert first.attributes == flags
    assert second.iscrowd
    assert records[2].instances[0].box == (90, 70, 100, 80)
    assert log.notes == {"box clipped to the image": 1}


@pytest.mark.parametrize(("rule", "left", "crowds"), [("crowd", 2, 1), ("keep", 2, 0), ("drop", 1, 0)])
def test_invalid_faces(tmp_path: Path, rule: str, left: int, crowds: int) -> None:
    record = next(iter(read_widerface(dataset(tmp_path), invalid=rule)))  # type: ignore[arg-type]

    assert len(record.instances) == left
    assert sum(instance.iscrowd for instance in record.instances) == crowds


def test_splits_and_conversion(tmp_path: Path) -> None:
    root = dataset(tmp_path, val="x.jpg\n1\n1 1 5 5 0 0 0 0 0 0\n")
    result = convert("widerface", root, {"train": "train", "val": "val"})

    assert [len(coco["images"]) for coco in result.splits.values()] == [3, 1]
    assert result.image_root == root
    with pytest.raises(DatasetError, match="no split 'test'"):
        convert("widerface", root, {"test": "test"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.jpg\n3\n1 1 5 5 0 0 0 0 0 0\n", "has 1 rows, its count says 3"),
        ("a.jpg\n1\n1 1 5 5 0 0 0 0 0 0\n2 2 5 5 0 0 0 0 0 0\n", "has 2 rows, its count says 1"),
        ("a.jpg\nmany\n", "'many' is not a number of faces"),
        ("a.jpg\n", "'good.jpg' is not a number of faces"),
        ("a.jpg\n1\n1 1 nan 5 0 0 0 0 0 0\n", "is not a face"),
        ("a.jpg\n1\n1 1\n", "is not a face"),
        ("../a.jpg\n1\n1 1 5 5 0 0 0 0 0 0\n", "leaves the image root"),
        ("/etc/a.jpg\n1\n1 1 5 5 0 0 0 0 0 0\n", "leaves the image root"),
        ("a.jpg\n99999999999999999999\n1 1 5 5\n", "its count says"),
    ],
)
def test_a_broken_list_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    root = dataset(tmp_path, text + "good.jpg\n1\n1 1 5 5 0 0 0 0 0 0\n")
    with pytest.raises(AnnotationError, match=r"wider_face_train_bbx_gt\.txt:\d+: ") as caught:
        list(read_widerface(root))

    assert says in str(caught.value)
    assert [r.file_name for r in read_widerface(root, log=ConversionLog(skip_bad=True))][-1].endswith("good.jpg")


def test_a_missing_image_is_an_error(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    (root / "WIDER_train/images/0--Parade/b.jpg").unlink()
    with pytest.raises(AnnotationError, match=r"b\.jpg: not a readable image"):
        list(read_widerface(root))
