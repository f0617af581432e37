"""What is wrong with a recipe, in words: where it was written, the key, the value, and what to write instead."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from flows.yaml_config import Recipe

WANTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "keys and values, such as {key: value}",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_type": "a whole number",
    "list_type": "a list, such as [a, b]",
    "path_type": "a path",
    "string_pattern_mismatch": "made of letters, digits, - and _, with neither - nor . in front",
    "string_type": "text (in quotes where it looks like a number)",
    "tuple_type": "a list, such as [a, b]",
}
"""What pydantic's kinds of error ask for, to somebody who writes YAML."""
MOST = 8  # known keys that are listed


def explain_mistakes(error: ValidationError, model: type[BaseModel], path: Path, recipe: Recipe) -> str:
    """A line for each key that is wrong: file and line or override, key, what it needs, and what stands there.

    Args:
        error: what pydantic found.
        model: what the recipe was checked against.
        path: the recipe, for what nobody wrote.
        recipe: its values, and where they come from.
    """
    by_key: dict[str, list[Mapping[str, Any]]] = {}
    for mistake in error.errors():
        by_key.setdefault(_key(mistake, recipe.values), []).append(mistake)
    return "\n".join(_line(key, mistakes, model, path, recipe) for key, mistakes in by_key.items())


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field may hold."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return [model for arg in get_args(annotation) for model in models_of(arg)]
    return []


def _key(mistake: Mapping[str, Any], values: Any) -> str:
    """The dotted key as far as it is written; what pydantic adds are the kinds that a value may have."""
    if mistake["type"] == "missing":
        return ".".join(map(str, mistake["loc"]))
    written = []
    for part in mistake["loc"]:
        try:
            values = values[part]
        except (LookupError, TypeError):
            break
        written.append(str(part))
    return ".".join(written)


def _line(key: str, mistakes: Sequence[Mapping[str, Any]], model: type[BaseModel], path: Path, recipe: Recipe) -> str:
    where = _written(key, path, recipe)
    first = mistakes[0]
    if first["type"] == "extra_forbidden":
        *around, last = key.split(".")
        known = list(_model_at(model, around).model_fields)
        near = difflib.get_close_matches(last, known, 1, cutoff=0.5)
        remedy = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
        return f"{where}: {key}: unknown key; {remedy}"
    if not key:  # keys that do not go together
        return f"{path}: {_own_words(first)}"
    if first["type"] == "missing":
        return f"{where}: {key}: missing; {first['msg'].lower()}"
    if first["type"] == "value_error":  # ours, which says what stands there
        return f"{where}: {key}: {_own_words(first)}"
    if first["type"] in ("model_type", "model_attributes_type"):
        known = list(_model_at(model, key.split(".")).model_fields)[:MOST]
        return f"{where}: {key}: should be keys of its own ({', '.join(known)}, ...), not {first['input']!r:.80}"
    wanted = " or ".join(dict.fromkeys(_wanted(mistake) for mistake in mistakes))
    return f"{where}: {key}: should be {wanted}, not {first['input']!r:.80}"


def _wanted(mistake: Mapping[str, Any]) -> str:
    return WANTED.get(mistake["type"], str(mistake["msg"]).removeprefix("Input should be "))


def _own_words(mistake: Mapping[str, Any]) -> str:
    return str(mistake["msg"]).removeprefix("Value error, ")


def _written(key: str, path: Path, recipe: Recipe) -> str:
    """Where a value, something in it, or what it is in was written."""
    origins = recipe.origins
    inside = next((origins[name].name for name in origins if name == key or name.startswith(f"{key}.")), None)
    parts = key.split(".")
    around = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    return inside or next((origins[name].name for name in around if name in origins), str(path))


def _model_at(model: type[BaseModel], loc: Sequence[str]) -> type[BaseModel]:
    for part in loc:
        field = model.model_fields.get(part)
        inner = models_of(field.annotation) if field else []
        if not inner:
            break
        model = inner[0]
    return model
