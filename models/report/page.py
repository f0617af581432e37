"""The report: one self-contained HTML page about a run, and one that compares several."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from models.files import write_bytes
from models.report import dataset, findings, loading, pictures, results, training
from models.report.inputs import ReportError, ReportInputs, Run, load_run, presentable
from models.report.matching import Matched, Operation, match_images, operation
from models.report.svg import DASHES, Line, line_chart

PICTURES = 4  # of the worst images, and as many typical ones
DEFAULT_SCORE = 0.5  # to cut detections at, where the data do not say better


def render(inputs: ReportInputs, path: Path) -> str:
    """Write the page of one run, and return the result in two sentences, as the page begins.

    The same inputs give the same bytes. The page loads nothing: pictures are embedded, and nothing in a label, a file
    name or a message is taken for markup. Absolute paths are shortened to their last part.

    Args:
        inputs: the files of the run; sections of absent ones are left out.
        path: the page; its folder must exist. It is replaced whole or not at all.

    Raises:
        ReportError: the evaluated split or its metrics are absent, or a file is not what it should be.
    """
    run = load_run(inputs)
    matched = match_images(run.val, run.detections) if run.detections and not results.classifies(run.metrics) else []
    cut = operation(matched)
    score = cut.scores[cut.best] if cut and cut.useful else DEFAULT_SCORE
    page = _environment().get_template("report.html.j2")
    html = page.render(**_results(run), **_data(run), **_pictures(run, matched, score), **_cut(cut), **_setup(run))
    write_bytes(path, html.encode())
    return _summary(run)


def compare(runs: Sequence[ReportInputs], path: Path) -> None:
    """Write a page that puts several runs side by side; the first is what the others are measured against.

    Args:
        runs: at least two.
        path: the page; its folder must exist. It is replaced whole or not at all.

    Raises:
        ReportError: there are fewer than two runs, or one cannot be read.
    """
    if len(runs) < 2:
        raise ReportError("a comparison needs two runs or more")
    loaded = [load_run(inputs) for inputs in runs]
    names = {str(row.get("name", "")) for run in loaded for row in run.metrics.get("per_class") or []}
    columns = [_column(run, loaded[0]) for run in loaded]
    rows = [(name, [column["classes"].get(name) for column in columns]) for name in sorted(names)]
    page = _environment().get_template("compare.html.j2")
    charts, classifies = training.comparison(loaded), any(results.classifies(run.metrics) for run in loaded)
    title = "Comparison of " + ", ".join(run.inputs.title for run in loaded)
    html = page.render(title=title, columns=columns, rows=rows, charts=charts, classifies=classifies)
    write_bytes(path, html.encode())


def _column(run: Run, first: Run) -> dict[str, Any]:
    """One run of a comparison; what was evaluated on other annotations is not measured against the first."""
    evaluated = "evaluated annotations"
    same_data = run.digests.get(evaluated) == first.digests.get(evaluated)
    against = first.metrics if same_data else {}
    return {
        "title": run.inputs.title,
        "figures": results.headline(run.metrics, {} if run is first else against),
        "last": results.headline(run.last, against) if run.last else [],
        "classes": {row.name: row for row in results.class_results(run.metrics, {} if run is first else against)},
        "images": len(run.val["images"]),
        "split": run.split,
        "model": _model(run),
        "note": presentable(run.inputs.note),
        "same_data": same_data,
    }


def _model(run: Run) -> str:
    """Which model it is and what it began from, as far as the log and the plan tell."""
    plan = loading.loading_figures(run.plan)
    name = training.model_name(run.history) or (plan.detector if plan else "")
    return f"{name} from {plan.checkpoint if plan else 'random weights'}" if name else ""


def _results(run: Run) -> dict[str, Any]:
    return {
        "title": run.inputs.title,
        "summary": _summary(run),
        "split": run.split,
        "has_baseline": bool(run.baseline),
        "versus": run.inputs.baseline_title,
        "classifies": results.classifies(run.metrics),
        "boxes": results.headline(run.metrics, run.baseline),
        "masks": results.headline(run.metrics, run.baseline, "segm"),
        "versions": results.versions(run.metrics, run.last),
        "classes": results.class_results(run.metrics, run.baseline, run.last),
        "curves": results.curves(run.metrics),
        "confusion": results.confusion(run.metrics),
        "errors": results.error_kinds(run.metrics),
        "suspects": results.suspects(run.metrics),
        "training": training.training_figures(run.history),
        "loading": loading.loading_figures(run.plan),
    }


def _data(run: Run) -> dict[str, Any]:
    splits = dataset.splits_of(run)
    return {
        "splits": splits,
        "counts": dataset.class_counts(splits),
        "sizes": dataset.size_chart(splits),
        "findings": None if run.check is None else findings.findings(run.check),
    }


def _pictures(run: Run, matched: Sequence[Matched], score: float) -> dict[str, Any]:
    worst, typical = pictures.choose(matched, score, PICTURES)
    images = run.inputs.images
    sides = {
        kind: [pictures.picture(image, images, score, f"{kind}-{n}") for n, image in enumerate(chosen)]
        if images
        else []
        for kind, chosen in (("worst", worst), ("typical", typical))
    }
    wrong = pictures.mistakes(run.metrics, run.val, images) if images and results.classifies(run.metrics) else []
    return {"score": score, "wrong": wrong, **{kind: [s for s in found if s] for kind, found in sides.items()}}


def _cut(cut: Operation | None) -> dict[str, Any]:
    """What to say about the score to cut at."""
    if cut is None:
        return {"operation_chart": Markup(""), "operation_text": []}
    lines = [Line("precision", cut.scores, cut.precision, 1), Line("recall", cut.scores, cut.recall, 2)]
    chart = line_chart(
        lines,
        title="Precision and recall by score",
        x_label="least score of a detection",
        y_low=0.0,
        y_high=1.0,
        mark=cut.scores[cut.best] if cut.useful else None,
    )
    return {"operation_chart": chart, "operation_text": _advice(cut)}


def _advice(cut: Operation) -> list[str]:
    best = cut.best
    if not cut.useful:
        text = (
            f"No score makes this detector useful yet: at the best one, {cut.scores[best]:.2f}, "
            f"{cut.precision[best]:.0%} of the detections are right, and {cut.recall[best]:.0%} of the objects are "
            "found. Train longer, on more images, or from better weights."
        )
        return [text]
    advice = (
        f"Keep detections with a score of at least {cut.scores[best]:.2f}: then {cut.precision[best]:.0%} of them are "
        f"right, and {cut.recall[best]:.0%} of the objects are found."
    )
    reason = (
        "This is the score with the best balance of the two, at IoU 0.50 and over all classes. "
        "A higher one gives fewer false alarms, a lower one fewer misses."
    )
    return [advice, reason]


def _setup(run: Run) -> dict[str, Any]:
    environment = {str(name): presentable(str(value)) for name, value in run.inputs.environment.items()}
    return {
        "config": presentable(run.inputs.config),
        "environment": environment.items(),
        "digests": run.digests.items(),
    }


def _summary(run: Run) -> str:
    """The result in two sentences."""
    if results.classifies(run.metrics):
        return _accuracy_summary(run)
    ap, ap50 = results.measure(run.metrics, "AP"), results.measure(run.metrics, "AP50")
    split = dataset.split_figures(run.split, run.val)
    seen = f"On {split.images:,} {split.name} images with {split.instances:,} objects of {len(split.per_class)} classes"
    if ap is None:
        return f"{seen} there was nothing to measure."
    text = f"{seen}, {_model(run) or 'the detector'} reaches {ap * 100:.1f} AP"
    text += f" and {ap50 * 100:.1f} AP50" if ap50 is not None else ""
    return text + _against(run, ap, results.measure(run.baseline, "AP")) + _extremes(run)


def _accuracy_summary(run: Run) -> str:
    """The result of a classifier in two sentences."""
    top1, asked = results.measure(run.metrics, "top1", "accuracy"), int(run.metrics.get("objects") or 0)
    seen = f"Of {asked:,} {run.split} pictures of {len(run.val['categories'])} classes"
    if top1 is None:
        return f"{seen} there was nothing to measure."
    text = f"{seen}, {_model(run) or 'the classifier'} names {top1 * 100:.1f}% rightly at the first guess"
    return text + _against(run, top1, results.measure(run.baseline, "top1", "accuracy")) + _extremes(run)


def _against(run: Run, value: float, before: float | None) -> str:
    """The difference to the baseline."""
    if before is None:
        return ""
    way = "more" if value >= before else "less"
    return f", {abs(value - before) * 100:.1f} points {way} than {run.inputs.baseline_title}"


def _extremes(run: Run) -> str:
    """The end of the sentence, and the best and the weakest class."""
    ranked = [row for row in results.class_results(run.metrics, {}) if row.ap is not None]
    best, worst = (ranked[0], ranked[-1]) if ranked else (None, None)
    if best is None or worst is None or points(best.ap) == points(worst.ap):
        return "."
    return f". It is best at {best.name} ({points(best.ap)}) and weakest at {worst.name} ({points(worst.ap)})."


def points(value: float | None) -> str:
    """A share as points of 100: 0.613 is 61.3."""
    return "\N{EN DASH}" if value is None else f"{value * 100:.1f}"


def signed(value: float | None) -> str:
    """A difference of shares in points, with its sign; without one where it is too small to show."""
    if value is None:
        return "\N{EN DASH}"
    text = f"{value * 100:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("models.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["dashes"] = DASHES
    environment.filters |= {
        "points": points,
        "signed": signed,
        "direction": lambda change: "up" if change > 0.0005 else "down" if change < -0.0005 else "",
        "percent": lambda share: f"{min(max(share, 0), 1) * 100:.2f}%",
        "thousands": lambda count: f"{count:,}",
        "plain": lambda number: f"{number:,.0f}" if number == int(number) else f"{number:.3g}",
        "some": _some,
    }
    return environment


def _some(names: Sequence[str], most: int = 12) -> str:
    """A list in words, cut short."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
