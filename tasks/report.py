"""Report: one page that shows the whole run."""

from __future__ import annotations

from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict

from models.report import ReportInputs, render
from models.report.inputs import presentable
from tasks.convert import Images
from tasks.evaluate import last_metrics
from tasks.stage import as_text, product
from tasks.store import Product


class ReportOptions(BaseModel):
    """What the page says about the run."""

    model_config = ConfigDict(frozen=True)

    title: str
    config: str  # the resolved configuration, as YAML
    split: str = "val.json"  # the split that was evaluated
    baseline: str = "the baseline"  # what to call the run that is compared with, as in "more than the baseline"

    def binding(self) -> dict[str, str]:
        """What the page shows of it: of absolute paths that is their last part, so the data may lie elsewhere."""
        return {**self.model_dump(), "config": presentable(self.config)}


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
        chosen_by=checked.path / "val.json" if options.split != "val.json" else None,
        detections=evaluated.path / "detections.json",
        history=trained.path / "metrics.jsonl",
        plan=adapted.path / "plan.json" if adapted.has("plan.json") else None,
        problems=checked.path / "problems.json",
        baseline=baseline.path / "metrics.json" if baseline else None,
        baseline_title=options.baseline,
        environment=_environment(trained.path / "environment.json"),
        config=options.config,
    )
    result = render(inputs, folder / "report.html")
    (folder / "summary.md").write_text(f"report.html\n\n{as_text(result)}\n")


def _environment(path: Path) -> dict[str, str]:
    about = orjson.loads(path.read_bytes())
    git = about.get("git") or {}
    told = {
        "Python": about["python"],
        "torch": about["torch"],
        "torchvision": about["torchvision"],
        "CPU cores": about["cpus"],
        "GPUs": ", ".join(about["gpus"]) or "none",
        "Platform": about["platform"],
        "Commit": git["commit"][:12] + (" with changes" if git.get("changed") else "") if git else "",
    }
    return {name: str(value) for name, value in told.items() if value != ""}
