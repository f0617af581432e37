"""A key map as data: how another framework names our tensors, and what must be done to each on the way."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from models.weights.rows import SourceRows


@dataclass(frozen=True)
class Rename:
    r"""One line of a key map.

    Attributes:
        pattern: full match on the checkpoint's key.
        to: our key, with ``\1`` for groups; None: the tensor is known and not needed, and ``reason`` says why.
        transpose: a Linear weight stored as [in, out].
        rows: how the rows of a head are laid out, where that differs from ours.
        reason: why a tensor without a place in our model is not needed.
    """

    pattern: str
    to: str | None
    transpose: bool = False
    rows: SourceRows | None = None
    reason: str = ""


@dataclass(frozen=True)
class KeyMap:
    """How one framework names what our models hold.

    Attributes:
        name: what ``rules.key_map`` calls it.
        title: what a person calls it.
        signature: regular expressions (full match); the map applies where each matches some key of the checkpoint.
        renames: first hit wins, but a hit whose target the model has goes before one whose target it has not.
        published: number of classes -> the class list of the checkpoints that the framework publishes.
    """

    name: str
    title: str
    signature: Sequence[str]
    renames: Sequence[Rename]
    published: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def _compiled(self) -> list[tuple[re.Pattern[str], Rename]]:
        return [(re.compile(rename.pattern), rename) for rename in self.renames]

    def recognises(self, keys: Collection[str]) -> bool:
        """Whether the checkpoint's keys look like this framework's."""
        return all(any(re.fullmatch(pattern, key) for key in keys) for pattern in self.signature)

    def rename(self, key: str, model_keys: Collection[str]) -> tuple[str | None, Rename | None]:
        """Our name for a checkpoint's key and the line that gave it; ``(None, None)`` where no line matches."""
        first: tuple[str | None, Rename | None] = (None, None)
        for pattern, rename in self._compiled:
            match = pattern.fullmatch(key)
            if match is None:
                continue
            target = match.expand(rename.to) if rename.to is not None else None
            if target in model_keys:
                return target, rename
            if first[1] is None:
                first = target, rename
        return first
