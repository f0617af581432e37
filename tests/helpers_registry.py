"""A registry's promotions, alone and in a crowd of processes."""

from __future__ import annotations

import multiprocessing
from contextlib import suppress
from pathlib import Path

from flows.registry import ChampionChangedError, Entry, Registry, Version


def model(folder: Path, content: str) -> Path:
    path = folder / "best.pt"
    path.write_text(content)
    return path


def promote(book: Registry, folder: Path, content: str, data: str = "d") -> Version:
    version = Version(detector="x", classes=("a",), scores={"AP": 0.5}, validation=("1.jpg",), data=data)
    while True:
        champion = book.champion()
        number = champion.number if champion else ""
        entry = Entry(event="promoted", champion=number, data=data, reasons=(f"because of {content}",))
        with suppress(ChampionChangedError):  # in a crowd: there is another to beat now
            return book.promote(model(folder, content), version, entry, {})


def promotes(url: str, folder: Path, who: str, times: int) -> None:
    """What each process of the crowd does."""
    (folder / who).mkdir()
    for number in range(times):
        promote(Registry(url), folder / who, f"{who}{number}")


def crowd_promotes(url: str, folder: Path, times: int = 6) -> None:
    """Two processes promote ``times`` models each: each has a version and a line, in one order, none is lost."""
    context = multiprocessing.get_context("spawn")
    crowd = [context.Process(target=promotes, args=(url, folder, who, times)) for who in "ab"]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join()
    assert [process.exitcode for process in crowd] == [0, 0]
    book = Registry(url)
    history = book.history()
    assert sorted(entry.reasons[0] for entry in history) == sorted(
        f"because of {who}{number}" for who in "ab" for number in range(times)
    )
    champions = {entry.champion for entry in history}
    assert len(champions) == 2 * times
    assert champions <= set(book.versions())  # one that was beaten while it was uploaded was never champion
    for entry in history:  # every version is whole and its own
        path = book.checkpoint(book.version(entry.champion), folder / "here")
        assert entry.reasons == (f"because of {path.read_text()}",)
    for who in "ab":  # each in the order in which it promoted
        own = [entry.reasons[0] for entry in history if f"of {who}" in entry.reasons[0]]
        assert own == [f"because of {who}{number}" for number in range(times)]
    assert book.champion() == book.version(history[-1].champion)
