"""What a seeded defect is: how to break the clean dataset, and which rules then speak."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers_check import Coco

Splits = dict[str, Any]


@dataclass(frozen=True)
class Seed:
    """A way to break the clean dataset, and the rules that report it besides the one it is for."""

    breaks: Callable[[Splits, Path], None]
    also: frozenset[str] = frozenset()


SEEDS: dict[str, Seed] = {}


def seed(rule: str, *also: str) -> Callable[[Callable[[Splits, Path], None]], Callable[[Splits, Path], None]]:
    def add(function: Callable[[Splits, Path], None]) -> Callable[[Splits, Path], None]:
        assert rule not in SEEDS
        SEEDS[rule] = Seed(function, frozenset(also))
        return function

    return add


def first(splits: Splits) -> Coco:
    return splits["train"]["annotations"][0]


def image(splits: Splits, split: str = "train", at: int = 0) -> Coco:
    return splits[split]["images"][at]


def put(rule: str, key: str, value: Any, *also: str, of: Callable[[Splits], Coco] = first) -> None:
    """A seed that gives one field of one entry a value; ... removes it."""

    @seed(rule, *also)
    def breaks(splits: Splits, folder: Path) -> None:
        entry = of(splits)
        if value is ...:
            del entry[key]
        else:
            entry[key] = copy.deepcopy(value)


def to_file(splits: Splits, folder: Path, data: bytes) -> None:
    splits["train"] = folder / "train.json"
    splits["train"].write_bytes(data)
