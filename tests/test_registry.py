"""The registry holds versions that never change, one champion, and how it came to that; no run, no torch."""

import multiprocessing
import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers_registry import crowd_promotes, promote

from flows import registry as module
from flows.promotion import PromotionRules, Scores, decide
from flows.registry import ChampionChangedError, Entry, Registry, RegistryError

LOOSE = PromotionRules(min_truths=1)


def test_a_new_registry_has_no_champion(tmp_path: Path) -> None:
    book = Registry(str(tmp_path / "none"))

    assert book.champion() is None
    assert book.versions() == book.history() == ()


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_promote_keep_and_roll_back(tmp_path: Path, scheme: str) -> None:
    book = Registry(str(tmp_path / "models") if scheme == "file" else f"memory://{tmp_path.name}")
    first, second = promote(book, tmp_path, "one"), promote(book, tmp_path, "two")
    book.keep(Entry(event="kept", champion="0002", data="later", reasons=("worse",)))

    assert (first.number, second.number) == ("0001", "0002") == book.versions()
    assert book.champion() == second
    assert book.checkpoint(second, tmp_path / "here").read_text() == "two"
    assert book.rollback() == first
    assert book.champion() == first
    assert [entry.event for entry in book.history()] == ["promoted", "promoted", "kept", "rolled back"]
    assert book.history()[-1].data == "later"  # what brought it about is not tried again by itself
    assert book.rollback("0002") == second


def test_there_is_nothing_before_the_first(tmp_path: Path) -> None:
    book = Registry(str(tmp_path))
    promote(book, tmp_path, "one")

    with pytest.raises(RegistryError, match="no other champion"):
        book.rollback()
    with pytest.raises(RegistryError, match=r"no version 0007; there are: 0001"):
        book.rollback("0007")


@pytest.mark.parametrize("url", ["s3://bucket/models", "nowhere://models"])
def test_a_registry_that_nothing_here_can_open_says_what_would(url: str) -> None:
    if url.startswith("s3") and find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(RegistryError, match=r"annotune\[s3\]"):
        Registry(url)


def test_no_registry_is_not_the_working_directory() -> None:
    with pytest.raises(RegistryError, match=r"registry: empty\. Give a folder or URL"):
        Registry("")


def test_an_altered_model_is_refused(tmp_path: Path) -> None:
    book = Registry(str(tmp_path))
    version = promote(book, tmp_path, "one")
    (tmp_path / "versions/0001/model.pt").write_text("two")

    with pytest.raises(RegistryError, match="altered since it was promoted"):
        book.checkpoint(version, tmp_path)


def test_a_champion_that_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    book = Registry(str(tmp_path))
    promote(book, tmp_path, "one")
    promote(book, tmp_path, "two")

    with pytest.raises(ChampionChangedError, match="changed from 0001 to 0002"):
        book.keep(Entry(event="kept", champion="0001", data="d", reasons=()))
    late = Entry(event="promoted", champion="0001", data="d", reasons=("better than 0001",))
    with pytest.raises(ChampionChangedError, match="changed from 0001 to 0002"):
        book.promote(tmp_path / "best.pt", book.version("0001"), late, {})
    assert book.versions() == ("0001", "0002")


def _promote_and_die(folder: Path, at: int) -> None:
    writes = iter(range(99))
    write, put = Registry._write, Registry._put

    def dying(real):  # type: ignore[no-untyped-def]
        def call(self, path, content):  # type: ignore[no-untyped-def]
            if next(writes) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, path, content)

        return call

    Registry._write, Registry._put = dying(write), dying(put)  # type: ignore[method-assign]
    promote(Registry(str(folder / "models")), folder, "two")


@pytest.mark.parametrize("at", range(4))
def test_killed_at_any_write_the_champion_is_one_of_the_two_and_the_next_try_ends_the_same(
    tmp_path: Path, at: int
) -> None:
    book = Registry(str(tmp_path / "models"))
    promote(book, tmp_path, "one")
    process = multiprocessing.get_context("spawn").Process(target=_promote_and_die, args=(tmp_path, at))
    process.start()
    process.join()

    assert process.exitcode == (-signal.SIGKILL if at < 3 else 0)
    if at < 3:  # model, manifest, pointer
        champion = book.champion()
        assert champion is not None
        assert book.checkpoint(champion, tmp_path).read_text() == "one"
        promote(book, tmp_path, "two")
    assert book.champion() == book.version("0002")
    assert book.versions() == ("0001", "0002")
    assert len(book.history()) == 2


def _die_before_renaming(folder: Path) -> None:
    Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, method-assign]
    Registry(str(folder / "models")).rollback()


def test_killed_within_the_write_of_the_pointer_the_old_one_is_whole(tmp_path: Path) -> None:
    book = Registry(str(tmp_path / "models"))
    promote(book, tmp_path, "one")
    promote(book, tmp_path, "two")
    before = sorted(path.name for path in (tmp_path / "models/history").iterdir())
    process = multiprocessing.get_context("spawn").Process(target=_die_before_renaming, args=(tmp_path,))
    process.start()
    process.join()

    assert process.exitcode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "models/history").glob("[!.]*")) == before
    assert book.rollback().number == "0001"


def test_two_processes_that_promote_at_once_are_one_after_the_other(tmp_path: Path) -> None:
    crowd_promotes(str(tmp_path / "models"), tmp_path, times=20)


def test_the_module_knows_neither_prefect_nor_torch() -> None:
    assert not {"prefect", "torch"} & {name.split(".")[0] for name in vars(module)}


@pytest.mark.parametrize(
    ("champion", "challenger", "rules", "promoted", "reason"),
    [
        ({"a": 0.5}, {"a": 0.6}, LOOSE, True, "AP 0.5000 -> 0.6000"),
        ({"a": 0.5}, {"a": 0.5}, LOOSE, False, "not better by the margin"),
        ({"a": 0.5}, {"a": 0.52}, LOOSE.model_copy(update={"margin": 0.05}), False, "not better by the margin"),
        ({"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.4}, LOOSE, False, "b fell from 0.5000 to 0.4000"),
        ({"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.46}, LOOSE, True, "AP 0.5000"),
        ({"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.4}, PromotionRules(min_truths=10), True, "AP"),
        ({"a": 0.5}, {"a": 0.5, "b": 0.1}, LOOSE, True, "AP 0.2500 -> 0.3000"),  # b is new
        ({"a": 0.5, "gone": 0.9}, {"a": 0.6}, LOOSE, True, "AP 0.5000 -> 0.6000"),
    ],
)
def test_promotion(
    champion: dict[str, float], challenger: dict[str, float], rules: PromotionRules, promoted: bool, reason: str
) -> None:
    before, after = (Scores(aps, dict.fromkeys(aps, 5)) for aps in (champion, challenger))

    decision = decide(before, after, rules)

    assert decision.promote is promoted
    assert any(reason in line for line in decision.reasons)
