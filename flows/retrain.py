"""The retrain flow: where the data changed, a challenger is trained from the champion and has to be better."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed
from pydantic import BaseModel

from converters.fingerprint import Fingerprint
from flows.chain import Runner
from flows.config import DECIDE_NOTHING, FinetuneConfig
from flows.finetune import as_tasks, say, scores_of
from flows.parts import Dataset, dataset
from flows.promotion import Decision, PromotionRules, Scores, decide, read_scores
from flows.registry import ChampionChangedError, Entry, Registry, RegistryError, Version
from models.zoo.detector import is_classifier
from tasks.adapt import adapt
from tasks.check import classes_of
from tasks.evaluate import evaluate, last_of
from tasks.fetch import WeightsOptions, fetch
from tasks.gc import under_way
from tasks.holdout import holdout, validation_names
from tasks.keys import content_key
from tasks.look import look
from tasks.report import ReportOptions, report
from tasks.store import FileRef, Product
from tasks.train import choose_freeze, train

DEFAULT_RULES = PromotionRules()


class Verdict(BaseModel):
    """What a retrain came to."""

    outcome: Literal["unchanged", "promoted", "kept"]
    champion: str  # number of the version that is champion now
    reasons: tuple[str, ...]
    champion_score: float | None = None  # AP or accuracy of the champion before, same split; None without one
    challenger_score: float | None = None
    new_problems: tuple[str, ...] = ()  # what the dataset check finds more often than last time
    report: Path | None = None


class Challenger(NamedTuple):
    """A trained challenger with what it is judged by."""

    split: Product
    trained: Product
    evaluated: Product
    report: Product
    rival: Scores | None  # the champion's scores on the same split


@flow(name="retrain", flow_run_name="{config.name}")
def retrain(
    config: FinetuneConfig, registry: str, rules: PromotionRules = DEFAULT_RULES, refreeze: bool = False
) -> State[Verdict]:
    """Train a challenger where the data changed; it becomes champion only if it is better on the same images.

    The run ends as `Unchanged`, `Promoted` or `Kept`, with the reasons as its message.

    Args:
        config: as for finetune; its weights are where the first champion starts, later ones start from the champion.
        registry: folder or fsspec URL of the registry of models.
        rules: what the challenger must reach.
        refreeze: judge by the source's validation split of now, and keep that from now on.
    """
    book = Registry(registry)
    same = None if refreeze else _unchanged(config, book, rules)
    if same:
        return _end(book, same)
    with under_way(config.workspace):
        try:
            verdict = _contest(config, book, rules, refreeze)
        except ChampionChangedError as error:  # another run was quicker; the contest is with its champion then
            say(f"{error}; looking again")
            verdict = _unchanged(config, book, rules) or _contest(config, book, rules, refreeze)
        return _end(book, verdict)


def contend(config: FinetuneConfig, products: Mapping[str, Product], registry: str, rules: PromotionRules) -> Verdict:
    """Let a finished run stand against the champion on the validation split, by the same rules as a retraining.

    Args:
        config: of the run.
        products: of the run, by stage.
        registry: folder or fsspec URL of the registry of models.
        rules: what the run must reach.
    """
    book, run = Registry(registry), as_tasks(config)
    champion, found = champion_for(config, book), dataset(config, run)
    split = run(holdout, found.checked, (), champion.classes if champion else ())
    best = products["train"].file("best.pt")
    evaluated = run(evaluate, best, split.file("val.json"), found.images, config.evaluate)
    before = None
    if champion:
        before = run(evaluate, _model(config, champion, book), split.file("known.json"), found.images, config.evaluate)
    rival = read_scores(before.path / "metrics.json") if before else None
    challenger = Challenger(split, products["train"], evaluated, products["report"], rival)
    decision = _judge(challenger, rules)
    if champion and champion.validation != validation_names(split):  # it may have learned from these images
        decision = Decision(False, (f"version {champion.number} is judged by another validation split; use retrain",))
    verdict = _settle(book, _entry(config, rules, found, champion, decision), challenger, config)
    _end(book, verdict)
    return verdict


def champion_for(config: FinetuneConfig, book: Registry) -> Version | None:
    """The champion that a run of this recipe has to beat; None before the first.

    Raises:
        RegistryError: the registry's models have another task.
    """
    champion = book.champion()
    if champion and is_classifier(champion.detector) != (config.task == "classification"):
        problem = f"its champion {champion.number} is {champion.detector}, and the recipe's task is {config.task}"
        raise RegistryError(f"{book.url}: {problem}. Give each task a registry of its own")
    return champion


def _unchanged(config: FinetuneConfig, book: Registry, rules: PromotionRules) -> Verdict | None:
    """The verdict where the last run looked at the very same; such a run uses nothing and costs seconds."""
    seen = as_tasks(config)(look, config.source)
    history = book.history()
    if not history or history[-1].data != _key(config, rules, seen):
        return None
    last = history[-1]
    message = f"nothing new since {last.at}; version {last.champion} stays champion"
    return Verdict(outcome="unchanged", champion=last.champion, reasons=(message,))


def _contest(config: FinetuneConfig, book: Registry, rules: PromotionRules, refreeze: bool) -> Verdict:
    run = as_tasks(config)
    history, champion = book.history(), champion_for(config, book)
    found = dataset(config, run)
    worse = new_problems(history[-1].problems, _problems(found.checked)) if history else ()
    for line in worse:
        say(f"new since last time: {line}")
    challenger = _challenge(config, run, found, champion, book, refreeze)
    decision = _judge(challenger, rules)
    verdict = _settle(book, _entry(config, rules, found, champion, decision), challenger, config)
    return verdict.model_copy(update={"new_problems": worse})


def _entry(
    config: FinetuneConfig, rules: PromotionRules, found: Dataset, champion: Version | None, decision: Decision
) -> Entry:
    return Entry(
        event="promoted" if decision.promote else "kept",
        champion=champion.number if champion else "",
        data=_key(config, rules, found.seen),  # it may have changed since the first look
        reasons=decision.reasons,
        problems=_problems(found.checked),
    )


def _key(config: FinetuneConfig, rules: PromotionRules, seen: Fingerprint) -> str:
    """What a run would be about: the data, what is made of it and how it is judged, wherever it lies."""
    said = config.model_dump(mode="json", exclude={"name", *DECIDE_NOTHING}) | {"source": config.source.binding()}
    return content_key("retrain", "flows.registry", {"config": said, "rules": rules, "seen": seen})


def _problems(checked: Product) -> dict[str, int]:
    rules = orjson.loads((checked.path / "problems.json").read_bytes())["rules"]
    return {name: rule["count"] for name, rule in rules.items()}


def new_problems(before: dict[str, int], now: dict[str, int]) -> tuple[str, ...]:
    """What the check finds more often than last time: findings by rule, then and now."""
    grown = {name: count - before.get(name, 0) for name, count in now.items()}
    return tuple(f"{more} more of {name}" for name, more in grown.items() if more > 0)


def _challenge(
    config: FinetuneConfig, run: Runner, data: Dataset, champion: Version | None, book: Registry, refreeze: bool
) -> Challenger:
    classes = classes_of(data.checked)
    frozen = champion.validation if champion and not refreeze else ()
    split = run(holdout, data.checked, frozen, champion.classes if champion else ())
    start, rules = _start(config, run, champion, book)
    adapted = run(adapt, start, rules, config.detector, classes, config.train.seed)
    train_json, val_json = split.file("train.json"), split.file("val.json")
    trained = run(
        train, adapted.file("init.pt"), train_json, val_json, data.images, choose_freeze(config.train, adapted, split)
    )
    evaluated = run(evaluate, trained.file("best.pt"), val_json, data.images, config.evaluate, last_of(trained))
    before = None
    if champion:
        before = run(evaluate, _model(config, champion, book), split.file("known.json"), data.images, config.evaluate)
    about = ReportOptions(title=config.name, config=config.as_yaml(), baseline="the champion")
    page = run(report, about, split, data.images, adapted, trained, evaluated, before)
    return Challenger(split, trained, evaluated, page, read_scores(before.path / "metrics.json") if before else None)


def _start(
    config: FinetuneConfig, run: Runner, champion: Version | None, book: Registry
) -> tuple[FileRef | None, WeightsOptions | None]:
    """The weights to start from: the champion's, class rows by name, unless another detector is asked for."""
    if champion and champion.detector == config.detector.name:
        return _model(config, champion, book), WeightsOptions(source="champion", sha256=champion.sha256)
    if config.weights is None:
        return None, None
    return run(fetch, config.weights.source, config.weights.sha256), config.weights


