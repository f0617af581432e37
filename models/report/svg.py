"""Charts as inline SVG: sized for a phone, coloured by the page's style sheet, readable without colour.

Every function returns safe markup; names from outside are escaped here.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 38  # room for the axes


@dataclass(frozen=True)
class Line:
    """One curve. ``series`` 1..6 is its colour in the style sheet, 0 is the quiet grey."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    series: int = 1
    markers: bool = False


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` round numbers between ``low`` and ``high``."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999) * power
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis: 2.5e-5, 4e-4, 0.25, 3, 1.5k, 2M."""
    if 0 < abs(value) < 1e-3:  # the room is for six characters
        digits, power = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.3g}"


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_low: float | None = None,
    y_high: float | None = None,
    mark: float | None = None,
) -> Markup:
    """Curves over a common x axis, as a figure with its caption and, for several curves, a legend.

    ``mark`` is a place on the x axis to point out.
    """
    lines = [line for line in lines if line.x]
    if not lines:
        return Markup("")
    xs, ys = [x for line in lines for x in line.x], [y for line in lines for y in line.y]
    low = min(ys) if y_low is None else y_low
    high = max(ys) if y_high is None else y_high
    high = high if high > low else low + max(abs(low), 1e-9)
    start, end = (
        (min(xs), max(xs)) if max(xs) > min(xs) else (0.0, 2 * xs[0] or 1.0)
    )  # a lone point stands in the middle
    frame = Frame(start, end, low, high + (high - low) * 0.04)
    said = "; ".join(f"{line.name} from {short(line.y[0])} to {short(line.y[-1])}" for line in lines)
    marks = [*frame.axes(x_label), *(frame.curve(line) for line in lines)]
    svg = _svg(f"{title}: {said}", marks if mark is None else [frame.upright(mark), *marks])
    return _figure(title, svg, lines if len(lines) > 1 else [])


def histogram(
    groups: Sequence[tuple[str, Sequence[int], int]], edges: Sequence[float], *, title: str, x_label: str
) -> Markup:
    """Bars side by side per bin: ``groups`` are (name, counts per bin, series), ``edges`` one more than bins."""
    highest = max((count for _, counts, _ in groups for count in counts), default=0)
    if not highest:
        return Markup("")
    frame = Frame(0, len(edges) - 1, 0, highest * 1.05)
    labels = [(index, short(edge)) for index, edge in enumerate(edges) if index % 2 == 0]
    marks = frame.axes(x_label, labels)
    share = 0.8 / len(groups)
    for number, (name, counts, series) in enumerate(groups):
        for index, count in enumerate(counts):
            x, y = frame.at(index + 0.1 + number * share, count)
            width, height = frame.at(index + 0.1 + (number + 1) * share, 0)
            box = Markup('<rect class="fill{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1">')
            tip = Markup("<title>{}, {} to {}: {}</title></rect>")
            marks.append(box.format(series, x, y, width - x, height - y) if count else Markup(""))
            marks.append(tip.format(name, short(edges[index]), short(edges[index + 1]), count) if count else Markup(""))
    legend = [Line(name, (), (), series) for name, _, series in groups]
    said = "; ".join(f"{name} {sum(counts)}" for name, counts, _ in groups)
    return _figure(title, _svg(f"{title}: {said}", marks), legend if len(groups) > 1 else [])


def small_curve(name: str, x: Sequence[float], y: Sequence[float], caption: str) -> Markup:
    """A precision-recall curve on a small square from 0 to 1, filled below."""
    size, pad = 150, 6
    inner = size - 2 * pad
    points = [(pad + a * inner, pad + (1 - b) * inner) for a, b in zip(x, y, strict=False)]
    path = _path(points)
    floor = f"{path} L{points[-1][0]:.1f} {size - pad} L{points[0][0]:.1f} {size - pad}Z" if points else ""
    return Markup(
        '<figure class="small"><svg viewBox="0 0 {0} {0}" role="img" aria-label="{1}: precision over recall, {2}">'
        '<path class="grid" d="M{3} {3}V{4}H{4}M{3} {5}H{4}M{5} {3}V{4}"/>'
        '<path class="area1" d="{6}"/><path class="line1" d="{7}"/></svg>'
        "<figcaption><b>{1}</b> <span>{2}</span></figcaption></figure>"
    ).format(size, name, caption, pad, size - pad, size // 2, floor, path)


@dataclass(frozen=True)
class Frame:
    """The mapping from data to the drawing area."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Drawing coordinates of a data point."""
        across = (x - self.x_low) / (self.x_high - self.x_low)
        up = (y - self.y_low) / (self.y_high - self.y_low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def axes(self, x_label: str, x_ticks: Sequence[tuple[float, str]] | None = None) -> list[Markup]:
        """Grid lines with their numbers, and the name of the x axis."""
        marks = []
        for value in ticks(self.y_low, self.y_high):
            _, y = self.at(self.x_low, value)
            grid = Markup('<path class="grid" d="M{} {:.1f}H{}"/><text class="end" x="{}" y="{:.1f}">{}</text>')
            marks.append(grid.format(LEFT, y, WIDTH - RIGHT, LEFT - 7, y + 4, short(value)))
        for value, label in x_ticks or [(v, short(v)) for v in ticks(self.x_low, self.x_high, 5)]:
            x, _ = self.at(value, self.y_low)
            marks.append(Markup('<text class="mid" x="{:.1f}" y="{}">{}</text>').format(x, HEIGHT - BOTTOM + 16, label))
        name = Markup('<text class="mid name" x="{}" y="{}">{}</text>')
        return [*marks, name.format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x_label)]

    def upright(self, value: float) -> Markup:
        """A line across the drawing at a place on the x axis, with its value."""
        x, _ = self.at(value, self.y_low)
        line = Markup('<path class="line0" d="M{:.1f} {}V{}"/><text x="{:.1f}" y="{}">{}</text>')
        return line.format(x, TOP, HEIGHT - BOTTOM, x + 5, HEIGHT - BOTTOM - 7, short(value))

    def curve(self, line: Line) -> Markup:
        """One line, its points marked where there are few."""
        points = [self.at(x, min(max(y, self.y_low), self.y_high)) for x, y in zip(line.x, line.y, strict=True)]
        path = Markup('<path class="line{}" d="{}"/>').format(line.series, _path(points))
        if not line.markers and len(points) > 1:
            return path
        dot = Markup('<circle class="fill{}" cx="{:.1f}" cy="{:.1f}" r="3.2"><title>{}: {}</title></circle>')
        values = zip(points, line.x, line.y, strict=True)
        return path + Markup("").join(dot.format(line.series, x, y, short(a), short(b)) for (x, y), a, b in values)


DASHES = (
    ".line2{stroke-dasharray:7 4}.line3{stroke-dasharray:1 4;stroke-width:2.6;stroke-linecap:round}"
    ".line5{stroke-dasharray:9 3 1 3}"
)
"""What tells curves apart without colour."""
IMAGE_STYLE = (
    "svg{background:#fff}text{font:11.5px sans-serif;fill:#5a6270}.mid{text-anchor:middle}.end{text-anchor:end}"
    ".grid{stroke:#e3e1db;fill:none}path{fill:none;stroke-width:2}.line0{stroke:#b9bec8;stroke-width:1.2}"
    + "".join(
        f".line{number}{{stroke:{colour}}}.fill{number}{{fill:{colour}}}"
        for number, colour in enumerate(("#2d6db0", "#c25a1d", "#20835f", "#8353a8", "#a17508", "#bd3f68"), start=1)
    )
    + DASHES
)


def title_of(figure: Markup) -> str:
    """The title of a chart, as markup."""
    return next(iter(_CAPTION.findall(figure)), "")


def as_image(figure: Markup) -> str:
    """A chart as a picture for places that know no style sheet of ours: a data URI, its title and legend in it."""
    title, x, y, head = title_of(figure), LEFT, 15, ""
    for series, name in _KEY.findall(figure):
        if x > LEFT and x + 24 + 6 * len(name) > WIDTH:
            x, y = LEFT, y + 15
        head += f'<path class="line{series}" d="M{x} {y + 11}h14"/><text x="{x + 19}" y="{y + 15}">{name}</text>'
        x += 34 + 6 * len(name)
    above = y + 24  # room for title and legend
    named = f'<text x="{LEFT}" y="15" style="font-weight:600;fill:#1c2129">{title}</text>'
    marks = figure[figure.index(">", figure.index("<svg")) + 1 : figure.index("</svg>")]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT + above}">'
        f'<style>{IMAGE_STYLE}</style>{named}{head}<g transform="translate(0 {above})">{marks}</g></svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


_CAPTION = re.compile("<figcaption>(.*?)</figcaption>")
_KEY = re.compile(r'<li><i class="key(\d)"></i>(.*?)</li>')


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""


def _svg(said: str, marks: Sequence[Markup]) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, said)
    return head + Markup("").join(marks) + Markup("</svg>")


def _figure(title: str, svg: Markup, legend: Sequence[Line]) -> Markup:
    keys = Markup("").join(Markup('<li><i class="key{}"></i>{}</li>').format(line.series, line.name) for line in legend)
    listed = Markup('<ul class="legend">{}</ul>').format(keys) if legend else Markup("")
    return Markup('<figure class="chart"><figcaption>{}</figcaption>{}{}</figure>').format(escape(title), listed, svg)
