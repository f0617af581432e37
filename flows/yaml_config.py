"""YAML recipes: ``_base_`` inheritance, ``-o a.b=value`` overrides, and a record of where each value came from.

Knows nothing of what the keys mean; ``config.py`` does. Relative paths belong to the file that writes them, as in a
compose file or a tsconfig, so a recipe works from any working directory.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1_000_000  # a recipe is a page; more is not a recipe
MAX_NODES = 20_000  # aliases that multiply themselves end here
PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
RECIPES = Path(__file__).with_name("recipes")
"""Those that come with Annotune; none of them names a file."""
BARE_NAME = re.compile(r"[\w-]+")
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class ConfigError(ValueError):
    """A recipe or an override that is wrong; the message names the file and line, the key, the value and the remedy."""


@dataclass(frozen=True)
class Origin:
    """Where a value was written."""

    name: str  # "configs/bccd.yaml:12", "annotune:fasterrcnn:3" or "-o train.epochs=3"
    folder: Path  # what relative paths written there are relative to


@dataclass
class Recipe:
    """Plain values, and for each leaf (by dotted key) where it came from."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe with its bases and put the overrides on top.

    ``_base_`` is one base or a list: a path relative to the file, or the bare name of a recipe that comes with
    Annotune. Later bases win over earlier ones, the file wins over its bases, mappings merge key by key and anything
    else replaces. A mapping with ``_delete_: true`` replaces as well.
    ``${NAME}`` and ``${NAME:-default}`` in strings are taken from the environment.

    Raises:
        ConfigError: not readable, not YAML, a base that includes itself or that nobody knows, an unset variable, a
            malformed override.
    """
    recipe = _read(path, ())
    for override in overrides:
        _override(recipe, override)
    return recipe


def _read(path: Path, including: tuple[Path, ...]) -> Recipe:
    resolved = path.resolve()
    if resolved in including:
        chain = " -> ".join(p.name for p in (*including, resolved))
        raise ConfigError(f"{path}: includes itself through _base_ ({chain})")
    own = _parse(path, including)
    bases = own.values.pop("_base_", [])
    written = own.origins.pop("_base_", None)
    if not isinstance(bases, str | list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: _base_ must be a path, a name, or a list of them, not {bases!r}")
    recipe = Recipe()
    for base in [bases] if isinstance(bases, str) else bases:
        file = _find(base, path.parent, written.name if written else str(path))
        _merge(recipe, _read(file, (*including, resolved)))
    _merge(recipe, own)
    return recipe


def _find(base: str, folder: Path, where: str) -> Path:
    """The file of a base: without suffix and slash it is the name of a recipe that comes with Annotune."""
    if not BARE_NAME.fullmatch(base):
        return folder / base
    there = {name: RECIPES / f"{name}.yaml" for name in sorted(file.stem for file in RECIPES.glob("*.yaml"))}
    if base not in there:
        near = difflib.get_close_matches(base, there, 1, cutoff=0.5)
        meant = f"did you mean {near[0]}? " if near else ""
        remedy = f"{meant}There are {', '.join(there)}; a file of your own is ./{base}"
        raise ConfigError(f"{where}: _base_: {base}: no recipe of that name comes with Annotune; {remedy}")
    return there[base]


def _shown(path: Path) -> str:
    return f"annotune:{path.stem}" if path.parent == RECIPES else str(path)


def _parse(path: Path, including: tuple[Path, ...]) -> Recipe:
    try:
        content = path.read_bytes()
    except OSError as error:
        named = f", which {including[-1]} names as its _base_" if including else ""
        problem = f"{path}{named}: cannot be read ({error.strerror})"
        raise ConfigError(f"{problem}. Give the path of a YAML recipe") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(content):,} bytes; a recipe has at most {MAX_BYTES:,}")
    loader = None
    try:
        loader = yaml.SafeLoader(content)
        node = loader.get_single_node()
        recipe = Recipe()
        if node is not None:
            if not isinstance(node, yaml.MappingNode):
                raise ConfigError(f"{path}: a recipe is a mapping of keys to values")
            recipe.values = _mapping(_Walk(path, loader, recipe.origins), node, "")
        return recipe
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        said = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise ConfigError(f"{where}: not YAML: {said}") from error
    except UnicodeError as error:
        raise ConfigError(f"{path}: not a readable recipe: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: lists or mappings too deep in each other, or an alias that holds itself") from error
    finally:
        if loader is not None:
            loader.dispose()


@dataclass
class _Walk:
    path: Path
    loader: yaml.SafeLoader
    origins: dict[str, Origin]
    nodes: int = 0
    flat: set[int] = field(default_factory=set)  # mappings whose << is replaced by what it stands for

    def where(self, node: yaml.Node) -> str:
        return f"{_shown(self.path)}:{node.start_mark.line + 1}"


def _value(walk: _Walk, node: yaml.Node, key: str) -> Any:
    walk.nodes += 1
    if walk.nodes > MAX_NODES:
        raise ConfigError(f"{walk.path}: more than {MAX_NODES:,} values; aliases that repeat themselves?")
    if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN_TAGS:
        raise ConfigError(f"{walk.where(node)}: not YAML that a recipe may hold: the tag {node.tag}. Remove it")
    if isinstance(node, yaml.MappingNode):
        return _mapping(walk, node, key)
    walk.origins[key] = Origin(walk.where(node), walk.path.parent.resolve())
    if isinstance(node, yaml.SequenceNode):
        return [_value(walk, item, f"{key}.{index}") for index, item in enumerate(node.value)]
    try:
        value = walk.loader.construct_object(node)
    except ValueError as error:  # 2026-02-30
        raise ConfigError(f"{walk.where(node)}: {key}: {node.value}: {error}. Put text in quotes") from error
    return _expand(value, f"{walk.where(node)}: {key}") if isinstance(value, str) else value


def _mapping(walk: _Walk, node: yaml.MappingNode, prefix: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if id(node) not in walk.flat:
        _refuse_twice(walk, node)
        walk.flat.add(id(node))
        walk.loader.flatten_mapping(node)  # <<: *anchor
    for key_node, value_node in node.value:
        key = walk.loader.construct_object(key_node)
        if not isinstance(key, str):
            raise ConfigError(f"{walk.where(key_node)}: the key {key!r} is not text; put it in quotes")
        result[key] = _value(walk, value_node, f"{prefix}{key}" if not prefix else f"{prefix}.{key}")
    return result


def _refuse_twice(walk: _Walk, node: yaml.MappingNode) -> None:
    """Refuse a key that a mapping has twice; one of << that is written again is no such thing."""
    seen: set[str] = set()
    for key_node, _ in node.value:
        if isinstance(key_node, yaml.ScalarNode) and key_node.value in seen:
            raise ConfigError(f"{walk.where(key_node)}: the key {key_node.value!r} stands twice")
        seen.add(str(key_node.value))


def _expand(text: str, where: str) -> str:
    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise ConfigError(f"{where}: the environment variable {match[1]} is not set. Set it, or write the value")
        return found

    return VARIABLE.sub(value, text)


def _merge(onto: Recipe, new: Recipe) -> None:
    _merge_values(onto, onto.values, new.values, new.origins, "")


def _merge_values(
    recipe: Recipe, old: dict[str, Any], new: Mapping[str, Any], origins: Mapping[str, Origin], prefix: str
) -> None:
    for key, value in new.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict):
            replaces = value.pop("_delete_", False)
            before = old.get(key)
            if replaces or not isinstance(before, dict):
                _forget(recipe, dotted)
                old[key] = {}
            _merge_values(recipe, old[key], value, origins, f"{dotted}.")
        else:
            _forget(recipe, dotted)
            old[key] = value
            recipe.origins |= {k: o for k, o in origins.items() if k == dotted or k.startswith(f"{dotted}.")}


def _forget(recipe: Recipe, dotted: str) -> None:
    for key in [k for k in recipe.origins if k == dotted or k.startswith(f"{dotted}.")]:
        del recipe.origins[key]


def _override(recipe: Recipe, text: str) -> None:
    key, equals, value_text = text.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"[\w:-]+(\.[\w:-]+)*", key):
        raise ConfigError(f"-o {text}: not of the form key.key=value, e.g. train.epochs=3")
    try:
        value = yaml.safe_load(value_text) if value_text.strip() else None
    except yaml.YAMLError as error:
        raise ConfigError(f"-o {text}: the value is not YAML: {getattr(error, 'problem', error)}") from error
    *parents, last = key.split(".")
    place = recipe.values
    for depth, parent in enumerate(parents, 1):
        if not isinstance(place.get(parent), dict):
            _forget(recipe, ".".join(parents[:depth]))
            place[parent] = {}
        place = place[parent]
    _forget(recipe, key)
    place[last] = _expand(value, f"-o {text}") if isinstance(value, str) else value
    for dotted in _leaves(place[last], key):
        recipe.origins[dotted] = Origin(f"-o {text}", Path.cwd())


def _leaves(value: Any, dotted: str) -> list[str]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _leaves(item, f"{dotted}.{key}")]
    return [dotted]
