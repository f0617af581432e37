"""Categories: their names, and what the annotations make of them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from converters.check.draft import Draft, groups
from converters.check.limits import Limits


def check_names(draft: Draft) -> None:
    """Rules about names and supercategories of one split."""
    names = draft.column("categories", "name")
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            draft.hit("category-name-empty", index, value=name if name is not None else "missing")
        if draft.categories[index].get("supercategory") is None:
            draft.hit("supercategory-missing", index, value=name, repair={"supercategory": ""})
    texts = [name if isinstance(name, str) and name.strip() else None for name in names]
    for name, indices in groups(texts).items():
        for index in indices[1:]:
            draft.hit("category-name-duplicate", index, f"{len(indices)} categories are called {name!r}", name)
    for indices in groups([None if name is None else _folded(name) for name in texts]).values():
        alike = sorted({str(texts[index]) for index in indices})
        if len(alike) > 1:
            draft.hit("category-name-similar", indices[-1], f"categories {', '.join(map(repr, alike))}", alike)


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def check_lists(drafts: Sequence[Draft], classes: Sequence[str] | None) -> None:
    """Whether all splits have one category list, and whether it is the expected one."""
    first = next((draft for draft in drafts if draft.categories), None)
    for draft in drafts:
        if classes is not None and (draft is first or first is None):
            names = _names(draft)
            if sorted(names) != sorted(classes):
                missing, more = sorted(set(classes) - set(names)), sorted(set(names) - set(classes))
                message = f"{len(names)} categories where {len(classes)} are expected"
                draft.hit("categories-unexpected", message=message, value=f"missing {missing}, unexpected {more}")
        if first is None or draft is first:
            continue
        mine, theirs = _numbered(draft), _numbered(first)
        if mine != theirs:
            differing = sorted(str(name) for name, _ in set(mine.items()) ^ set(theirs.items()))
            message = f"the categories of {draft.name} are not those of {first.name}"
            draft.hit("categories-differ", message=message, value=sorted(set(differing)))
        elif _names(draft) != _names(first):
            draft.hit(
                "categories-order", message=f"{draft.name} lists the categories in another order than {first.name}"
            )


def _names(draft: Draft) -> list[str]:
    return [str(name) for name in draft.column("categories", "name")]


def _numbered(draft: Draft) -> dict[str, int | None]:
    return dict(zip(_names(draft), draft.ids("categories"), strict=True))


def class_counts(draft: Draft) -> Counter[str]:
    """Annotations per category name, categories without any included, in category order."""
    names: dict[Any, str] = dict(zip(draft.ids("categories"), _names(draft), strict=True))
    counts = Counter(dict.fromkeys(names.values(), 0))
    for known, count in Counter(draft.ids("annotations", "category_id")).items():
        if known in names:
            counts[names[known]] += count
    return counts


def check_balance(drafts: Sequence[Draft], train: Draft | None, limits: Limits) -> None:
    """Classes against annotations: unused, rare, alone, unbalanced, unequal between splits."""
    per_split = {draft.name: class_counts(draft) for draft in drafts}
    total: Counter[str] = Counter()
    for counts in per_split.values():
        total.update(counts)
    home = next((draft for draft in drafts if draft.categories), None)
    if home is None:
        return
    for index, name in enumerate(_names(home)):
        if not total[name]:
            home.hit("category-unused", index, f"{name!r} has no annotation", name)
        elif total[name] < limits.few:
            home.hit("category-few", index, f"{name!r} has {total[name]} annotations", name)
    used = {name: count for name, count in total.items() if count}
    if len(home.categories) == 1:
        home.hit("category-single", value=_names(home))
    if len(used) > 1 and max(used.values()) >= limits.imbalance * min(used.values()):
        most, least = max(used, key=lambda n: used[n]), min(used, key=lambda n: used[n])
        message = f"{most!r} has {used[most]} annotations, {least!r} has {used[least]}"
        home.hit("category-imbalance", message=message, value=f"{used[most] / used[least]:.0f} to 1")
    if train is not None and len(drafts) > 1:
        _check_against_train(drafts, train, limits)


def _check_against_train(drafts: Sequence[Draft], train: Draft, limits: Limits) -> None:
    learnt = class_counts(train)
    for draft in drafts:
        counts = class_counts(draft)
        if draft is train or not counts.total():
            continue
        for name in (name for name, count in counts.items() if count):
            share = counts[name] / counts.total()
            if not learnt[name]:
                message = f"{name!r} is in {draft.name} ({counts[name]} times) and not in {train.name}"
                draft.hit("category-not-in-train", message=message, value=name)
                continue
            known = learnt[name] / learnt.total()
            if max(share / known, known / share) > limits.share_ratio and counts[name] + learnt[name] >= 30:
                message = f"{name!r} is {share:.1%} of {draft.name} and {known:.1%} of {train.name}"
                draft.hit("category-share", message=message, value=name)


def train_of(drafts: Sequence[Draft]) -> Draft | None:
    """The split to learn from: called train, else the one with the most images."""
    named = [draft for draft in drafts if "train" in draft.name.casefold()]
    return max(named or drafts, key=lambda draft: len(draft.images), default=None)
