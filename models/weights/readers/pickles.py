"""A pickle reader that runs nothing: the opcodes are data, and a few constructors from a table make data of them.

It differs from ``pickle.Unpickler`` with a ``find_class`` in what it bounds: the memo and every length by the file,
the number of opcodes, and dictionary keys to plain values (a nest of shared tuples takes for ever to hash). Large byte
strings are kept once, as the buffers that the tensors then use.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from models.errors import WeightsError
from models.weights.readers.arrays import Array, Dtype, Opaque, as_bytes, frombuffer, reconstruct, scalar
from models.weights.readers.opcodes import opcodes

_MOST_OPCODES = 5_000_000  # the largest public checkpoints have about 100,000
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_CONSTANTS = _NUMBERS | _TEXTS | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_EMPTY: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_PLAIN = (str, bytes, int, float, bool, type(None))


class _ForbiddenError(ValueError):
    """The pickle asks for something that is not in the table."""


class _Known:
    """A name of the table, on the stack."""

    def __init__(self, name: str, make: Callable[..., Any]) -> None:
        self.name, self.make = name, make


def _encode(text: Any, encoding: Any = "latin-1", *_: Any) -> bytes | bytearray | memoryview:
    """``_codecs.encode(text, "latin1")``: how protocol 2 writes bytes."""
    if encoding not in {"latin1", "latin-1", b"latin1"}:
        raise _ForbiddenError(f"_codecs.encode to {str(encoding)[:20]!r}")
    return as_bytes(text)


def _lod_tensor(expression: Any, names: Any) -> Any:
    """Paddle writes a LoDTensor as ``eval("data", {"data": array})``: the array is taken, nothing is evaluated."""
    if expression not in {"data", b"data"} or not isinstance(names, dict) or "data" not in names:
        raise _ForbiddenError("builtins.eval")
    return names["data"]


NUMPY: dict[str, Callable[..., Any]] = {
    **{f"numpy.{core}.multiarray._reconstruct": reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": frombuffer for core in ("core", "_core")},
    "numpy.ndarray": Array,
    "numpy.dtype": Dtype,
}
TABLE: dict[str, Callable[..., Any]] = {
    **NUMPY,
    "_codecs.encode": _encode,
    "collections.OrderedDict": OrderedDict,
    **{f"{module}.tuple": tuple for module in ("builtins", "__builtin__")},
    # `bytes(10**12)` would be a terabyte of zeros: what is given must be bytes or text.
    **{f"{module}.bytes": lambda data=b"", *_: as_bytes(data) for module in ("builtins", "__builtin__")},
    **{f"{module}.bytearray": lambda data=b"", *_: as_bytes(data) for module in ("builtins", "__builtin__")},
    **{f"{module}.eval": _lod_tensor for module in ("builtins", "__builtin__")},
}


def read_pickle(path: Path, table: Mapping[str, Callable[..., Any]] = TABLE) -> Any:
    """Read the pickle in ``path``; arrays come as :class:`Array`.

    Raises:
        WeightsError: it asks for a class or function outside ``table``.
        ValueError, IndexError, ...: it is damaged (callers name the file).
    """
    with path.open("rb") as file:
        try:
            return run_pickle(file, table)
        except _ForbiddenError as error:
            raise WeightsError(
                f"{path}: its pickle asks for {error}, which a checkpoint does not need; nothing of it was run",
                "Save the arrays alone, or convert it to .safetensors where you trust it",
            ) from None


def run_pickle(file: BinaryIO, table: Mapping[str, Callable[..., Any]] | None) -> Any:
    """Run one pickle from the current position; with ``table`` None every name is taken and stands for nothing."""
    machine = _Machine(table)
    for number, (name, argument) in enumerate(opcodes(file)):
        if number > _MOST_OPCODES:
            raise ValueError(f"more than {_MOST_OPCODES:,} opcodes")
        machine.step(name, argument)
    return machine.stack.pop()


class _Machine:
    """The pickle machine: a stack, the stacks below the open marks, and the memo."""

    def __init__(self, table: Mapping[str, Callable[..., Any]] | None) -> None:
        self.table = table
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        if name in _CONSTANTS:
            self.stack.append(argument)
        elif name in _PUT:
            self.memo[int(argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in _GET:
            self.stack.append(self.memo[int(argument)])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif name not in {"PROTO", "FRAME", "STOP"}:
            handler = getattr(self, f"_{name.lower()}", None)
            if handler is None:
                raise _ForbiddenError(f"the opcode {name}")
            handler(argument)

    def _since_mark(self) -> list[Any]:
        found, self.stack = self.stack, self.below.pop()
        return found

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self, _: Any) -> None:
        found = tuple(self._since_mark())
        self.stack.append(found)

    def _tuple1(self, _: Any) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def _tuple2(self, _: Any) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def _tuple3(self, _: Any) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def _list(self, _: Any) -> None:
        found = self._since_mark()
        self.stack.append(found)

    def _append(self, _: Any) -> None:
        value = self.stack.pop()
        _of(self.stack[-1], list).append(value)

    def _appends(self, _: Any) -> None:
        found = self._since_mark()
        _of(self.stack[-1], list).extend(found)

    def _additems(self, _: Any) -> None:
        found = self._since_mark()
        _of(self.stack[-1], set).update(_key(value) for value in found)

    def _frozenset(self, _: Any) -> None:
        found = self._since_mark()
        self.stack.append(frozenset(_key(value) for value in found))

    def _dict(self, _: Any) -> None:
        found = self._since_mark()
        self.stack.append({_key(key): value for key, value in zip(found[::2], found[1::2], strict=True)})

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def _setitems(self, _: Any) -> None:
        found = self._since_mark()
        for key, value in zip(found[::2], found[1::2], strict=True):
            self._set(key, value)

    def _set(self, key: Any, value: Any) -> None:
        if isinstance(self.stack[-1], Opaque):
            return
        _of(self.stack[-1], dict)[_key(key)] = value

    def _global(self, argument: str) -> None:
        self._push_known(*argument.split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._push_known(str(_of(module, str)), str(_of(name, str)))

    def _push_known(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if self.table is None:
            self.stack.append(_Known(full, Opaque))
        elif full in self.table:
            self.stack.append(_Known(full, self.table[full]))
        else:
            raise _ForbiddenError(full[:200])

    def _reduce(self, _: Any) -> None:
        arguments, known = _of(self.stack.pop(), tuple), _of(self.stack.pop(), _Known)
        self.stack.append(known.make(*arguments))

    def _newobj(self, _: Any) -> None:
        self._reduce(None)

    def _build(self, _: Any) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, Array | Dtype):
            built.__setstate__(state)
        elif not isinstance(built, Opaque | OrderedDict):  # an OrderedDict's attributes are of no use here
            raise _ForbiddenError(f"the state of a {type(built).__name__}")

    def _binpersid(self, _: Any) -> None:
        if self.table is not None:
            raise _ForbiddenError("a persistent id")
        self.stack[-1] = Opaque()


def _of(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} where the pickle needs a {kind.__name__}")
    return value


def _key(value: Any) -> Any:
    """A dictionary key: a plain value or a flat tuple of them; anything else may take for ever to hash."""
    if isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(part, _PLAIN) for part in value)):
        return value
    raise ValueError(f"a {type(value).__name__} as a key")
