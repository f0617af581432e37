"""What all commands share on a terminal: arguments, the console, and a quiet Prefect."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Recipe = Annotated[
    Path, typer.Argument(metavar="CONFIG.yaml", help="The recipe; `_base_: fasterrcnn` and a source are one.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", "--set", metavar="KEY=VALUE", help="Set a value, e.g. `-o train.epochs=3`. Repeatable."),
]
PrefectFile = Annotated[
    Path | None, typer.Option(help="The deployments.", show_default="those that come with Annotune")
]


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"annotune {version('annotune')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", help="Print the version.", callback=_tell_version, is_eager=True, show_default=False),
]
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def runs_table(figures: Sequence[str], last: str) -> Table:
    """A table of runs: name, figures, and what else there is to say; where the terminal is narrow only that folds."""
    table = Table(box=SIMPLE)
    for column in ("run", *figures):
        table.add_column(column, no_wrap=True)
    table.add_column(last, overflow="fold")
    return table


def beside(*written: Path | None) -> Console:
    """Where to talk about files that a command writes: on stderr where one of them is what stdout goes to."""
    with suppress(OSError):  # stdout may be closed, or no file of the system at all
        own = os.fstat(1)
        if any(path is not None and path.exists() and os.path.samestat(path.stat(), own) for path in written):
            return err
    return out


def quiet_prefect() -> None:
    """Settings for a flow run on one's own terminal; whoever set them before keeps theirs."""
    # On a loaded machine the temporary server needs more than its default 20 seconds to start.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # The console gets our lines and our errors; the flow run's own log, with tracebacks, is in Prefect.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    from flows.finetune import start_server  # noqa: PLC0415 - the help needs no Prefect

    start_server()


class narrated:  # noqa: N801 - a context manager, used like one
    """Print what the `annotune` logger says, with the seconds since the last line."""

    def __enter__(self) -> None:
        self.logger, self.last = logging.getLogger("annotune"), time.monotonic()
        self.handler = logging.Handler()
        self.handler.emit = self._emit  # type: ignore[method-assign]
        self.logger.addHandler(self.handler)
        self.logger.setLevel(logging.INFO)

    def __exit__(self, *_: object) -> None:
        self.logger.removeHandler(self.handler)

    def _emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        out.print(f"[dim]{now - self.last:6.1f}s[/] {escape(record.getMessage())}", soft_wrap=True)
        self.last = now
