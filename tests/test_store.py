import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.store import FileRef, Product, digest_of, make_product


def fill(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "a.txt").write_text("one")
    (folder / "sub" / "b.txt").write_text("two")


def never(folder: Path) -> None:
    raise AssertionError(f"made again in {folder}")


def test_a_product_is_made_once(tmp_path: Path) -> None:
    first = make_product(tmp_path, "convert", "k" * 64, fill)

    assert make_product(tmp_path, "convert", "k" * 64, never) == first
    assert first.file("sub/b.txt").path.read_text() == "two"


def test_the_digest_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    products = [make_product(tmp_path / place, "convert", place * 64, fill) for place in "xy"]

    assert products[0].digest == products[1].digest


def test_nothing_half_made_has_a_final_name(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as full:
        make_product(tmp_path, "convert", "k" * 64, fail)
    assert full.value.filename == str(tmp_path), "which disk is full"

    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize("harm", ["delete", "alter", "truncate", "same size"])
def test_a_damaged_product_is_noticed_and_made_again(tmp_path: Path, harm: str) -> None:
    good = make_product(tmp_path, "convert", "k" * 64, fill)
    victim = good.path / "a.txt"
    match harm:
        case "delete":
            victim.unlink()
        case "alter":
            victim.write_text("longer than before")
        case "truncate":
            victim.write_text("")
        case "same size":
            victim.write_text("eno")
    assert digest_of(good.path) is None
    with pytest.raises(ValidationError, match="gone or altered"):
        Product.model_validate_json(good.model_dump_json())

    again = make_product(tmp_path, "convert", "k" * 64, fill)

    assert again.digest == good.digest
    assert victim.read_text() == "one"


def test_a_touched_product_is_still_whole(tmp_path: Path) -> None:
    good = make_product(tmp_path, "convert", "k" * 64, fill)
    os.utime(good.path / "a.txt", (1, 1))

    assert make_product(tmp_path, "convert", "k" * 64, never) == good


def test_a_moved_workspace_keeps_its_products(tmp_path: Path) -> None:
    make_product(tmp_path / "here", "convert", "k" * 64, fill)
    (tmp_path / "here").rename(tmp_path / "there")

    assert make_product(tmp_path / "there", "convert", "k" * 64, never).file("a.txt").size == 3


def test_a_file_that_is_gone_does_not_load(tmp_path: Path) -> None:
    ref = make_product(tmp_path, "convert", "k" * 64, fill).file("a.txt")
    ref.path.unlink()

    with pytest.raises(ValidationError, match="gone"):
        FileRef.model_validate_json(ref.model_dump_json())


MAKER = """
import os, signal, sys
from pathlib import Path
from tasks.store import make_product

workspace, die = Path(sys.argv[1]), sys.argv[2] == "die"

def make(folder):
    with (workspace / "made").open("a") as file:
        file.write("x")
    (folder / "step1").write_text("done")
    if die:
        os.kill(os.getpid(), signal.SIGKILL)

make_product(workspace, "train", "k" * 64, make, resume=True)
"""


def maker(workspace: Path, how: str) -> subprocess.Popen[bytes]:
    """Another process that makes the product. A fork of this one would inherit the locks of its many threads."""
    return subprocess.Popen([sys.executable, "-c", MAKER, str(workspace), how])


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    processes = [maker(tmp_path, "whole") for _ in range(4)]

    assert [process.wait(60) for process in processes] == [0] * 4
    assert (tmp_path / "made").read_text() == "x"


def test_a_killed_maker_leaves_its_work_to_the_next_and_holds_no_lock(tmp_path: Path) -> None:
    assert maker(tmp_path, "die").wait(60) == -signal.SIGKILL
    found = []

    def go_on(folder: Path) -> None:
        found.extend(path.name for path in folder.iterdir())

    make_product(tmp_path, "train", "k" * 64, go_on, resume=True)

    assert found == ["step1"]