def _model(config: FinetuneConfig, champion: Version, book: Registry) -> FileRef:
    path = book.checkpoint(champion, config.workspace / "champions")
    return FileRef(path=path, sha256=champion.sha256, size=champion.size)


def _judge(challenger: Challenger, rules: PromotionRules) -> Decision:
    if challenger.rival is None:
        return Decision(True, ("the first model of this registry",))
    return decide(challenger.rival, read_scores(challenger.evaluated.path / "metrics.json"), rules)


def _settle(book: Registry, entry: Entry, challenger: Challenger, config: FinetuneConfig) -> Verdict:
    """Write the decision into the registry; nothing before this line has changed it."""
    scores = read_scores(challenger.evaluated.path / "metrics.json")
    page = challenger.report.path / "report.html"
    number = entry.champion
    if entry.event == "promoted":
        version = Version(
            detector=config.detector.name,
            classes=classes_of(challenger.split),
            scores=scores_of(challenger.evaluated),
            validation=validation_names(challenger.split),
            data=entry.data,
        )
        number = book.promote(challenger.trained.path / "best.pt", version, entry, {"report.html": page}).number
    else:
        book.keep(entry)
    return Verdict(
        outcome="promoted" if entry.event == "promoted" else "kept",
        champion=number,
        reasons=entry.reasons,
        champion_score=challenger.rival.over(scores.truths) if challenger.rival else None,
        challenger_score=scores.over(scores.truths),
        report=page,
    )


def _end(book: Registry, verdict: Verdict) -> State[Verdict]:
    """The state of the run, and the event and artifact that tell of it."""
    message = "; ".join(verdict.reasons)
    say(f"{verdict.outcome}: version {verdict.champion} is champion. {message}")
    payload: dict[str, Any] = verdict.model_dump(mode="json", exclude={"report"})
    name = Path(book.root).name or "registry"
    emit_event(
        event=f"annotune.champion.{verdict.outcome}",
        resource={"prefect.resource.id": f"annotune.registry.{name}", "prefect.resource.name": name},
        payload=payload,
    )
    if verdict.outcome != "unchanged":
        rows = [f"| {key} | {value} |" for key, value in payload.items() if isinstance(value, str | float)]
        problems = ["New problems in the data:", "", *(f"- {line}" for line in verdict.new_problems), ""]
        lines = [*(problems if verdict.new_problems else ()), message, "", "| | |", "|---|---|", *rows]
        create_markdown_artifact("\n".join(lines) + "\n", key="annotune-champion")
    return Completed(name=verdict.outcome.capitalize(), message=message, data=verdict)
