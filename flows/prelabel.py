"""The prelabel flow: the champion labels new pictures, a person corrects them, retrain takes them up."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from prefect import Task, flow
from pydantic import BaseModel

from flows.finetune import say
from flows.registry import Registry, RegistryError
from models.files import write_bytes
from models.training import Prediction, PredictOptions, predict
from models.training.images import UnreadableImageError
from models.training.predict import find_pictures
from models.training.writers import write_labelme
from models.zoo.detector import is_classifier

LEAST = 0.05  # scores below it say nothing about how sure the model is
ORDER = "order.csv"
LIST = "prelabelled_list.txt"  # a classifier's answers, as the format imagelist reads them


class Prelabelled(BaseModel):
    """What a prelabelling came to."""

    written: int  # labelme files, or a classifier's lines
    skipped: int  # pictures that have one already, which is never overwritten
    order: Path  # CSV: picture, uncertainty 0..1, findings or answer; the least certain first
    unreadable: tuple[str, ...] = ()  # what is wrong with pictures that cannot be read


@flow(name="prelabel")
def prelabel(registry: str, images: Path, folder: Path, min_score: float = 0.3, limit: int = 0) -> Prelabelled:
    """Let the champion label pictures that have no labels, and say in which order to look at them.

    A detector writes a labelme file for each picture, a classifier a line in `prelabelled_list.txt`.

    Args:
        registry: folder or fsspec URL of the registry of models.
        images: folder of pictures.
        folder: where the labels go, and `order.csv`; a file or line that is there already stays as it is.
        min_score: a detector's findings below it are left out of the files.
        limit: label only so many pictures, those with the highest uncertainty; 0: all.

    Raises:
        RegistryError: no champion yet.
        ValueError: no pictures.
    """
    book = Registry(registry)
    champion = book.champion()
    if champion is None:
        raise RegistryError(f"{registry}: no champion yet. `annotune retrain` makes the first")
    checkpoint = book.checkpoint(champion, folder / ".champion")
    if is_classifier(champion.detector):
        done = Task(classify, retries=1)(checkpoint, images, folder, limit)
        what = f"{done.written} new lines in {folder / LIST}"
    else:
        done = Task(label, retries=1)(checkpoint, images, folder, min_score, limit)
        what = f"{done.written} labelme files in {folder}"
    if done.unreadable:
        say(f"{len(done.unreadable)} pictures cannot be read: {'; '.join(done.unreadable[:5])}")
    say(f"{what}, {done.skipped} pictures had one; look at them as in {done.order}")
    return done


def label(checkpoint: Path, images: Path, folder: Path, min_score: float, limit: int) -> Prelabelled:
    """Write labelme files for the pictures in ``images`` that have none, and the order to look at them."""
    every = find_pictures(images)
    open_ones = [path for path in every if not _file_of(path, images, folder).exists()]
    rows: list[tuple[float, str, int]] = []

    def noting(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        for found in predictions:
            name = found.path.relative_to(images).as_posix()
            rows.append((uncertainty(found.scores.tolist()), name, int((found.scores >= min_score).sum())))
            yield _certain(found, min_score)

    bad: list[UnreadableImageError] = []
    options = PredictOptions(min_score=LEAST)
    seen = noting(predict(checkpoint, open_ones, options=options, unreadable=bad)) if open_ones else ()
    for _ in seen if limit else write_labelme(seen, folder, images):
        pass
    rows.sort(key=lambda row: (-row[0], row[1]))
    if limit:
        chosen = [images / name for _, name, _ in rows[:limit]]
        again = predict(checkpoint, chosen, options=PredictOptions(min_score=min_score)) if chosen else ()
        for _ in write_labelme(again, folder, images):
            pass
    order = _write_order(rows[:limit] if limit else rows, folder, "findings")
    return Prelabelled(
        written=min(limit or len(rows), len(rows)),
        skipped=len(every) - len(open_ones),
        order=order,
        unreadable=tuple(map(str, bad)),
    )


def classify(checkpoint: Path, images: Path, folder: Path, limit: int) -> Prelabelled:
    """Add a classifier's first answer on each picture that the list lacks, the least certain first.

    The uncertainty is what it leaves to all other classes.
    """
    every = find_pictures(images)
    listed = (folder / LIST).read_text() if (folder / LIST).exists() else ""
    known = {line.rpartition("\t")[0] or line.rpartition(" ")[0] for line in listed.splitlines()}
    open_ones = [path for path in every if path.relative_to(images).as_posix() not in known]
    bad: list[UnreadableImageError] = []
    answers = predict(checkpoint, open_ones, unreadable=bad) if open_ones else ()
    rows = [(1 - float(a.scores[0]), a.path.relative_to(images).as_posix(), a.names[0]) for a in answers]
    rows = sorted(rows, key=lambda row: (-row[0], row[1]))[: limit or None]
    order = _write_order(rows, folder, "answer")
    lines = [*listed.splitlines(), *(f"{name}\t{answer}" for _, name, answer in rows)]
    write_bytes(folder / LIST, "".join(f"{line}\n" for line in lines).encode())
    return Prelabelled(
        written=len(rows), skipped=len(every) - len(open_ones), order=order, unreadable=tuple(map(str, bad))
    )


def uncertainty(scores: Iterable[float]) -> float:
    """How much a person's look is worth, 0..1: that of the finding nearest to a coin's toss; 0 without findings."""
    return max((1 - abs(2 * score - 1) for score in scores), default=0.0)


def _certain(found: Prediction, min_score: float) -> Prediction:
    kept = found.scores >= min_score
    return replace(
        found,
        boxes=found.boxes[kept],
        labels=found.labels[kept],
        scores=found.scores[kept],
        names=tuple(name for name, keep in zip(found.names, kept.tolist(), strict=True) if keep),
        masks=None if found.masks is None else found.masks[kept],
    )


def _file_of(picture: Path, images: Path, folder: Path) -> Path:
    return folder / picture.relative_to(images).with_suffix(".json")


def _write_order(rows: Sequence[tuple[float, str, object]], folder: Path, what: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ORDER
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("picture", "uncertainty", what))
        writer.writerows((name, f"{value:.4f}", found) for value, name, found in rows)
    return path
