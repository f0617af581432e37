from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import DatasetError, ImageRecord, split_by_hash
from converters.splits import list_entries, read_list, split_of

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}
RECORDS = [ImageRecord(f"{i}.jpg", 1, 1) for i in range(2000)]


def test_shares_are_about_what_was_asked_for() -> None:
    sizes = {name: len(own) for name, own in split_by_hash(RECORDS, SHARES).items()}

    assert sum(sizes.values()) == 2000
    assert sizes == pytest.approx({"train": 1400, "val": 400, "test": 200}, rel=0.15)


def test_an_image_stays_where_it_is_whatever_comes_or_goes() -> None:
    before = {r.file_name: name for name, own in split_by_hash(RECORDS, SHARES).items() for r in own}
    after = {r.file_name: name for name, own in split_by_hash(RECORDS[::-3], SHARES).items() for r in own}

    assert after == {name: before[name] for name in after}


def test_the_split_of_a_name_never_changes() -> None:
    # Written down once: another answer would move images between train and val of existing runs.
    fixed = ["train", "train", "train", "val", "train", "train", "train", "train"]

    assert [split_of(f"{i}.jpg", SHARES) for i in range(8)] == fixed


@given(st.text(max_size=20))
def test_a_share_of_one_takes_everything_and_of_zero_nothing(name: str) -> None:
    assert split_of(name, {"none": 0, "all": 1, "more": 0}) == "all"


@pytest.mark.parametrize("shares", [{"a": 0.5}, {"a": 0.5, "b": 0.6}, {"a": -0.1, "b": 1.1}, {"a": float("nan")}, {}])
def test_shares_that_make_no_whole_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(DatasetError):
        split_by_hash(RECORDS, shares)


@pytest.mark.parametrize(
    ("line", "entries"),
    [
        ("000001", ["000001"]),
        ("000001 -1", ["000001 -1", "000001"]),
        ("000001  1  0", ["000001  1  0", "000001  1", "000001"]),
        ("a b.jpg", ["a b", "a b.jpg"]),
        ("'a b' 1", ["a b"]),
        ("img/a.jpg ann/a.xml", ["img/a.jpg ann/a.xml", "ann/a.xml"]),
        ("a.xml", ["a.xml"]),
    ],
)
def test_what_a_line_may_name(line: str, entries: list[str]) -> None:
    assert list_entries(line) == entries


def test_lists_of_any_making(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeff# x\r\n\r\na\r\n b \r\n".encode())
    (tmp_path / "g.txt").write_bytes("红灯".encode("gb18030"))

    assert read_list(tmp_path / "a.txt") == ["a", "b"]
    assert read_list(tmp_path / "g.txt") == ["红灯"]
    with pytest.raises(DatasetError, match=r"none\.txt: cannot read"):
        read_list(tmp_path / "none.txt")
