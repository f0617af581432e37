"""The check itself: which rules run in which order, and what comes out."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from converters.check import categories
from converters.check.areas import check_areas, check_crowds
from converters.check.boxes import check_boxes
from converters.check.draft import Draft, Ledger
from converters.check.duplicates import check_duplicates
from converters.check.ids import check_ids, check_names
from converters.check.images import check_empty, check_images, check_unlisted, paths_of
from converters.check.limits import Limits
from converters.check.loading import load
from converters.check.probe import Depth, Look, look_at
from converters.check.report import CheckReport, Problem
from converters.check.rules import RULES, SEVERITIES, plain_policy
from converters.check.segmentation import check_segmentations
from converters.check.splits import check_copies, check_splits
from converters.check.statistics import statistics_of


def find_problems(
    splits: Mapping[str, Mapping[str, Any] | Path],
    images: Path | Mapping[str, Path] | None = None,
    *,
    policy: Mapping[str, str] | None = None,
    jobs: int = 1,
    depth: Depth = "header",
    decode: Collection[str] = (),
    classes: Sequence[str] | None = None,
    max_drop: float = 0.01,
    keep: int = 100,
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check the splits of a COCO dataset against every rule, and repair what the policy says.

    The input is never changed. Any JSON is taken: what is wrong with it is in the report, not an exception. Repairs
    are made in the order of the rules, so that checking the result again with the same policy finds nothing to repair.

    Args:
        splits: COCO dicts or files by split name; ``train`` in a name marks the split to learn from.
        images: the folder that ``file_name`` is relative to, one for all splits or one by split name; without it
            nothing on disk is looked at.
        policy: ``error|warn|info|fix|drop|off`` by rule id, see :data:`converters.check.RULES`;
            :func:`converters.check.repair_policy` repairs all that needs no decision.
        jobs: image files looked at at once; 0 for one a core.
        depth: ``header`` reads a few bytes of each image; ``whole`` decodes it; ``pixels`` also finds near duplicates
            and blank frames.
        decode: splits whose images are decoded in any case, as an evaluation does, which cannot leave any out.
        classes: the names that the categories must have, for instance those of a model's head.
        max_drop: share of a split's images or annotations that may be dropped, 0..1, at least one entry; more is an
            error.
        keep: examples kept per rule; counts are exact.
        limits: thresholds of the rules.
        progress: called with the number of image files looked at so far, and of all.

    Raises:
        DatasetError: the policy names an unknown rule, or a repair that the rule does not have.
    """
    limits = limits or Limits()
    ledger = Ledger(plain_policy(policy), keep)
    roots = images if isinstance(images, Mapping) else dict.fromkeys(splits, images)
    with np.errstate(all="ignore"), _without_collector():  # NaN and infinity are findings here, not accidents
        loaded = [load(name, source, ledger, roots.get(name)) for name, source in splits.items()]
        drafts = [draft for draft in loaded if draft.readable]
        for draft in drafts:
            check_ids(draft)
            categories.check_names(draft)
            check_names(draft)
        looks = look_at(_depths(drafts, depth, decode), jobs, progress)
        for draft in drafts:
            _check_one(draft, looks, limits)
        if len(drafts) == len(loaded):
            check_unlisted(drafts)
        _check_together(drafts, looks, classes, limits)
        for draft in drafts:
            _check_budget(draft, max_drop)
        figures = statistics_of(drafts, {draft.name: categories.class_counts(draft) for draft in drafts})
    return _reported(ledger, drafts, figures)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Nothing made here has cycles, and every pass of the collector would walk all of the JSON: a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _depths(drafts: Sequence[Draft], depth: Depth, decode: Collection[str]) -> dict[Path, Depth]:
    """How closely each image file is looked at."""
    at_least: dict[str, Depth] = dict.fromkeys(decode, "whole") if depth == "header" else {}
    drafts = sorted(drafts, key=lambda draft: draft.name in decode)  # of a file in two splits the closer look
    return {path: at_least.get(draft.name, depth) for draft in drafts for path in paths_of(draft) if path is not None}


def _check_one(draft: Draft, looks: Mapping[Path, Look], limits: Limits) -> None:
    check_images(draft, looks, limits)
    check_boxes(draft, limits)
    masks = check_segmentations(draft, limits)
    check_areas(draft, masks, limits)
    check_crowds(draft, masks, limits)
    check_duplicates(draft, limits)


def _check_together(
    drafts: Sequence[Draft], looks: Mapping[Path, Look], classes: Sequence[str] | None, limits: Limits
) -> None:
    train = categories.train_of(drafts)
    check_splits(drafts, train)
    check_copies(drafts, train, looks, limits)
    categories.check_lists(drafts, classes)
    categories.check_balance(drafts, train, limits)
    for draft in drafts:
        check_empty(draft)
        draft.settle()


def _check_budget(draft: Draft, max_drop: float) -> None:
    for kind in ("images", "annotations"):
        gone = draft.total[kind] - len(draft.lists[kind])
        if gone > math.ceil(max_drop * draft.total[kind]):
            message = f"{gone} of {draft.total[kind]} {kind} were dropped, more than {max_drop:.1%}"
            draft.hit("drop-budget", message=message, value=f"{gone / draft.total[kind]:.1%}")


def _reported(ledger: Ledger, drafts: Sequence[Draft], figures: Any) -> CheckReport:
    """Put the ledger in the order of severity, and of the rules."""
    counts = {rule: sum(n for (name, _), n in ledger.counts.items() if name == rule) for rule in RULES}
    repaired = {rule: ledger.counts[rule, "fixed"] + ledger.counts[rule, "dropped"] for rule in RULES}
    problems = [problem for rule in RULES for problem in ledger.problems.get(rule, ())]

    def rank(problem: Problem) -> int:
        return SEVERITIES.index(problem.severity) + 3 * (problem.action != "reported")

    return CheckReport(
        problems=tuple(sorted(problems, key=rank)),
        counts={rule: count for rule, count in counts.items() if count},
        repaired={rule: count for rule, count in repaired.items() if count},
        severities={s: sum(n for (_, how), n in ledger.counts.items() if how == s) for s in SEVERITIES},
        statistics=figures,
        splits={draft.name: draft.result() for draft in drafts},
        changes=tuple(ledger.changes),
    )
