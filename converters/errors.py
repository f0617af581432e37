"""What a user can get wrong, said in one line: file, field, value, remedy.

ValueError
`-- AnnotationError      this file cannot be converted
`-- DatasetError         the files are fine, together they make no dataset
    `-- CategoriesError  ... for the categories that were asked for are not in it
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class AnnotationError(ValueError):
    """An annotation file that cannot be read.

    The fields go to ``super().__init__`` one by one and the message is made in ``__str__``, so that the error
    survives pickling between processes.

    Args:
        file: the annotation file as it was opened.
        problem: what is wrong, naming the field and the value found.
        remedy: what the reader of the message can do about it; may be empty.
        line: 1-based line in the file where that is known.
    """

    def __init__(self, file: Path | str, problem: str, remedy: str = "", line: int | None = None) -> None:
        super().__init__(str(file), problem, remedy, line)
        self.file, self.problem, self.remedy, self.line = str(file), problem, remedy, line

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.problem}" + (f". {self.remedy}" if self.remedy else "")


class DatasetError(ValueError):
    """Files that are readable one by one but make no dataset: no images, an unknown class, a missing split."""


class CategoriesError(DatasetError):
    """A dataset without a single object of the categories that were asked for."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names, in brackets to stand behind one that is none of them; empty if none is near."""
    by_lower = {own.lower(): own for own in known}
    near = get_close_matches(name.lower(), by_lower, 1)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""
