"""Training curves and figures from the event log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from models.report.inputs import Run, presentable
from models.report.svg import Line, line_chart

MOST_POINTS = 240  # of one curve; more are averaged, the screen has no more pixels


@dataclass(frozen=True)
class Training:
    """What the log tells: charts, facts as (name, value), how settings came about, likewise, what went wrong."""

    charts: Sequence[Markup]
    facts: Sequence[tuple[str, str]]
    derivations: Sequence[tuple[str, str]]
    notes: Sequence[str]


def training_figures(history: Sequence[Mapping[str, Any]]) -> Training | None:
    """Charts of losses, learning rate and evaluation, or None where nothing was logged.

    Where a step stands there twice, the later line counts.
    """
    steps = _latest(history, "step")
    evals = _latest(history, "eval")
    if not steps and not evals:
        return None
    charts = [_loss_chart(steps), _eval_chart(evals), _parts_chart(steps), _rate_chart(steps)]
    derivations = (_start(history).get("derivations") or {}).items()
    told = [(str(name).replace("_", " "), presentable(str(reason))) for name, reason in derivations]
    return Training([chart for chart in charts if chart], _facts(history, steps, evals), told, _notes(history))


def model_name(history: Sequence[Mapping[str, Any]]) -> str:
    """What was trained; empty where the log does not tell."""
    return str(_start(history).get("detector") or "")


def comparison(runs: Sequence[Run]) -> list[Markup]:
    """AP and loss of several runs over their steps, in charts of their own."""
    ap, loss = [], []
    for number, run in enumerate(runs, start=1):
        series = number if number <= 6 else 0
        evals, steps = _latest(run.history, "eval"), _latest(run.history, "step")
        x, y = _series([{"step": e["step"], "y": _first_of(e.get("metrics") or {})} for e in evals], "y")
        ap.append(Line(run.inputs.title, x, [max(0.0, value) * 100 for value in y], series, markers=len(x) <= 40))
        x, y = thin(*_series(steps, "loss"))
        loss.append(Line(run.inputs.title, x, smooth(y), series))
    score = "top-1" if any(run.metrics.get("task") == "classification" for run in runs) else "AP"
    charts = [
        line_chart(ap, title=f"Validation {score} while training, in points", x_label="step", y_low=0.0),
        line_chart(loss, title="Training loss, smoothed", x_label="step", y_low=0.0),
    ]
    return [chart for chart in charts if chart]


def _first_of(metrics: Mapping[str, Any]) -> Any:
    """The score that runs are compared by."""
    return metrics.get("bbox/AP", metrics.get("top1"))


def thin(x: Sequence[float], y: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """At most ``most`` points: the means of neighbours."""
    width = -(-len(x) // most) or 1
    starts = range(0, len(x), width)
    return [_mean(x[i : i + width]) for i in starts], [_mean(y[i : i + width]) for i in starts]


def smooth(values: Sequence[float], share: float = 0.04) -> list[float]:
    """The mean over a window of ``share`` of the curve, centred, shorter at the ends."""
    half = int(len(values) * share / 2)
    return [_mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def _loss_chart(steps: Sequence[Mapping[str, Any]]) -> Markup:
    x, y = thin(*_series(steps, "loss"))
    lines = [Line("each step", x, y, 0), Line("smoothed", x, smooth(y), 1)] if len(x) > 20 else [Line("loss", x, y, 1)]
    return line_chart(lines, title="Training loss", x_label="step", y_low=0.0)


def _parts_chart(steps: Sequence[Mapping[str, Any]]) -> Markup:
    """The terms of the loss, the six largest; nothing where there is but one."""
    sums: Counter[str] = Counter()
    for step in steps:
        sums.update({str(name): _number(value) or 0.0 for name, value in (step.get("losses") or {}).items()})
    lines = []
    for series, (name, _) in enumerate(sorted(sums.items(), key=lambda term: (-term[1], term[0]))[:6], start=1):
        x, y = thin(*_series([{"step": s["step"], name: (s.get("losses") or {}).get(name)} for s in steps], name))
        lines.append(Line(name.replace("_", " "), x, smooth(y), series))
    return (
        line_chart(lines, title="Terms of the loss, smoothed", x_label="step", y_low=0.0)
        if len(lines) > 1
        else Markup("")
    )


def _rate_chart(steps: Sequence[Mapping[str, Any]]) -> Markup:
    x, y = _series(steps, "lr")
    width = -(-len(x) // MOST_POINTS) or 1
    line = Line("learning rate", x[::width], y[::width], 4)
    return line_chart([line], title="Learning rate", x_label="step", y_low=0.0)


def _eval_chart(evals: Sequence[Mapping[str, Any]]) -> Markup:
    lines = []
    names = (
        ("bbox/AP50", "AP50", 3), ("bbox/AP", "AP", 1), ("segm/AP50", "mask AP50", 5), ("segm/AP", "mask AP", 2),
        ("top5", "top-5", 3), ("top1", "top-1", 1), ("mean_class", "class mean", 2),
    )  # fmt: skip
    for key, name, series in names:
        x, y = _series([{"step": e["step"], "y": (e.get("metrics") or {}).get(key)} for e in evals], "y")
        kept = [(a, b * 100) for a, b in zip(x, y, strict=True) if b >= 0]
        if kept:
            lines.append(Line(name, [a for a, _ in kept], [b for _, b in kept], series, markers=len(kept) <= 40))
    return (
        line_chart(lines, title="Validation while training, in points", x_label="step", y_low=0.0)
        if lines
        else Markup("")
    )


def duration(seconds: float) -> str:
    """For people, in the two largest units: ``48 s``, ``9 min 5 s``, ``2 h 13 min``, ``3 d 1 h``."""
    rest = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or parts or unit == "s":
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def _facts(
    history: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    start, facts = _start(history), []
    last = (steps or evals)[-1]
    facts.append(("Steps", f"{last['step']:,}"))
    if epoch := _number(last.get("epoch")):
        facts.append(("Epochs", f"{epoch:.3g}"))
    if seconds := sum(_number(line.get("seconds")) or 0.0 for line in (*steps, *evals)):
        facts.append(("Time, evaluations included", duration(seconds)))
    if speed := _median(steps, "images_per_second"):
        facts.append(("Speed, median", f"{speed:.3g} images/s"))
    if (waiting := _median(steps, "data_wait")) is not None:
        facts.append(("Waiting for data, median", f"{waiting:.0%} of the time"))
    if peak := max((_number(step.get("gpu_memory")) or 0.0 for step in steps), default=0.0):
        facts.append(("GPU memory, peak", f"{peak / 2**30:.1f} GiB"))
    if device := start.get("device"):
        count = int(_number(start.get("processes")) or 1)
        named = {"cpu": "CPU", "cuda": "GPU"}.get(str(device), str(device))
        facts.append(("Device", named if count == 1 else f"{count} \N{MULTIPLICATION SIGN} {named}"))
    if (recall := _number(start.get("best_possible_recall"))) is not None:
        facts.append(("Best possible recall of the anchors", f"{recall:.1%} of the training boxes"))
    resumed = sum(event.get("event") == "resume" for event in history)
    if resumed:
        facts.append(("Resumed", f"{resumed} time{'s' if resumed > 1 else ''}"))
    best = _number(_last(history, "end").get("best_step"))
    if best is not None:
        facts.append(("Best checkpoint", f"step {best:,.0f}"))
    return facts


def _notes(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader should know: halved batches, damaged checkpoints, unreadable images, an early stop."""
    notes = [str(note) for note in _last(history, "end").get("notes") or []]
    unreadable = [str(name) for name in _last(history, "unreadable").get("images") or []]
    if unreadable:
        more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
        notes.append(f"{len(unreadable)} of the training images could not be read: {', '.join(unreadable[:5])}{more}")
    return [presentable(note) for note in notes]


def _start(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((event for event in history if event.get("event") == "start"), {})


def _last(history: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    return next((event for event in reversed(history) if event.get("event") == kind), {})


def _latest(history: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    """The last event of a kind for every step, in step order."""
    found = {
        event["step"]: event
        for event in history
        if event.get("event") == kind and _number(event.get("step")) is not None
    }
    return [found[step] for step in sorted(found)]


def _series(events: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    pairs = [(float(event["step"]), _number(event.get(key))) for event in events]
    kept = [(x, y) for x, y in pairs if y is not None]
    return [x for x, _ in kept], [y for _, y in kept]


def _number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < float("inf") else None


def _median(events: Sequence[Mapping[str, Any]], key: str) -> float | None:
    found = sorted(value for value in (_number(event.get(key)) for event in events) if value is not None)
    return found[len(found) // 2] if found else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
