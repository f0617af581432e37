"""Fetch: the pretrained checkpoint, verified, from wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from models.weights.fetch import fetch as fetch_file
from models.weights.rules import LoadRules
from tasks.source import Location
from tasks.stage import stage
from tasks.store import FileRef


class WeightsOptions(LoadRules):
    """Where the pretrained weights come from, and which of them move."""

    source: Annotated[str, Location()] = Field(
        description="A path, https://..., torchvision://Weights.NAME, timm://name, hf://repo/file, s3://..."
    )
    sha256: str | None = Field(None, description="SHA-256 of the file; the hash in its name is checked without it")


@contextmanager
def download_bar(source: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on a terminal, nothing elsewhere; call what it yields with bytes so far and in all."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(source.rsplit("/", 1)[-1][:40])
        yield lambda done, total: progress.update(task, completed=done, total=total)


@stage("models.weights.fetch")
def fetch(workspace: Path, source: str, sha256: str | None) -> FileRef:
    """Fetch ``source`` into the workspace's ``weights`` folder, or find it there.

    Raises:
        WeightsError: no such file, a wrong hash, something that is no checkpoint.
    """
    with download_bar(source) as bar:
        fetched = fetch_file(source, workspace / "weights", sha256=sha256, progress=bar)
    return FileRef(path=fetched.path, sha256=fetched.sha256, size=fetched.size)
