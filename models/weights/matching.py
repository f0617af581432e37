"""Match the checkpoint's names with the model's: the user's renames, then the key map that fits best."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

from models.errors import WeightsError
from models.weights.keymaps import KEY_MAPS, KeyMap
from models.weights.plan import Shape
from models.weights.rows import SourceRows, class_count, group_count
from models.zoo.detector import Detector


@dataclass(frozen=True)
class Offer:
    """What the checkpoint holds for one tensor of the model: its key there, and its shape after transposing."""

    key: str
    shape: Shape
    transpose: bool = False
    rows: SourceRows | None = None


@dataclass(frozen=True)
class Target:
    """The model that a checkpoint is matched with: its entry in the zoo, its shapes by key, its class names."""

    detector: Detector
    shapes: Mapping[str, Shape]
    classes: tuple[str, ...]

    def takes(self, key: str, shape: Shape) -> bool:
        """Whether a tensor of ``shape`` could fill ``key``, whole or by rows."""
        mine = self.shapes[key]
        return mine == shape or (self.detector.rows_of(key) is not None and mine[1:] == shape[1:])


@dataclass(frozen=True)
class Named:
    """A tensor of the checkpoint: its key in the file and its shape."""

    key: str
    shape: Shape


def renamed_keys(tensors: Mapping[str, Tensor], rename: Sequence[tuple[str, str]]) -> dict[str, Named]:
    """The checkpoint's tensors under the names that the user's ``rename`` rules give them.

    Raises:
        WeightsError: a rule matches no key, or two tensors get one name.
    """
    names = {key: key for key in tensors}
    for pattern, replacement in rename:
        changed = {key: re.sub(pattern, replacement, name) for key, name in names.items()}
        if changed == names:
            raise WeightsError(
                f"the rename rule {pattern!r} changes no key of the checkpoint",
                f"Its keys look like {', '.join(list(names.values())[:3])}",
            )
        names = changed
    result: dict[str, Named] = {}
    for key, name in names.items():
        if name in result:
            raise WeightsError(f"the rename rules give {result[name].key} and {key} one name, {name}")
        result[name] = Named(key, tuple(tensors[key].shape))
    return result


def choose_key_map(
    names: Mapping[str, Named], target: Target, wanted: str
) -> tuple[KeyMap, dict[str, Offer], dict[str, str]]:
    """The key map whose names fit best, what it offers by model key, and the reason of every tensor it cannot place.

    Fit is the number of elements of the model that find a tensor of their shape (or of their rows). Of two maps that
    fit alike the first in the table wins.

    Raises:
        WeightsError: two tensors of the checkpoint want one place.
    """
    candidates = [KEY_MAPS[wanted]] if wanted != "auto" else [m for m in KEY_MAPS.values() if m.recognises(names)]
    most, everything = -1, sum(map(prod, target.shapes.values()))
    for candidate in candidates:
        offers, without_place = _offers(names, target.shapes, candidate)
        if (fit := _fit(offers, target)) > most:
            most, key_map, found, strays = fit, candidate, offers, without_place
        if most == everything:  # no other can fit better
            break
    return key_map, _without_collisions(found), strays


def _offers(
    names: Mapping[str, Named], shapes: Mapping[str, Shape], key_map: KeyMap
) -> tuple[dict[str, list[Offer]], dict[str, str]]:
    """Every offer by model key, and the reasons of the tensors without a place, by the checkpoint's key."""
    offers: dict[str, list[Offer]] = {}
    strays: dict[str, str] = {}
    namer = key_map.namer(names, shapes)
    for name, tensor in names.items():
        targets, rename = namer(name)
        if rename is None:
            strays[tensor.key] = f"the key map {key_map.name} knows no such name"
            continue
        if not targets:
            strays[tensor.key] = rename.reason
        shape = tensor.shape[::-1] if rename.transpose else tensor.shape
        for target in targets:
            if target in shapes:
                offers.setdefault(target, []).append(Offer(tensor.key, shape, rename.transpose, rename.rows))
            else:
                strays[tensor.key] = f"the model has no {target}"
    return offers, strays


def _fit(offers: Mapping[str, list[Offer]], target: Target) -> int:
    """How many elements of the model an offer could fill."""
    return sum(prod(target.shapes[key]) for key, (offer, *_) in offers.items() if target.takes(key, offer.shape))


def _without_collisions(offers: Mapping[str, list[Offer]]) -> dict[str, Offer]:
    """One offer for each tensor."""
    for key, (first, *others) in offers.items():
        if others:
            raise WeightsError(
                f"{first.key} and {others[0].key} of the checkpoint both want the place of {key}",
                "A rename rule can move one of them out of the way",
            )
    return {key: offer for key, (offer, *_) in offers.items()}


def class_counts(offers: Mapping[str, Offer], target: Target) -> set[int]:
    """The numbers of classes that the checkpoint's class-dependent tensors speak of; one number in a sound file."""
    counts = {_class_count(key, offer, target) for key, offer in offers.items()}
    return {count for count in counts if count is not None}


def _class_count(key: str, offer: Offer, target: Target) -> int | None:
    """The number of classes of one tensor; None where no class owns its rows or they follow another layout."""
    layout = target.detector.rows_of(key)
    if layout is None or not target.takes(key, offer.shape):
        return None
    groups = group_count(target.shapes[key][0], layout, len(target.classes))
    background = (offer.rows or SourceRows()).background_beside(layout)
    return class_count(offer.shape[0], groups, layout, background) if groups else None
