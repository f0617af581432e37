"""The check as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from converters.check.pictures import pictures_of
from converters.check.report import CheckReport
from converters.check.rules import RULES, SEVERITIES
from converters.check.statistics import ASPECTS, OBJECTS, SIDES, Statistics
from converters.files import write_whole

_MOST_CLASSES = 60  # bars of the class chart
_COLOURS = 6  # that the page has for splits


@dataclass(frozen=True)
class Row:
    """One rule in the table of findings."""

    id: str
    severity: str  # as found: a policy may have raised or lowered it; "repaired" where nothing stands
    count: int
    repaired: int
    what: str
    remedy: str


@dataclass(frozen=True)
class Bar:
    """One bar, in parts by split; shares are of the longest bar."""

    label: str
    total: int
    parts: tuple[tuple[str, int, float], ...]  # split, count, share in percent


def write_page(
    report: CheckReport, path: Path, images: Path | Mapping[str, Path] | None = None, title: str = "Dataset check"
) -> None:
    """Write the report as one self-contained page: figures, findings, and pictures of what was found.

    Args:
        report: what :func:`converters.check.find_problems` returned.
        path: the HTML file; it appears whole or not at all.
        images: the image folders, as given to the check; without them there are no pictures.
        title: the heading.
    """
    text = render_page(report, images, title).encode("utf-8", "backslashreplace")
    write_whole(path, lambda file: file.write(text))


def render_page(
    report: CheckReport, images: Path | Mapping[str, Path] | None = None, title: str = "Dataset check"
) -> str:
    """Return the page as text; everything that comes from the dataset is escaped."""
    figures = report.statistics
    splits = list(figures.images)
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(files("converters.check").joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        report=report,
        verdict=_verdict(report),
        splits=splits,
        colours={name: at % _COLOURS for at, name in enumerate(splits)},
        rows=_rows(report),
        pictures=pictures_of(report, images),
        rules=RULES,
        figures=figures,
        totals={key: sum(getattr(figures, key).values()) for key in ("images", "annotations", "negatives", "masks")},
        classes=_class_bars(figures),
        hidden_classes=max(0, len(_class_names(figures)) - _MOST_CLASSES),
        histograms=_histograms(figures),
        heat=_heat(figures),
        sizes=_sizes(figures),
        scales=_scales(figures),
    )


def _verdict(report: CheckReport) -> tuple[str, str]:
    """A tone and a sentence."""
    errors, warnings = report.severities.get("error", 0), report.severities.get("warning", 0)
    repaired = sum(report.repaired.values())
    after = f" {_number(repaired, 'problem was', 'problems were')} repaired." if repaired else ""
    if errors:
        return "error", f"{_number(errors, 'error', 'errors')} to settle before training.{after}"
    if warnings:
        return "warning", f"No errors; {_number(warnings, 'warning', 'warnings')} to look at.{after}"
    return "good", f"Nothing stands in the way of training.{after}"


def _number(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _rows(report: CheckReport) -> list[Row]:
    severities: dict[str, str] = {}
    for problem in report.problems:  # sorted: the worst that stands comes first
        severities.setdefault(problem.rule, problem.severity if problem.action == "reported" else "repaired")
    order = (*SEVERITIES, "repaired")
    rows = [
        Row(
            name,
            severities.get(name, RULES[name].severity),
            count,
            report.repaired.get(name, 0),
            rule.what,
            rule.remedy,
        )
        for name, count in report.counts.items()
        for rule in [RULES[name]]
    ]
    return sorted(rows, key=lambda row: order.index(row.severity))


def _class_names(figures: Statistics) -> list[str]:
    """All names, the most frequent first."""
    totals: dict[str, int] = {}
    for counts in figures.classes.values():
        for name, count in counts.items():
            totals[name] = totals.get(name, 0) + count
    return sorted(totals, key=lambda name: (-totals[name], name))


def _class_bars(figures: Statistics) -> list[Bar]:
    names = _class_names(figures)[:_MOST_CLASSES]
    return _bars([(name, {split: counts.get(name, 0) for split, counts in figures.classes.items()}) for name in names])


def _bars(table: Sequence[tuple[str, Mapping[str, int]]]) -> list[Bar]:
    longest = max((sum(counts.values()) for _, counts in table), default=0) or 1
    return [
        Bar(
            label,
            sum(counts.values()),
            tuple((split, n, 100 * n / longest) for split, n in counts.items() if n),
        )
        for label, counts in table
    ]


def _histograms(figures: Statistics) -> list[tuple[str, str, list[Bar]]]:
    """Heading, unit and bars of each histogram."""
    return [
        ("Box size", "square root of the area, pixels", _bins(figures.sides, SIDES)),
        ("Box shape", "width divided by height", _bins(figures.aspects, ASPECTS)),
        ("Objects in an image", "annotations", _bins(figures.objects, OBJECTS)),
    ]


def _bins(counts: Mapping[str, Sequence[int]], edges: Sequence[float]) -> list[Bar]:
    """Bars from the first to the last bin that holds something, labelled with their lower edges."""
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    filled = [at for at, total in enumerate(totals) if total]
    if not filled:
        return []
    table = [
        (f"{edges[at]:g}" + ("+" if at == len(edges) - 1 else ""), {split: bins[at] for split, bins in counts.items()})
        for at in range(filled[0], filled[-1] + 1)
    ]
    return _bars(table)


def _heat(figures: Statistics) -> list[tuple[int, int, float, int]]:
    """Cells of the map of centres that hold something: column, row, strength 0..1, count."""
    most = max((max(row) for row in figures.centres), default=0) or 1
    return [
        (x, y, round((count / most) ** 0.5, 3), count)
        for y, row in enumerate(figures.centres)
        for x, count in enumerate(row)
        if count
    ]


def _sizes(figures: Statistics) -> list[tuple[str, int, float]]:
    """The most frequent image sizes: text, images, share of the most frequent in percent."""
    most = max((count for _, _, count in figures.sizes), default=0) or 1
    return [(f"{w} x {h}", count, 100 * count / most) for w, h, count in figures.sizes[:8]]


def _scales(figures: Statistics) -> list[dict[str, Any]]:
    """Shares of small, medium and large boxes by split, as COCOeval divides them."""
    shares = []
    for split, (small, medium, large) in figures.scales.items():
        total = (small + medium + large) or 1
        parts = [("small", small), ("medium", medium), ("large", large)]
        shares.append({"split": split, "parts": [(name, n, 100 * n / total) for name, n in parts]})
    return shares
