import os
from pathlib import Path

import orjson
import pytest
from helpers_converters import photo

from converters import DatasetError, Fingerprint, fingerprint


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    photo(root / "images/a.jpg")
    (root / "a.xml").write_text("<annotation/>")
    return root


def touched(path: Path, data: bytes) -> None:
    """Other bytes of the same length and the same times."""
    info = path.stat()
    assert len(data) == info.st_size
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def test_annotations_and_images_count_apart(dataset: Path) -> None:
    before = fingerprint(dataset)
    (dataset / "a.xml").write_text("<annotation />")
    edited = fingerprint(dataset)
    photo(dataset / "images/a.jpg", (50, 50))
    repainted = fingerprint(dataset)

    assert before.files == 2
    assert edited.annotations != before.annotations
    assert edited.images == before.images
    assert repainted.annotations == edited.annotations
    assert repainted.images != edited.images


def test_the_place_and_the_times_do_not_count(dataset: Path) -> None:
    before = fingerprint(dataset)
    os.utime(dataset / "a.xml", (1, 1))
    moved = dataset.rename(dataset.parent / "elsewhere")

    assert fingerprint(moved) == before


def test_a_new_name_counts(dataset: Path) -> None:
    before = fingerprint(dataset)
    (dataset / "a.xml").rename(dataset / "b.xml")

    assert fingerprint(dataset).annotations != before.annotations


def test_with_an_index_only_changed_files_are_read(dataset: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    before = fingerprint(dataset, index=index)
    touched(dataset / "a.xml", b"<annotatiom/>")

    assert fingerprint(dataset, index=index) == before  # size and time agree: not read
    os.utime(dataset / "a.xml")
    assert fingerprint(dataset, index=index).annotations != before.annotations
    assert fingerprint(dataset, index=index) == fingerprint(dataset)


def test_files_that_are_gone_leave_the_index(dataset: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    fingerprint(dataset, index=index)
    (dataset / "a.xml").unlink()

    assert fingerprint(dataset, index=index).files == 1
    assert list(orjson.loads(index.read_bytes())) == ["images/a.jpg"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a.xml": 3}', '{"a.xml": [1, "x", 2]}', '{"a.xml": [1, 2]}'])
def test_an_index_that_makes_no_sense_is_replaced(dataset: Path, tmp_path: Path, text: str) -> None:
    index = tmp_path / "index.json"
    index.write_text(text)

    assert fingerprint(dataset, index=index) == fingerprint(dataset)
    assert len(orjson.loads(index.read_bytes())) == 2


def test_an_index_inside_the_dataset_does_not_count(dataset: Path) -> None:
    before = fingerprint(dataset)

    assert fingerprint(dataset, index=dataset / "index.json") == before
    assert fingerprint(dataset, index=dataset / "index.json") == before


def test_link_loops_end_and_dead_links_do_not_count(dataset: Path) -> None:
    before = fingerprint(dataset)
    (dataset / "loop").symlink_to(dataset, target_is_directory=True)
    (dataset / "images" / "up").symlink_to("..", target_is_directory=True)
    (dataset / "dead.xml").symlink_to("nowhere")

    assert fingerprint(dataset) == before


def test_pipes_do_not_count_and_do_not_block(dataset: Path) -> None:
    before = fingerprint(dataset)
    os.mkfifo(dataset / "pipe.xml")

    assert fingerprint(dataset) == before


def test_names_that_are_not_utf8_count(dataset: Path, tmp_path: Path) -> None:
    before = fingerprint(dataset)
    Path(os.fsdecode(os.fsencode(dataset) + b"/\xff.xml")).write_text("x")
    index = tmp_path / "index.json"

    assert fingerprint(dataset, index=index).annotations != before.annotations
    assert fingerprint(dataset, index=index).files == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_named(dataset: Path) -> None:
    (dataset / "a.xml").chmod(0)
    with pytest.raises(DatasetError, match=r"a\.xml: cannot be read"):
        fingerprint(dataset)


def test_a_single_file_and_a_missing_one(dataset: Path) -> None:
    assert fingerprint(dataset / "a.xml").files == 1
    with pytest.raises(DatasetError, match="does not exist"):
        fingerprint(dataset / "none")


def test_an_empty_folder_has_a_fingerprint(tmp_path: Path) -> None:
    assert fingerprint(tmp_path) == Fingerprint(fingerprint(tmp_path).images, fingerprint(tmp_path).images, 0, 0)
