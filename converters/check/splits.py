"""Between splits and between images: leakage, copies, overlapping ids, empty splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converters.check.draft import DROP, Draft
from converters.check.images import paths_of
from converters.check.limits import Limits
from converters.check.probe import Look, equal_files, near_pairs

Place = tuple[Draft, int]  # a split and the row of an image in it


def check_splits(drafts: Sequence[Draft], train: Draft | None) -> None:
    """Rules about the splits as wholes."""
    for draft in drafts:
        if not draft.images:
            draft.hit("split-empty")
        elif not draft.annotations:
            draft.hit("split-no-objects")
    seen: dict[Any, Place] = {}
    order = sorted(drafts, key=lambda draft: draft is train)  # what is dropped on request is dropped from train
    for draft in order:
        for row, key in enumerate(_file_keys(draft)):
            home = seen.setdefault(key, (draft, row)) if key is not None else (draft, row)
            if home[0] is not draft:
                message = f"{draft.file_name(row)} is also in {home[0].name}"
                draft.hit("split-shared-image", row, message, repair=DROP, other=home[0].file_name(home[1]))
    _check_overlap(drafts)
    for draft in drafts:
        draft.settle()


def _file_keys(draft: Draft) -> list[str | None]:
    """What tells the file of an image from all others: its path where there is a folder, else its name."""
    names = draft.column("images", "file_name")
    return [
        (f"{draft.root / name}" if draft.root is not None else name) if isinstance(name, str) and name else None
        for name in names
    ]


def _check_overlap(drafts: Sequence[Draft]) -> None:
    for at, draft in enumerate(drafts):
        for other in drafts[:at]:
            for kind in ("images", "annotations"):
                shared = (set(draft.ids(kind)) & set(other.ids(kind))) - {None}
                if shared:
                    message = f"{len(shared)} {kind[:-1]} ids of {draft.name} are also in {other.name}"
                    draft.hit("split-ids-overlap", message=message, value=f"{kind} {len(shared)}")


def check_copies(drafts: Sequence[Draft], train: Draft | None, looks: Mapping[Path, Look], limits: Limits) -> None:
    """Equal and nearly equal pictures, in one split and in two."""
    places: defaultdict[Path, list[Place]] = defaultdict(list)
    for draft in sorted(drafts, key=lambda draft: draft is train):
        for row, path in enumerate(paths_of(draft)):
            if path is not None and path in looks:
                places[path].append((draft, row))
    here = {path: look for path, look in looks.items() if path in places}
    equal: set[frozenset[Path]] = set()
    for group in equal_files(here):
        equal |= {frozenset((a, b)) for a in group for b in group if a != b}
        members = sorted((place for path in group for place in places[path]), key=lambda place: place[0] is train)
        _report_copies(members, _TWICE, "the same bytes as")
    for first, second in near_pairs(here, limits.near_bits):
        if frozenset((first, second)) not in equal:
            members = sorted(places[first] + places[second], key=lambda place: place[0] is train)
            _report_copies(members, _NEARLY, "nearly the same picture as")
    for draft in drafts:
        draft.settle()


_TWICE = ("leak-bytes", "duplicate-bytes")
_NEARLY = ("leak-near", "near-duplicate")


def _report_copies(members: Sequence[Place], rules: tuple[str, str], words: str) -> None:
    home, first = members[0]
    for draft, row in members[1:]:
        across = draft is not home
        if not across and draft.file_name(row) == home.file_name(first):
            continue  # listed twice: file-name-duplicate
        other = f"{home.file_name(first)} of {home.name}" if across else home.file_name(first)
        message = f"{draft.file_name(row)} has {words} {other}"
        draft.hit(rules[0] if across else rules[1], row, message, repair=DROP, other=home.file_name(first))
        if rules is _TWICE and _labels(draft, row) != _labels(home, first):
            draft.hit("duplicate-labels", row, f"{draft.file_name(row)} and {other} differ in their annotations")


def _labels(draft: Draft, row: int) -> list[tuple[str, str]]:
    """The annotations of an image, as far as they say what is where."""
    index = _by_image(draft)
    return sorted((str(a.get("category_id")), str(a.get("bbox"))) for a in index.get(row, ()))


def _by_image(draft: Draft) -> dict[int, list[dict[str, Any]]]:
    found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for row, entry in zip(draft.image_rows().tolist(), draft.annotations, strict=True):
        found[row].append(entry)
    return found
