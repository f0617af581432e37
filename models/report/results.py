"""The results as a page shows them: headline, classes, curves, confusions, kinds of error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from models.report.svg import small_curve

BOXES = (
    ("AP", "AP", "mean over IoU 0.50 to 0.95"),
    ("AP50", "AP50", "at IoU 0.50"),
    ("AP75", "AP75", "at IoU 0.75"),
    ("APs", "AP small", "below 32² pixels"),
    ("APm", "AP medium", "32² to 96² pixels"),
    ("APl", "AP large", "from 96² pixels"),
    ("AR100", "AR100", "recall, 100 boxes an image"),
)
ACCURACY = (
    ("top1", "Top-1", "the first answer is right"),
    ("top5", "Top-5", "the right one is among five"),
    ("mean_class", "Class mean", "top-1, every class counting the same"),
)
CLASS_MEASURES = {
    "AP": "AP", "AP50": "AP50", "AR": "AR", "mask_AP": "Mask AP", "mask_AR": "Mask AR",
    "VOC_AP": "VOC AP", "VOC_AP11": "VOC AP11", "recall": "Accuracy", "precision": "Precision", "f1": "F1",
}  # fmt: skip
RANKED_BY = ("AP", "recall")  # a class: by AP, or by a classifier's accuracy on it
ERRORS = {
    "class": "well placed, wrong class",
    "localisation": "right class, badly placed",
    "both": "wrong class and badly placed",
    "duplicate": "found a second time",
    "background": "nothing is there",
    "missed": "not found at all",
}
"""TIDE's kinds of error (Bolya et al. 2020) in words."""
MATRIX_LIMIT = 25  # classes in the confusion matrix; the most confused of more
CURVE_LIMIT = 24  # precision-recall curves; the classes with the most objects of more


@dataclass(frozen=True)
class Figure:
    """One number of the headline; None: not defined here, or not measured in the baseline."""

    name: str
    explanation: str
    value: float | None  # 0..1
    change: float | None


@dataclass(frozen=True)
class ClassResult:
    """One class in the results. Measures are 0..1, None where there is nothing to measure."""

    name: str
    ap: float | None  # of a classifier: the accuracy on the class, its recall
    change: float | None  # of AP against the baseline
    more: Mapping[str, float | None]  # the other measures by their titles
    last: Mapping[str, float | None]  # of the last checkpoint, by their titles, where that is another
    truths: int
    detections: int


@dataclass(frozen=True)
class ErrorKind:
    """One kind of error; ``share`` is of the costliest kind."""

    name: str
    count: float
    share: float
    gain: float | None  # of AP50, 0..1, if this kind alone were gone

    @property
    def cost(self) -> float:
        """What to rank by."""
        return self.count if self.gain is None else self.gain

    @property
    def title(self) -> str:
        """What to call it: TIDE's "both" says nothing by itself."""
        return "class and localisation" if self.name == "both" else self.name

    @property
    def explanation(self) -> str:
        """The kind in words; empty for a kind that is not one of TIDE's."""
        return ERRORS.get(self.name, "")


@dataclass(frozen=True)
class Confusion:
    """A part of the confusion matrix: ``cells[truth][prediction]`` = (count, share of the row).

    The last label is the background, where there is one.
    """

    labels: Sequence[str]
    cells: Sequence[Sequence[tuple[int, float]]]
    left_out: int  # classes that are not shown
    worst: Sequence[tuple[str, str, int]]  # truth, prediction, count: the most frequent mistakes
    background: bool
    score: float | None  # of the detections that were counted, at least; None: not told


def classifies(metrics: Mapping[str, Any]) -> bool:
    """Whether these are the metrics of a classifier."""
    return metrics.get("task") == "classification"


def main_kind(metrics: Mapping[str, Any]) -> str:
    """The measures that count: those of boxes, or a classifier's accuracy."""
    return "accuracy" if classifies(metrics) else "bbox"


def measure(metrics: Mapping[str, Any], name: str, kind: str = "bbox") -> float | None:
    """A number of ``metrics.json``; COCO's -1 and what is absent are None."""
    return _defined((metrics.get(kind) or {}).get(name))


def headline(metrics: Mapping[str, Any], baseline: Mapping[str, Any], kind: str = "") -> list[Figure]:
    """The numbers to begin with; none where ``kind`` was not evaluated."""
    kind = kind or main_kind(metrics)
    if not metrics.get(kind):
        return []
    figures = []
    for key, name, explanation in ACCURACY if kind == "accuracy" else BOXES:
        value = measure(metrics, key, kind)
        figures.append(Figure(name, explanation, value, _change(value, measure(baseline, key, kind))))
    return figures


def versions(metrics: Mapping[str, Any], last: Mapping[str, Any]) -> list[tuple[str, list[Figure]]]:
    """The numbers of the best checkpoint and of the last, row by row, those of masks too; none without a last.

    What is defined for neither is left out.
    """
    kinds = {"": main_kind(metrics)} | ({", masks": "segm"} if metrics.get("segm") else {})
    rows = [
        (name + of, headline(found, before, kind))
        for of, kind in kinds.items()
        for name, found, before in (("best", metrics, {}), ("last", last, metrics))
    ]
    defined = {figure.name for _, figures in rows for figure in figures if figure.value is not None}
    return [(name, [one for one in figures if one.name in defined]) for name, figures in rows] if last else []


