"""Training on Prefect's pages: log lines at a sane rate, and an artifact with progress, curves and evaluations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from models.report.svg import as_image, title_of
from models.report.training import training_figures
from models.training.journal import Line, read_lines
from models.training.progress import SANE, described, shown_metrics, step_text

KEY = "annotune-training"
MOST_EVALUATIONS = 20  # rows of the table: the last ones


class TrainingPage:
    """Tells Prefect of a run: called with its folder and each line of ``metrics.jsonl``, within a task."""

    def __init__(self) -> None:
        self.log = get_run_logger()
        self.artifact: UUID | None = None
        self.told_at = -SANE
        self.steps = 0

    def __call__(self, folder: Path, line: Line) -> None:
        """Take in a line."""
        self.steps = line.get("steps", self.steps)
        ended, due = line["event"] == "end", time.monotonic() - self.told_at >= SANE
        if line["event"] != "step":
            for text in described(line):
                self.log.info(text)
        elif due:
            self.log.info(f"step {line['step']}/{line['steps']} {step_text(line)}")
        if ended or (due and line["event"] == "step"):
            self.told_at = time.monotonic()
            self._show(100.0 if ended else 100 * line["step"] / self.steps, training_description(folder))

    def _show(self, progress: float, text: str) -> None:
        try:
            if self.artifact is None:
                self.artifact = create_progress_artifact(progress, key=KEY, description=text)  # type: ignore[assignment]
            else:
                update_progress_artifact(self.artifact, progress, description=text)
        except (httpx.HTTPError, PrefectException, RuntimeError) as error:  # the last: it cannot be reached at all
            self.log.warning(
                "the training goes on, Prefect's server did not take its progress: %s", type(error).__name__
            )


def training_description(folder: Path) -> str:
    """A run so far, in Markdown: the notes, the curves as pictures, the last evaluations as a table.

    Args:
        folder: of the run.
    """
    history = read_lines(folder / "metrics.jsonl")
    told = training_figures(history)
    parts = [f"- {note}" for note in told.notes] if told else []
    parts += [f"![{title_of(chart)}]({as_image(chart)})" for chart in told.charts] if told else []
    return "\n\n".join([*parts, _evaluations(history)])


def _evaluations(history: Sequence[Line]) -> str:
    rows: list[dict[str, Any]] = [line for line in history if line["event"] == "eval"][-MOST_EVALUATIONS:]
    if not rows:
        return ""
    names = list(shown_metrics(rows[0]["metrics"]))
    lines = [f"| step | {' | '.join(names)} | |", f"|---:|{'---:|' * len(names)}---|"]
    for row in rows:
        values = " | ".join(f"{100 * row['metrics'][name]:.1f}" for name in names)
        lines.append(f"| {row['step']:,} | {values} | {'best so far' if row['best'] else ''} |")
    return "\n".join(lines)
