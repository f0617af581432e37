"""One self-contained HTML page about a run: result, data, weights, training, classes, mistakes, pictures."""

from models.report.inputs import ReportError, ReportInputs
from models.report.page import compare, render

__all__ = ["ReportError", "ReportInputs", "compare", "render"]
