"""The sweep flow: one recipe with several values, run after one another or side by side, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from prefect import Task, flow
from prefect.artifacts import create_markdown_artifact
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel

from flows.config import FinetuneConfig
from flows.finetune import Outcome, finetune, say
from flows.promotion import PromotionRules
from flows.retrain import DEFAULT_RULES, Verdict, contend
from flows.runs import cells, compare_runs, figures
from flows.yaml_config import ConfigError
from models.training.folder import read_summary


class Compared(BaseModel):
    """All runs of a sweep, the best on val first; those that failed with their error instead of figures."""

    runs: tuple[Outcome, ...]
    failed: dict[str, str]
    page: Path | None = None  # that puts them side by side; None where fewer than two came to an end
    verdict: Verdict | None = None  # on the best of them, where a registry was given


def variants(vary: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """A name and the overrides of every combination of ``key=a,b,c``.

    Raises:
        ConfigError: not of that form.
    """
    for text in vary:
        if not text.partition("=")[2]:
            raise ConfigError(f"--vary {text}: write it as key=value,value, e.g. train.learning_rate=0.01,0.02")
    keys = [text.partition("=")[0] for text in vary]
    values = [text.partition("=")[2].split(",") for text in vary]
    combined = product(*values)
    return [
        (f"sweep-{number}", tuple(f"{key}={value}" for key, value in zip(keys, chosen, strict=True)))
        for number, chosen in enumerate(combined, 1)
    ]


@flow(name="sweep")
def sweep(
    configs: list[FinetuneConfig],
    at_once: int = 1,
    registry: str | None = None,
    rules: PromotionRules = DEFAULT_RULES,
) -> Compared:
    """Run every configuration and compare them; what they have in common is done once.

    Args:
        configs: each with a name of its own.
        at_once: runs at once.
        registry: folder or fsspec URL of a registry of models, where the best run becomes champion if it is better.
        rules: what it must reach for that.
    """
    tried = Task(_try, name="finetune")
    runner: ThreadPoolTaskRunner[Outcome | str] = ThreadPoolTaskRunner(max_workers=at_once)
    with runner:
        outcomes = [future.result() for future in [runner.submit(tried, {"config": config}) for config in configs]]
    measure = configs[0].train.best_by
    runs = sorted((o for o in outcomes if isinstance(o, Outcome)), key=lambda o: -on_val(o, measure))
    compared = Compared(
        runs=tuple(runs),
        failed={config.name: o for config, o in zip(configs, outcomes, strict=True) if isinstance(o, str)},
        page=_side_by_side(runs, configs[0].workspace / "sweep.html"),
    )
    create_markdown_artifact(_table(compared), key="annotune-sweep")
    if not runs:
        return compared
    say(f"best on val: {runs[0].name}, {on_val(runs[0], measure):.4f}")
    if registry is None:
        return compared
    best = next(config for config in configs if config.name == runs[0].name)
    return compared.model_copy(update={"verdict": contend(best, runs[0].products, registry, rules)})


def _side_by_side(runs: Sequence[Outcome], page: Path) -> Path | None:
    if len(runs) < 2:
        return None
    compare_runs([run.folder for run in runs], page)
    say(f"comparison: {page}")
    return page


def _try(config: FinetuneConfig) -> Outcome | str:
    state = finetune(config, return_state=True)
    outcome = state.result(raise_on_failure=False)
    return outcome if isinstance(outcome, Outcome) else str(outcome)


def on_val(outcome: Outcome, measure: str | None) -> float:
    """What runs are ranked by: ``train.best_by`` of the best checkpoint on val, for a test split chooses nothing."""
    summary = read_summary(outcome.products["train"].path)
    metrics = summary.metrics if summary else {}
    return metrics.get(measure or ("top1" if "top1" in metrics else "bbox/AP"), 0.0)


def _table(compared: Compared) -> str:
    columns = figures(run.metrics for run in compared.runs) or ["score"]
    rows = [f"| {run.name} | {' | '.join(cells(run.metrics, columns, 4))} | {run.report} |" for run in compared.runs]
    blank = " |" * (len(columns) - 1)
    rows += [f"| {name} | failed |{blank} {error.splitlines()[0]} |" for name, error in compared.failed.items()]
    head = [f"| run | {' | '.join(columns)} | report |", f"|---|{'---:|' * len(columns)}---|"]
    return "\n".join([*head, *rows]) + "\n"
