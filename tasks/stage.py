"""A stage: a plain function with the key of what it would return.

Nothing here knows Prefect: stages run as plain calls from the command line, and as Prefect tasks from the flows.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from tasks.keys import content_key
from tasks.store import Product, make_product

P = ParamSpec("P")
T = TypeVar("T")
# Who else hears how a long stage comes along: called with its folder and an event. Set by whoever runs the stage.
HEARD_BY: ContextVar[Callable[[Path, dict[str, Any]], None]] = ContextVar("heard_by", default=lambda folder, line: None)


class Stage(Generic[P, T]):
    """A named step of the pipeline: ``stage(workspace, ...) -> result``.

    Args:
        run: ``(workspace, ...) -> result``; its name is the stage's name.
        code: dotted name of the module that does the work: the result is made anew when its source changes.
        cached: whether an earlier result for the same content may stand for a new one.
    """

    def __init__(self, run: Callable[Concatenate[Path, P], T], code: str, cached: bool = True) -> None:
        functools.update_wrapper(self, run)
        self.run, self.code, self.cached, self.name = run, code, cached, run.__name__

    def __call__(self, workspace: Path, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the work, or find it done."""
        return self.run(workspace, *args, **kwargs)

    def key(self, inputs: Mapping[str, Any]) -> str:
        """What the result depends on, given the call's arguments by name."""
        return content_key(self.name, self.code, inputs)


def as_text(said: str) -> str:
    """What comes from outside as text of a ``summary.md``: no markup, and no end of a table's cell."""
    return re.sub(r"([\\`*|<]|\](?=\())", r"\\\1", " ".join(said.split()))


def stage(code: str, *, cached: bool = True) -> Callable[[Callable[Concatenate[Path, P], T]], Stage[P, T]]:
    """Make a stage out of ``run(workspace, ...) -> result``."""
    return lambda run: Stage(run, code, cached)


def product(code: str, *, resume: bool = False) -> Callable[[Callable[Concatenate[Path, P], None]], Stage[P, Product]]:
    """Make a stage out of ``fill(folder, ...)``, which puts its files and a ``summary.md`` into an empty folder.

    The stage returns the finished folder as a :class:`Product`, from the store where it is there already.

    Args:
        code: as for :class:`Stage`.
        resume: a folder left by a killed or failed ``fill`` is given to the next one instead of being removed.
    """

    def wrap(fill: Callable[Concatenate[Path, P], None]) -> Stage[P, Product]:
        signature = inspect.signature(fill)

        def run(workspace: Path, /, *args: P.args, **kwargs: P.kwargs) -> Product:
            bound = signature.bind(workspace, *args, **kwargs)
            bound.apply_defaults()
            inputs = dict(list(bound.arguments.items())[1:])
            key = content_key(fill.__name__, code, inputs)
            return make_product(
                workspace, fill.__name__, key, lambda folder: fill(folder, *args, **kwargs), resume=resume
            )

        functools.update_wrapper(run, fill)
        first, *rest = signature.parameters.values()
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[first.replace(name="workspace"), *rest], return_annotation=Product
        )
        return Stage(run, code)

    return wrap
