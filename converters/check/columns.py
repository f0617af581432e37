"""Fields of many entries at once, as arrays, whatever JSON put into them.

The regular case (all integers, all lists of four numbers) is decided by C loops over the types; only a column that
holds something else is looked at value by value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

_NUMERAL = re.compile(r"[+-]?\d{1,15}")


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number; booleans are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_float(value: Any) -> float:
    """A number as float, NaN for anything else and for integers too large to be one."""
    if not is_number(value):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def as_integer(value: Any) -> int | None:
    """The integer that a value means (1, 1.0, "1", True), or None; beyond 2**53 nothing is sure and nothing is one."""
    if type(value) is int:
        return value if abs(value) < 2**53 else None
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else None
    if isinstance(value, str) and _NUMERAL.fullmatch(value.strip()):
        return int(value)
    return None


def integers(column: Sequence[Any]) -> list[int | None]:
    """The integers that a column means, None where a value means none."""
    if set(map(type, column)) <= {int} and (not column or (min(column) > -(2**53) and max(column) < 2**53)):
        return list(column)
    return [as_integer(value) for value in column]


def numbers(column: Sequence[Any], width: int) -> npt.NDArray[np.float64]:
    """Lists of ``width`` numbers as an array (N, width); a row of NaN where a value is not such a list."""
    try:
        if (
            set(map(type, column)) <= {list, tuple}
            and set(map(len, column)) <= {width}
            and set(map(type, chain.from_iterable(column))) <= {int, float}
        ):
            return np.array(column, np.float64).reshape(-1, width)
    except OverflowError:
        pass  # an integer beyond the floats: value by value
    rows = np.full((len(column), width), np.nan)
    for index, value in enumerate(column):
        if isinstance(value, list | tuple) and len(value) == width and all(map(is_number, value)):
            rows[index] = [as_float(part) for part in value]
    return rows


def scalars(column: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Numbers as an array (N,), NaN where a value is none."""
    try:
        if set(map(type, column)) <= {int, float}:
            return np.array(column, np.float64).reshape(-1)
    except OverflowError:
        pass
    return np.array([as_float(value) for value in column], np.float64)
