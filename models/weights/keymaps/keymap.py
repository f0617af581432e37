"""A key map as data: how another framework names our tensors, and what must be done to each on the way."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from models.weights.rows import SourceRows

Namer = Callable[[str], "tuple[list[str], Rename | None]"]


@dataclass(frozen=True)
class Rename:
    r"""One line of a key map.

    Attributes:
        pattern: full match on the checkpoint's key.
        to: our key, with ``\1`` for groups; None: the tensor is known and not needed, and ``reason`` says why.
        also: further places that take the same tensor, where the model has them.
        transpose: a Linear weight stored as [in, out].
        rows: how the rows of a head are laid out, where that differs from ours.
        beside: the line holds only for checkpoints that also have a key which this matches fully.
        reason: why a tensor without a place in our model is not needed.
    """

    pattern: str
    to: str | None
    also: tuple[str, ...] = ()
    transpose: bool = False
    rows: SourceRows | None = None
    beside: str = ""
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

    def recognises(self, keys: Collection[str]) -> bool:
        """Whether the checkpoint's keys look like this framework's."""
        return all(_any_matches(pattern, keys) for pattern in self.signature)

    def namer(self, keys: Collection[str], model_keys: Collection[str]) -> Namer:
        """The map for one checkpoint and one model.

        Args:
            keys: all keys of the checkpoint.
            model_keys: all keys of the model.

        Returns:
            A function from a checkpoint's key to our names for it and the line that gave them: those that the model
            has, else what the first matching line says; ``([], None)`` where no line matches.
        """
        lines = [line for line in self.renames if not line.beside or _any_matches(line.beside, keys)]
        compiled = [(re.compile(line.pattern), line) for line in lines]
        return lambda key: _first_hit(key, compiled, model_keys)


def _any_matches(pattern: str, keys: Collection[str]) -> bool:
    """Whether some key matches fully."""
    compiled = re.compile(pattern)
    return any(compiled.fullmatch(key) for key in keys)


def _first_hit(
    key: str, lines: Sequence[tuple[re.Pattern[str], Rename]], model_keys: Collection[str]
) -> tuple[list[str], Rename | None]:
    """The first line with a target that the model has, else the first that matches at all."""
    first: tuple[list[str], Rename | None] = ([], None)
    for pattern, line in lines:
        match = pattern.fullmatch(key)
        if match is None:
            continue
        targets = [match.expand(to) for to in (line.to, *line.also) if to is not None]
        present = [target for target in targets if target in model_keys]
        if present:
            return present, line
        if first[1] is None:
            first = targets[:1], line
    return first


# torchvision's SSD cuts VGG-16 after conv4_3: what follows is its first extra block.
_VGG = (
    ("backbone.features.0", "backbone.features.2"),
    ("backbone.features.5", "backbone.features.7"),
    ("backbone.features.10", "backbone.features.12", "backbone.features.14"),
    ("backbone.features.17", "backbone.features.19", "backbone.features.21"),
    ("backbone.extra.0.1", "backbone.extra.0.3", "backbone.extra.0.5"),
)


def vgg_stages(name: Callable[[int, int], str], weight: str = "weight", bias: str = "bias") -> Iterator[Rename]:
    """VGG-16's thirteen convolutions.

    Args:
        name: (block 0..4, convolution within it) -> pattern of the key up to the tensor's own name.
        weight: pattern of the weight's own name.
        bias: pattern of the bias's own name.
    """
    for block, convolutions in enumerate(_VGG):
        for number, target in enumerate(convolutions):
            yield Rename(name(block, number) + weight, f"{target}.weight")
            yield Rename(name(block, number) + bias, f"{target}.bias")
