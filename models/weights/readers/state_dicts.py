"""From a file's content to one state dict: which entry, without which prefixes, and what the rest says.

The order of preference for the entry is :data:`ENTRIES`; `docs/weights.md` has it for users.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from models.errors import WeightsError
from models.weights.readers.arrays import Array

# Averaged weights first, as timm and ultralytics do; mmengine's `ema_state_dict` last, since mmengine writes the
# averaged ones as `state_dict` and keeps the others there. "student", "teacher" and the like have to be named.
ENTRIES = (
    "state_dict_ema",
    "model_ema",
    "params_ema",
    "ema",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "blobs",
    "ema_state_dict",
)
PREFIXES = ("module.", "_orig_mod.", "model.")
_COMPILED = "_orig_mod."
_BOOKKEEPING = {"n_averaged"}  # torch.optim.swa_utils.AveragedModel
_MOST_JSON = 1 << 16  # characters of metadata kept of one entry


@dataclass(frozen=True)
class State:
    """The chosen state dict and how it was come by.

    Attributes:
        tensors: by key, prefixes stripped.
        entry: the path of the entry in the file, "" for the file itself.
        stripped: prefixes taken off every key, in that order.
        ignored: keys of the entry that hold no tensor.
        rest: the other entries of the file, as JSON, where they are small data.
    """

    tensors: dict[str, Tensor]
    entry: str
    stripped: tuple[str, ...]
    ignored: tuple[str, ...]
    rest: dict[str, Any]


def choose_state(path: Path, content: Mapping[str, Any], entry: str | None = None) -> State:
    """Find the state dict in ``content``: the entry named, else the first of :data:`ENTRIES`, else the file itself.

    Raises:
        WeightsError: no such entry, none that holds tensors, several that could be meant, two keys that become one.
    """
    chosen, found = _named(path, content, entry) if entry else _preferred(path, content)
    tensors = {str(key): tensor for key, value in found.items() if (tensor := tensor_of(value)) is not None}
    tensors = {key: tensor for key, tensor in tensors.items() if key not in _BOOKKEEPING or len(tensors) == 1}
    ignored = tuple(sorted(str(key) for key in found if str(key) not in tensors))
    stripped: list[str] = []
    while prefix := next((p for p in PREFIXES if tensors and all(key.startswith(p) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
        stripped.append(prefix)
    if any(_COMPILED in key for key in tensors):
        shorter = {key.replace(_COMPILED, ""): tensor for key, tensor in tensors.items()}
        if len(shorter) != len(tensors):
            raise WeightsError(f"{path}: two tensors have one name once {_COMPILED!r} is taken off")
        tensors = shorter
        stripped.append(_COMPILED)
    top = chosen.partition(".")[0]
    rest = {} if found is content else {str(key): value for key, value in content.items() if str(key) != top}
    return State(tensors, chosen, tuple(stripped), ignored, json_of(rest))


def tensor_of(value: Any) -> Tensor | None:
    """A tensor or a pickled array as a tensor; None for anything else and for tensors without data."""
    tensor = value.tensor if isinstance(value, Array) else value
    if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.is_sparse or tensor.is_quantized:
        return None
    return tensor.detach()


def _named(path: Path, content: Mapping[str, Any], entry: str) -> tuple[str, Mapping[str, Any]]:
    found: Any = content
    for part in entry.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if not _holds_tensors(found):
        raise WeightsError(f"{path}: no state dict under {entry!r}", f"It has {_listed(content)}")
    return entry, found


def _preferred(path: Path, content: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    for name in ENTRIES:
        if _holds_tensors(content.get(name)):
            inner = _preferred_inside(content[name])
            return (f"{name}.{inner}", content[name][inner]) if inner else (name, content[name])
    if _holds_tensors(content):
        return "", content
    others = sorted(str(key) for key, value in content.items() if _holds_tensors(value) and "optim" not in str(key))
    if len(others) == 1:
        return others[0], content[others[0]]
    if others:
        raise WeightsError(f"{path}: several entries hold tensors: {', '.join(others[:10])}", "Name one as `entry`")
    raise WeightsError(f"{path}: no tensors by name in it", f"It has {_listed(content)}")


def _preferred_inside(found: Mapping[str, Any]) -> str:
    """``{"ema": {"module": {...}}}``: one level more, where the entry itself has no tensors."""
    if any(tensor_of(value) is not None for value in found.values()):
        return ""
    return next((name for name in ENTRIES if _holds_tensors(found.get(name))), "")


def _holds_tensors(value: Any) -> bool:
    """Whether it maps names to tensors, or to something that does (one level)."""
    if not isinstance(value, Mapping):
        return False
    if any(isinstance(key, str) and tensor_of(inner) is not None for key, inner in value.items()):
        return True
    return any(
        isinstance(value.get(name), Mapping) and any(tensor_of(inner) is not None for inner in value[name].values())
        for name in ENTRIES
    )


def _listed(content: Mapping[str, Any]) -> str:
    names = sorted(str(key)[:60] for key in content)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") or "nothing"


def json_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are plain data, as JSON values: numbers, text, lists and mappings of them, all small.

    Optimizers, tensors of more than one number and objects are left out.
    """
    kept: dict[str, Any] = {}
    for key, value in values.items():
        budget = [_MOST_JSON]
        try:
            kept[str(key)] = _plain(value, budget, depth=0)
        except _NotPlainError:
            continue
    return kept


class _NotPlainError(Exception):
    pass


def _plain(value: Any, budget: list[int], depth: int) -> Any:
    """``value`` as JSON; every node and character costs, so that a nest of shared lists cannot unfold."""
    budget[0] -= 1 + (len(value) if isinstance(value, str | bytes) else 0)
    if budget[0] < 0 or depth > 20:
        raise _NotPlainError
    if isinstance(value, list | tuple):
        return [_plain(inner, budget, depth + 1) for inner in value]
    if isinstance(value, Mapping):
        return {str(key)[:200]: _plain(inner, budget, depth + 1) for key, inner in value.items()}
    if (tensor := tensor_of(value)) is not None and tensor.numel() == 1:
        value = tensor.item()
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    """What JSON writers take: no infinities, no integers of more than 64 bits, no halves of surrogate pairs."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > 63:
        return "a number of more than 64 bits"
    if value is None or isinstance(value, bool | int | float):
        return value
    raise _NotPlainError


_LITERAL = re.compile(r"\s*[\[{]")


def classes_in(metadata: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Class names in label order where the metadata has them.

    Places: ``meta.classes`` (ours), ``meta.dataset_meta.classes`` and ``meta.CLASSES`` (mmdetection 3 and 2),
    ``classes``, ``class_names``, ``names`` (a list, or a mapping from index to name; JSON text in safetensors).
    """
    meta = metadata.get("meta")
    places = [meta, meta.get("dataset_meta") if isinstance(meta, Mapping) else None, metadata]
    for place in places:
        for name in ("classes", "CLASSES", "class_names", "names"):
            if isinstance(place, Mapping) and (found := _names(place.get(name))):
                return found
    return None


def _names(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str) and _LITERAL.match(value):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, Mapping) and all(str(key).isdigit() for key in value):
        value = [value[key] for key in sorted(value, key=int)]
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    return None
