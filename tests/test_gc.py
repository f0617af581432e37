"""What a collection of the store removes and leaves while runs begin, end and are under way; real locks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tasks.gc import collect, sizes, under_way
from tasks.store import Product, make_product


def make(workspace: Path, name: str) -> Product:
    return make_product(workspace, "convert", f"{name:0<24}", lambda folder: (folder / "f").write_text(name))


def names(workspace: Path) -> list[str]:
    return sorted(path.name.removeprefix("convert-")[0] for path in (workspace / "store").iterdir())


def use(workspace: Path, *products: str) -> None:
    """A run that makes or reuses these products and ends."""
    with under_way(workspace):
        for product in products:
            make(workspace, product)


def test_what_recent_runs_used_stays(tmp_path: Path) -> None:
    for products in ("ab", "bc", "cd"):
        use(tmp_path, *products)

    done = collect(tmp_path, 2)

    assert names(tmp_path) == ["b", "c", "d"]
    assert (len(done.removed), done.freed > 0, done.kept, done.active) == (1, True, 3, 0)
    assert collect(tmp_path, 2).removed == ()
    collect(tmp_path, 1)
    assert names(tmp_path) == ["c", "d"]


def test_a_cache_hit_is_a_use(tmp_path: Path) -> None:
    use(tmp_path, "a", "b")
    remembered = make(tmp_path, "a").model_dump_json()
    with under_way(tmp_path):
        Product.model_validate_json(remembered)  # as Prefect loads a result

    collect(tmp_path, 1)

    assert names(tmp_path) == ["a"]


def test_dry_tells_and_removes_nothing(tmp_path: Path) -> None:
    use(tmp_path, "a")
    use(tmp_path, "b")

    assert len(collect(tmp_path, 1, dry=True).removed) == 1
    assert names(tmp_path) == ["a", "b"]


def test_fewer_runs_than_are_kept_lose_nothing(tmp_path: Path) -> None:
    use(tmp_path, "a")

    assert collect(tmp_path, 5).removed == ()


def test_a_run_under_way_keeps_what_it_used_however_old_it_is(tmp_path: Path) -> None:
    use(tmp_path, "o")
    with under_way(tmp_path):
        make(tmp_path, "s")
        for products in ("b", "c"):
            use(tmp_path, products)

        done = collect(tmp_path, 1)

        assert names(tmp_path) == ["b", "c", "s"]
        assert done.active == 1
    collect(tmp_path, 1)
    assert names(tmp_path) == ["c"]


def test_a_product_that_is_being_made_is_left_alone_and_a_killed_one_goes(tmp_path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from tasks.gc import under_way
from tasks.store import make_product
def make(folder):
    (folder / "f").write_text("half")
    print("half", flush=True)
    sys.stdin.read()
with under_way(Path({str(tmp_path)!r})):
    make_product(Path({str(tmp_path)!r}), "convert", "h" * 24, make, resume=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        use(tmp_path, "a")
        assert collect(tmp_path, 1).active == 1
        assert len(list((tmp_path / "store").iterdir())) == 2
        process.kill()
    use(tmp_path, "b")

    assert collect(tmp_path, 1).active == 0

    assert names(tmp_path) == ["b"]


def test_a_product_under_its_lock_is_left_alone_whoever_holds_it(tmp_path: Path) -> None:
    use(tmp_path, "a")
    use(tmp_path, "b")

    with FileLock(tmp_path / f"locks/convert-{'a':0<24}.lock"):
        assert collect(tmp_path, 1).removed == ()

    assert names(tmp_path) == ["a", "b"]


def test_what_is_gone_is_made_again(tmp_path: Path) -> None:
    use(tmp_path, "a")
    use(tmp_path, "b")
    collect(tmp_path, 1)

    assert make(tmp_path, "a").path.is_dir()


def test_a_product_used_during_the_second_look_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(tmp_path, "a")
    use(tmp_path, "b")
    rename = Path.rename

    def used_meanwhile(self: Path, target: Path) -> Path:
        if target.suffix == ".trash":
            os.utime(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", used_meanwhile)

    assert collect(tmp_path, 1).removed == ()
    assert names(tmp_path) == ["a", "b"]


def test_sizes_by_stage(tmp_path: Path) -> None:
    use(tmp_path, "a", "b")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/w").write_bytes(b"12345")

    found = sizes(tmp_path)

    assert found["convert"][0] == 2
    assert found["weights"] == (1, 5)


@pytest.mark.parametrize(("runs", "message"), [(0, "at least 1"), (1, "no store there")])
def test_a_wrong_call_says_what_to_do(tmp_path: Path, runs: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect(tmp_path, runs)
