"""Report: one page that shows the whole run."""

from __future__ import annotations

from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict

from models.report import ReportInputs, render
from tasks.convert import Images
from tasks.evaluate import last_metrics
from tasks.stage import product
from tasks.store import Product


class ReportOptions(BaseModel):
    """What the page says about the run."""

    model_config = ConfigDict(frozen=True)

    title: str
    config: str  # the resolved configuration, as YAML
    split: str = "val.json"  # the split that was evaluated
    baseline: str = "baseline"  # what to call the run that is compared with


@product("models.report")
def report(
    folder: Path,
    options: ReportOptions,
    checked: Product,
    images: Images,
    adapted: Product,
    trained: Product,
    evaluated: Product,
    baseline: Product | None = None,
) -> None:
    """Write ``report.html``; ``baseline`` is another evaluation to compare the headline with."""
    inputs = ReportInputs(
        title=options.title,
        val=checked.path / options.split,
        metrics=evaluated.path / "metrics.json",
        last=last_metrics(evaluated),
        images=images.root,
        train=checked.path / "train.json",
        detections=evaluated.path / "detections.json",
        history=trained.path / "metrics.jsonl",
        plan=adapted.path / "plan.json" if adapted.has("plan.json") else None,
        problems=checked.path / "problems.json",
        baseline=baseline.path / "metrics.json" if baseline else None,
        baseline_title=options.baseline,
        environment=_environment(trained.path / "environment.json"),
        config=options.config,
    )
    render(inputs, folder / "report.html")
    (folder / "summary.md").write_text("report.html\n")


def _environment(path: Path) -> dict[str, str]:
    about = orjson.loads(path.read_bytes())
    git = about.pop("git", None) or {}
    if git:
        about["commit"] = git["commit"][:12] + (" with changes" if git.get("changed") else "")
    return {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in about.items()
    }
