"""What a stage's result depends on, as one digest: the content of its inputs and the code that it runs.

Prefect's own policies hash a ``Path`` by its text and see only a task's own lines; both serve stale results. Here a
path never counts (its content does, as a hash that travels with it), and code counts as far as imports reach.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel

from tasks.store import FileRef, Product

OURS = ("converters", "models", "tasks", "flows")


def content_key(stage: str, module: str, inputs: Mapping[str, Any]) -> str:
    """Digest of a stage's inputs and of the code reachable from ``module``.

    Args:
        stage: name of the stage; equal inputs of two stages must not share a key.
        module: dotted name of the module that does the work.
        inputs: what the stage was called with, by name. Paths are left out: they say where, not what.

    Raises:
        TypeError: an input has no content that could be hashed the same way in every process.
    """
    said = orjson.dumps([stage, code_digest(module), _content(dict(inputs))], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(said).hexdigest()


def _content(value: Any) -> Any:  # noqa: PLR0911 - one line a kind
    """A JSON value that is equal for equal content, in every process."""
    match value:
        case FileRef():
            return value.sha256
        case Product():
            return value.digest
        case BaseModel() if hasattr(value, "binding"):  # it knows which of its fields decide the result
            return _content(value.binding())
        case BaseModel():
            return {name: _content(getattr(value, name)) for name in type(value).model_fields}
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return None
        case Mapping():
            return {str(key): _content(item) for key, item in value.items()}
        case list() | tuple():
            return [_content(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _content(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"{type(value).__name__} has no stable content to key on")


@cache
def code_digest(module: str) -> str:
    """Digest of the source of ``module`` and of every module of ours that it imports, directly or not.

    Templates and other data files beside a reached module count too. Computed once a process: what counts is the
    code that this process runs.
    """
    digest = hashlib.sha256()
    for path in sorted(_source_files(module)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _source_files(module: str) -> set[Path]:
    reached: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _source_of(name)
        if path is None or name in reached:
            continue
        reached[name] = path
        waiting += list(imports_of(path))
    data = {
        file
        for path in reached.values()
        for pattern in ("*", "templates/*")
        for file in path.parent.glob(pattern)
        if file.suffix in (".j2", ".html", ".css", ".js")
    }
    return data | set(reached.values())


def _source_of(module: str) -> Path | None:
    """The file of a module of ours; None for others' and for names that are none. Imports only the root."""
    root, *rest = module.split(".")
    spec = find_spec(root) if root in OURS else None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*rest)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names that a source file imports, lazy imports within functions included."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)  # may be a submodule
