"""The working copy of one split, and the ledger of what was found in all of them.

Nothing of the input is ever written to: an entry is copied when its first field changes, and a list is rebuilt when
an entry is dropped.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from converters.check.columns import as_integer, integers, numbers
from converters.check.report import Change, Problem
from converters.check.rules import RULES
from converters.masks import MAX_PIXELS

Entry = dict[str, Any]
Floats = npt.NDArray[np.float64]
Repair = Mapping[str, Any] | Callable[[], "Mapping[str, Any] | None"] | None

ABSENT: Final = object()
"""As a new value: the key goes."""

DROP: Final[Mapping[str, Any]] = {"": "drop"}
"""As a repair: the entry goes."""


@dataclass
class Ledger:
    """What was found and changed so far, under one policy."""

    policy: Mapping[str, str]
    keep: int = 100  # examples kept per rule; counts stay exact
    problems: defaultdict[str, list[Problem]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # (rule, severity or action)
    changes: list[Change] = field(default_factory=list)

    def active(self, *rules: str) -> bool:
        """Whether any of these rules looks at all."""
        return any(self.policy[rule] != "off" for rule in rules)

    def room(self, rule: str) -> bool:
        """Whether another example of a rule would be kept."""
        return len(self.problems[rule]) < self.keep

    def severity(self, rule: str) -> str:
        """How bad a finding is: as the policy says, else as the rule says."""
        named = {"error": "error", "warn": "warning", "info": "info"}
        return named.get(self.policy[rule], RULES[rule].severity)


class Draft:
    """One split under check: its entries, its place on disk, and how to report and repair them."""

    def __init__(self, name: str, source: Mapping[str, Any], ledger: Ledger, file: str = "", root: Path | None = None):
        self.name, self.source, self.ledger, self.file, self.root = name, source, ledger, file or name, root
        self.top: dict[str, Any] = {}  # changed keys of the top level
        self.lists: dict[str, list[Entry]] = {}
        self.strays: dict[str, list[Any]] = {}  # entries that are no objects: kept unless dropped
        for kind in ("images", "annotations", "categories"):
            entries = source.get(kind)
            entries = entries if isinstance(entries, list | tuple) else ()
            self.lists[kind] = [entry for entry in entries if isinstance(entry, dict)]
            self.strays[kind] = [entry for entry in entries if not isinstance(entry, dict)]
        self.total = {kind: len(entries) for kind, entries in self.lists.items()}
        self.dropped: dict[str, dict[int, str]] = {kind: {} for kind in self.lists}  # index -> rule
        self.touched: set[str] = set()
        self.versions = dict.fromkeys(self.lists, 0)  # go up with every change
        self._cache: dict[str, tuple[tuple[int, ...], Any]] = {}
        self.readable = True  # false where there is no JSON object at all
        self.boxes_mean_something = True  # false once they look like corners or fractions

    @property
    def images(self) -> list[Entry]:
        """The images that are objects."""
        return self.lists["images"]

    @property
    def annotations(self) -> list[Entry]:
        """The annotations that are objects."""
        return self.lists["annotations"]

    @property
    def categories(self) -> list[Entry]:
        """The categories that are objects."""
        return self.lists["categories"]

    # -- reading ------------------------------------------------------------------------------------------------

    def _once(self, name: str, make: Callable[[], Any], *kinds: str) -> Any:
        """What ``make`` returns, made again only after one of the lists has changed. Callers do not write to it."""
        version = tuple(self.versions[kind] for kind in kinds)
        known = self._cache.get(name)
        if known is None or known[0] != version:
            known = self._cache[name] = (version, make())
        return known[1]

    def column(self, kind: str, key: str) -> list[Any]:
        """One field of every entry, None where it is absent."""
        return [entry.get(key) for entry in self.lists[kind]]

    def ids(self, kind: str, key: str = "id") -> list[int | None]:
        """One id field of every entry as integers, None where it is none; text and floats count by their value."""
        made: list[int | None] = self._once(f"{kind} {key}", lambda: integers(self.column(kind, key)), kind)
        return made

    def boxes(self) -> Floats:
        """Boxes of the annotations, (N, 4) pixel xywh; a row of NaN where the box cannot be used."""
        made: Floats = self._once("boxes", self._boxes, "annotations")
        return made

    def _boxes(self) -> Floats:
        boxes = numbers(self.column("annotations", "bbox"), 4)
        boxes[~np.isfinite(boxes).all(axis=1)] = np.nan
        return boxes

    def image_rows(self) -> npt.NDArray[np.int64]:
        """For each annotation the index of its image, -1 where there is none; (N,)."""
        made: npt.NDArray[np.int64] = self._once("image_rows", self._image_rows, "annotations", "images")
        return made

    def _image_rows(self) -> npt.NDArray[np.int64]:
        rows = self._image_index()
        return np.array([rows.get(i, -1) for i in self.ids("annotations", "image_id")], np.int64)

    def _image_index(self) -> dict[int | None, int]:
        """Row by image id, the first where an id occurs twice."""

        def make() -> dict[int | None, int]:
            rows = {image_id: row for row, image_id in reversed(list(enumerate(self.ids("images"))))}
            rows.pop(None, None)
            return rows

        made: dict[int | None, int] = self._once("image_index", make, "images")
        return made

    def image_sizes(self) -> Floats:
        """Width and height of the images, (N, 2) pixels; a row of NaN where no image has such a size."""
        made: Floats = self._once("image_sizes", self._image_sizes, "images")
        return made

    def _image_sizes(self) -> Floats:
        pairs = zip(self.column("images", "width"), self.column("images", "height"), strict=True)
        sizes = numbers([(as_integer(w), as_integer(h)) for w, h in pairs], 2)
        sizes[~((sizes > 0).all(axis=1) & (sizes.prod(axis=1) < MAX_PIXELS))] = np.nan
        return sizes

    def canvas(self) -> Floats:
        """For each annotation the size of its image, (N, 2) pixels, NaN where unknown."""
        made: Floats = self._once("canvas", self._canvas, "annotations", "images")
        return made

    def _canvas(self) -> Floats:
        return np.vstack([self.image_sizes(), [[np.nan, np.nan]]])[self.image_rows()]

    def file_name(self, row: int) -> str:
        """The file_name of an image for messages; the annotation file's where there is none."""
        name = self.images[row].get("file_name") if 0 <= row < len(self.images) else None
        return name if isinstance(name, str) and name else self.file

    # -- reporting and repairing --------------------------------------------------------------------------------

    def hit(
        self,
        rule: str,
        index: int = -1,
        message: str = "",
        value: Any = "",
        repair: Repair = None,
        kind: str = "",
        other: str = "",
        row: int | None = None,
        example: int = -1,
    ) -> str:
        """Report a finding and do what the policy says; return off, reported, fixed or dropped.

        Args:
            rule: the rule's id.
            index: which entry of its list; -1 where the whole split is meant.
            message: what is wrong here; the rule's own words where empty.
            value: what was found.
            repair: new values by key (:data:`ABSENT` removes one), :data:`DROP`, or a function that returns these or
                None where nothing can be done.
            kind: images, annotations or categories, where the rule does not say.
            other: a second file that is concerned.
            row: the index of the annotation's image, where the caller knows it.
            example: the annotation that shows what is wrong with a whole split.
        """
        policy = self.ledger.policy[rule]
        if policy == "off":
            return "off"
        kind = kind or {"image": "images", "annotation": "annotations", "category": "categories"}.get(
            RULES[rule].level, ""
        )
        if index >= 0 and index in self.dropped[kind]:
            return "dropped"
        action = self._repair(rule, policy, kind, index, repair)
        self._record(rule, kind, index, message, value, action, other, row, example)
        return action

    def _repair(self, rule: str, policy: str, kind: str, index: int, repair: Repair) -> str:
        if policy == "drop" and index >= 0:
            repair = DROP
        elif policy not in {"fix", "drop"}:
            return "reported"
        found = repair() if callable(repair) else repair
        if found is None:
            return "reported"
        if found is DROP:
            self.drop(kind, index, rule)
            return "dropped"
        self.set(kind, index, found, rule)
        return "fixed"

    def _record(
        self,
        rule: str,
        kind: str,
        index: int,
        message: str,
        value: Any,
        action: str,
        other: str,
        row: int | None,
        example: int,
    ) -> None:
        """Count a finding, and keep it while its rule has few."""
        severity = self.ledger.severity(rule)
        self.ledger.counts[rule, severity if action == "reported" else action] += 1
        if not self.ledger.room(rule):
            return
        entry = self.lists[kind][index] if index >= 0 else {}
        image, box = self._place(kind, index, entry, row)
        if example >= 0:
            image, box = self._place("annotations", example, self.annotations[example], None)
        self.ledger.problems[rule].append(
            Problem(
                rule=rule,
                severity=severity,
                split=self.name,
                file=self.file_name(image),
                image_id=as_integer(self.images[image].get("id")) if image >= 0 else None,
                annotation_id=as_integer(entry.get("id")) if kind == "annotations" else None,
                value=shorten(value),
                message=message or RULES[rule].what,
                remedy=RULES[rule].remedy,
                action=action,
                box=box,
                other=other,
            )
        )

    def _place(self, kind: str, index: int, entry: Entry, row: int | None) -> tuple[int, Any]:
        """Row of the image concerned (-1: none) and the box to draw."""
        if kind == "images":
            return index, None
        if kind != "annotations" or index < 0:
            return -1, None
        if row is None:
            row = self._image_index().get(as_integer(entry.get("image_id")), -1)
        box = numbers([entry.get("bbox")], 4)[0]
        return row, tuple(box.tolist()) if np.isfinite(box).all() else None

    def set(self, kind: str, index: int, values: Mapping[str, Any], rule: str) -> None:
        """Give an entry (or, with no kind, the top level) new values and log them."""
        if not kind:
            before = {key: shorten(self.source[key]) for key in values if key in self.source}
            self.top.update(values)
            self.ledger.changes.append(Change(rule, self.name, "file", None, before, dict.fromkeys(values, "written")))
            return
        old = self.lists[kind][index]
        new = {key: value for key, value in (old | dict(values)).items() if value is not ABSENT}
        self.lists[kind][index] = new
        self.touched.add(kind)
        self.versions[kind] += 1
        before = {key: old[key] for key in values if key in old}
        after = {key: new[key] for key in values if key in new}
        self.ledger.changes.append(Change(rule, self.name, kind, old.get("id"), before, after))

    def drop(self, kind: str, index: int, rule: str) -> None:
        """Mark an entry to be left out; :meth:`settle` does it, so that indices stay valid meanwhile."""
        self.dropped[kind][index] = rule

    def settle(self) -> None:
        """Take out what was dropped, and the annotations of dropped images with it."""
        gone = self.dropped["images"]
        if gone:
            ids = self.ids("images")
            living = {image_id for row, image_id in enumerate(ids) if row not in gone}
            cause = {ids[row]: rule for row, rule in gone.items() if ids[row] is not None and ids[row] not in living}
            for index, image_id in enumerate(self.ids("annotations", "image_id")):
                if image_id in cause:
                    self.dropped["annotations"].setdefault(index, cause[image_id])
        for kind, dropped in self.dropped.items():
            for index, rule in sorted(dropped.items()):
                entry = self.lists[kind][index]
                self.ledger.changes.append(Change(rule, self.name, kind, entry.get("id"), entry, None))
            if dropped:
                self.lists[kind] = [entry for i, entry in enumerate(self.lists[kind]) if i not in dropped]
                self.touched.add(kind)
                self.versions[kind] += 1
                dropped.clear()

    def result(self) -> dict[str, Any]:
        """The split as it stands now: the source object itself where nothing changed."""
        if not self.touched and not self.top:
            return self.source  # type: ignore[return-value]
        lists = {kind: [*self.lists[kind], *self.strays[kind]] for kind in sorted(self.touched)}
        return {**self.source, **self.top, **lists}


def shorten(value: Any, limit: int = 80) -> str:
    """A value as text of at most ``limit`` characters."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, Sequence | Mapping) and len(value) > 40:
        text = f"{type(value).__name__} of {len(value)}"
    else:
        text = repr(value.tolist() if isinstance(value, np.ndarray) else value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def groups(keys: Sequence[Any]) -> dict[Any, list[int]]:
    """Indices by key, for keys that occur more than once; None is no key."""
    counts = Counter(keys)
    found: dict[Any, list[int]] = {key: [] for key, count in counts.items() if count > 1 and key is not None}
    for index, key in enumerate(keys if found else ()):
        if key in found:
            found[key].append(index)
    return found


def flatten(nested: Iterable[Iterable[Any]]) -> chain[Any]:
    """The values of several lists, one after another."""
    return chain.from_iterable(nested)