def class_results(
    metrics: Mapping[str, Any], baseline: Mapping[str, Any], last: Mapping[str, Any] | None = None
) -> list[ClassResult]:
    """Every class, the best first, those without a truth last."""
    before = {str(row.get("name")): _class_measure(row) for row in baseline.get("per_class") or []}
    later = {str(row.get("name")): row for row in (last or {}).get("per_class") or []}
    rows = [_class(row, before, later) for row in metrics.get("per_class") or []]
    return sorted(rows, key=lambda row: (row.ap is None, -(row.ap or 0.0), row.name))


def curves(metrics: Mapping[str, Any]) -> list[Markup]:
    """Precision over recall for the classes with the most objects."""
    truths = {str(row.get("name")): (row.get("truths") or 0, row.get("AP50")) for row in metrics.get("per_class") or []}
    found = [(str(name), curve) for name, curve in (metrics.get("curves") or {}).items() if curve.get("recall")]
    found.sort(key=lambda entry: (-truths.get(entry[0], (0, None))[0], entry[0]))
    charts = []
    for name, curve in found[:CURVE_LIMIT]:
        points = [(r, p) for r, p in zip(curve["recall"], curve["precision"], strict=False) if (p or 0) >= 0]
        points = points[:: -(-len(points) // 60) or 1] + points[-1:]
        ap50 = _defined(truths.get(name, (0, None))[1])
        caption = f"AP50 {ap50 * 100:.1f}" if ap50 is not None else ""
        charts.append(small_curve(name, [r for r, _ in points], [p for _, p in points], caption))
    return charts


def confusion(metrics: Mapping[str, Any]) -> Confusion | None:
    """The confusion matrix: of many classes those that take part in the most mistakes."""
    found = metrics.get("confusion") or {}
    labels, matrix = [str(label) for label in found.get("labels") or []], found.get("matrix") or []
    if len(labels) < 2 or len(matrix) != len(labels) or any(len(row) != len(labels) for row in matrix):
        return None
    size, background = len(labels), not classifies(metrics)
    if not any(map(any, matrix)):
        return None  # nothing was sure enough to count
    mistakes = [(i, j, int(matrix[i][j])) for i in range(size) for j in range(size) if i != j and matrix[i][j] > 0]
    mistakes.sort(key=lambda entry: (-entry[2], entry[0], entry[1]))
    weight = [sum(count for i, j, count in mistakes if index in (i, j)) for index in range(size)]
    classes = sorted(range(size - background), key=lambda index: (-weight[index], index))[:MATRIX_LIMIT]
    shown = [*sorted(classes), *([size - 1] if background else [])]
    sums = [sum(row) for row in matrix]
    if background:
        sums[-1] = max(sums)  # what was found where nothing is has no total of its own to be a share of
    cells = [[(int(matrix[i][j]), matrix[i][j] / (sums[i] or 1)) for j in shown] for i in shown]
    worst = [(labels[i], labels[j], count) for i, j, count in mistakes[:8]]
    left_out, score = size - len(shown), _defined(found.get("min_score"))
    return Confusion([labels[i] for i in shown], cells, left_out, worst, background, score)


def error_kinds(metrics: Mapping[str, Any]) -> list[ErrorKind]:
    """Kinds of error, the costliest first: by what AP50 would gain without them, or by count where that is not known.

    Counts are of detections of any score, so that a detector that offers many unlikely boxes has many errors which cost
    it nothing; hence the order.
    """
    kinds = []
    for name, entry in (metrics.get("errors") or {}).items():
        fields = entry if isinstance(entry, Mapping) else {"count": entry}
        count = _defined(fields.get("count"))
        if count is not None:
            kinds.append(ErrorKind(str(name).replace("_", " "), count, 0.0, _defined(fields.get("AP50_gain"))))
    most = max((kind.cost for kind in kinds), default=0) or 1
    kinds = [replace(kind, share=kind.cost / most) for kind in kinds]
    return sorted(kinds, key=lambda kind: (-kind.cost, kind.name))


def suspects(metrics: Mapping[str, Any], most: int = 12) -> list[dict[str, Any]]:
    """Annotations that the detector firmly disagrees with: they may be wrong."""
    fields = ("file_name", "kind", "found", "annotated")
    rows = [
        {key: str(row.get(key) or "") for key in fields}
        | {key: _defined(row.get(key)) for key in ("score", "annotated_score")}
        | {"bbox": [round(value) for value in row.get("bbox") or []]}
        for row in (metrics.get("suspects") or [])
    ]
    return rows[:most]


def _class(
    row: Mapping[str, Any], before: Mapping[str, float | None], later: Mapping[str, Mapping[str, Any]]
) -> ClassResult:
    name, ap = str(row.get("name", "")), _class_measure(row)
    more = {CLASS_MEASURES[key]: _defined(row[key]) for key in CLASS_MEASURES if key in row and key not in RANKED_BY}
    last = {
        CLASS_MEASURES[key]: _defined(later[name].get(key)) for key in CLASS_MEASURES if key in row and name in later
    }
    return ClassResult(
        name=name,
        ap=ap,
        change=_change(ap, before.get(name)),
        more=more,
        last=last,
        truths=int(row.get("truths") or 0),
        detections=int(row.get("detections") or 0),
    )


def _class_measure(row: Mapping[str, Any]) -> float | None:
    """What a class is ranked by: AP, or a classifier's accuracy on it."""
    return _defined(row.get("AP", row.get("recall")))


def _defined(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        return None
    return float(value)


def _change(value: float | None, before: float | None) -> float | None:
    return None if value is None or before is None else value - before
