"""What a person sees of a run: one live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from models.training.journal import Line

SANE = 15.0  # seconds between plain lines about steps


class _Bar(Progress):
    """A progress bar with a line of its own below for the figures, so that a narrow terminal folds only those."""

    said = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.said)


class TrainingDisplay:
    """Shows the lines of a run as they come: ``with TrainingDisplay() as show: run_training(..., on_line=show)``."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.progress = _Bar(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self.said_at = -SANE

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, line: Line) -> None:
        """Show one line of ``metrics.jsonl``."""
        if line["event"] != "step":
            for text in described(line):
                self.console.print(text, markup=False, highlight=False, soft_wrap=not self.console.is_terminal)
            return
        said = step_text(line)
        if not self.console.is_terminal:
            if time.monotonic() - self.said_at >= SANE or line["step"] == line["steps"]:
                self.said_at = time.monotonic()
                text = f"step {line['step']}/{line['steps']} {said}"
                self.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        if self.task is None:
            self.task = self.progress.add_task("", total=line["steps"], completed=line["step"])
        self.progress.said = said
        self.progress.update(self.task, completed=line["step"])


def step_text(line: Line) -> str:
    """Epoch, loss, rate, speed, waiting for data, GPU memory."""
    text = f"epoch {line['epoch']:.1f} loss {line['loss']:.3f} lr {line['lr']:.2g}"
    text += f" {line['images_per_second']:.1f} images/s"
    text += f" ({line['data_wait']:.0%} waiting for data)"
    if line["gpu_memory"]:
        text += f" {line['gpu_memory'] / 2**30:.1f} GiB"
    return text


TEXTS = {
    "start": "{detector} on {device}: {images:,} images, {objects:,} objects",
    "resume": "continuing from {checkpoint} at step {step}",
    "fallback": "{problem}; going on from {resumed_from}",
    "out_of_memory": "out of memory at step {step}: {micro_batch} images per forward pass from here on",
    "nonfinite": "{problem}; once more from step {step} at {rate_factor} of the rate",
    "unfreeze": "from step {step} on everything trains (freeze {trains})",
    "note": "{said}",
    "end": "finished at step {step}, best at step {best_step}",
}


def shown_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The scores that a line has room for."""
    return {name: value for name, value in metrics.items() if name.endswith(("AP", "AP50", "top1", "top5"))}


def described(line: Line) -> list[str]:
    """A line that is not about a step, in words."""
    event = line["event"]
    if event == "eval":
        shown = (f"{name} {value:.3f}" for name, value in shown_metrics(line["metrics"]).items())
        return [f"step {line['step']}: {', '.join(shown)}{' (best so far)' if line['best'] else ''}"]
    if event == "unreadable":
        return [f"{len(line['images'])} training images cannot be read: {', '.join(line['images'][:5])}"]
    details = [f"  {name}: {why}" for name, why in line.get("derivations", {}).items()]
    return [TEXTS.get(event, "{event} at step {step}").format_map(line), *details, *line.get("notes", ())]
