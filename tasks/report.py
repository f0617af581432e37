"""Report: one page that shows the whole run."""

from __future__ import annotations

from pathlib import Path

from models.report import ReportInputs, render
from tasks.convert import Images
from tasks.stage import product
from tasks.store import Product


@product("models.report")
def report(
    folder: Path,
    title: str,
    config: str,
    checked: Product,
    images: Images,
    adapted: Product,
    trained: Product,
    evaluated: Product,
    baseline: Product | None = None,
) -> None:
    """Write ``report.html``; ``baseline`` is another evaluation to compare the headline with."""
    inputs = ReportInputs(
        title=title,
        val=checked.path / "val.json",
        metrics=evaluated.path / "metrics.json",
        images=images.root,
        train=checked.path / "train.json",
        detections=evaluated.path / "detections.json",
        history=trained.path / "metrics.jsonl",
        plan=adapted.path / "plan.json" if adapted.has("plan.json") else None,
        problems=checked.path / "problems.json",
        baseline=baseline.path / "metrics.json" if baseline else None,
        config=config,
    )
    render(inputs, folder / "report.html")
    (folder / "summary.md").write_text("report.html\n")
