"""Ids, references and file names: what ties images, annotations and categories together."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

from converters.check.columns import as_integer
from converters.check.draft import DROP, Draft, groups

_INTEGERS: dict[str, dict[str, tuple[str, ...]]] = {
    "images": {"id-type": ("id",), "number-type": ("width", "height")},
    "annotations": {"id-type": ("id", "image_id", "category_id"), "number-type": ("iscrowd",)},
    "categories": {"id-type": ("id",)},
}


def check_ids(draft: Draft) -> None:
    """Types, uniqueness and references of all ids of a split."""
    for kind, rules in _INTEGERS.items():
        for rule, keys in rules.items():
            _check_types(draft, rule, kind, keys)
    _check_missing(draft)
    draft.settle()
    _check_duplicates(draft)
    _check_references(draft)
    draft.settle()
    _check_gap(draft)


def _check_types(draft: Draft, rule: str, kind: str, keys: tuple[str, ...]) -> None:
    """Values that mean an integer and are written as something else."""
    for key in keys:
        column = draft.column(kind, key)
        if set(map(type, column)) <= {int, type(None)}:
            continue
        for index, value in enumerate(column):
            if type(value) is not int and (meant := as_integer(value)) is not None:
                what = f"{key} is {type(value).__name__}"
                draft.hit(rule, index, what, repr(value), {key: meant}, kind=kind)


def _check_missing(draft: Draft) -> None:
    for kind in ("images", "annotations", "categories"):
        ids = draft.ids(kind)
        if None not in ids:
            continue
        free = max((i for i in ids if i is not None), default=0)
        for index, known in enumerate(ids):
            if known is None:
                free = max(free, 0) + 1
                repair = {"images": DROP, "annotations": {"id": free}, "categories": None}[kind]
                value = draft.lists[kind][index].get("id", "missing")
                draft.hit("id-invalid", index, f"no usable id in {kind}", value, repair, kind=kind)


def _check_duplicates(draft: Draft) -> None:
    for rule, kind in (("image-id-duplicate", "images"), ("category-id-duplicate", "categories")):
        for known, indices in groups(draft.ids(kind)).items():
            for index in indices[1:]:
                draft.hit(rule, index, f"id {known} stands {len(indices)} times", _label(draft, kind, index), kind=kind)
    ids = draft.ids("annotations")
    if len(set(ids)) == len(ids) and min((i for i in ids if i is not None), default=1) > 0:
        return
    rows = draft.image_rows()
    free = max((i for i in ids if i is not None), default=0)
    seen: set[int] = set()
    for index, known in enumerate(ids):
        if known is None or (known > 0 and known not in seen):
            seen |= set() if known is None else {known}
            continue
        free = max(free, 0) + 1
        rule = "annotation-id-nonpositive" if known <= 0 else "annotation-id-duplicate"
        draft.hit(rule, index, value=known, repair={"id": free}, row=int(rows[index]))


def _label(draft: Draft, kind: str, index: int) -> Any:
    return draft.lists[kind][index].get("file_name" if kind == "images" else "name", "")


def _check_references(draft: Draft) -> None:
    rows = draft.image_rows()
    known = set(draft.ids("categories")) - {None}
    for index, category in enumerate(draft.ids("annotations", "category_id")):
        entry = draft.annotations[index]
        if rows[index] < 0:
            value = entry.get("image_id", "missing")
            draft.hit("orphan-image", index, "image_id refers to no image", value, DROP, row=-1)
        if category not in known:
            value = entry.get("category_id", "missing")
            draft.hit("orphan-category", index, "category_id refers to no category", value, DROP, row=int(rows[index]))


def _check_gap(draft: Draft) -> None:
    ids = sorted(known for known in draft.ids("categories") if known is not None)
    if len(set(ids)) < len(draft.categories) or ids == list(range(1, len(ids) + 1)):
        return
    used = draft.ids("annotations", "category_id")
    closed = set(used) <= set(ids)  # an orphan could be taken for one of the new ids
    message = "ids begin at 0" if 0 in ids else "ids have gaps"
    if draft.hit("category-id-gap", message=message, value=ids, repair=dict if closed else None) == "fixed":
        new = {old: position for position, old in enumerate(ids, start=1)}
        for kind, key in (("categories", "id"), ("annotations", "category_id")):
            for index, old in enumerate(draft.ids(kind, key)):
                if old is not None and new[old] != old:
                    draft.set(kind, index, {key: new[old]}, "category-id-gap")


def check_names(draft: Draft) -> None:
    """File names: safe, portable, one image each."""
    for index, name in enumerate(draft.column("images", "file_name")):
        if problem := unsafe(name):
            draft.hit("file-name-unsafe", index, problem, name, _relative(name, draft.root))
        elif (portable := _portable(name)) != name:
            draft.hit("file-name-style", index, value=ascii(name)[1:-1], repair=_rename(draft, name, portable))
    names = [name if isinstance(name, str) else None for name in draft.column("images", "file_name")]
    for name, indices in groups(names).items():
        for index in indices[1:]:
            draft.hit("file-name-duplicate", index, f"{name} stands {len(indices)} times")


def unsafe(name: Any) -> str:
    """Why a file_name cannot be opened below an image folder; empty where it can."""
    if not isinstance(name, str) or not name.strip():
        return "file_name is missing"
    if "\0" in name:
        return "file_name holds a NUL"
    flat = name.replace("\\", "/")
    if flat.startswith("/") or re.match(r"[A-Za-z]:", flat):
        return "file_name is absolute"
    return "file_name leaves the image folder" if ".." in flat.split("/") else ""


def _relative(name: Any, root: Path | None) -> dict[str, Any] | None:
    """The name below the image folder, for an absolute one that lies there."""
    if root is None or not isinstance(name, str) or "\0" in name or ".." in name.replace("\\", "/").split("/"):
        return None
    flat = PurePosixPath(name.replace("\\", "/"))
    for start in range(1, len(flat.parts)):
        inner = _portable("/".join(flat.parts[start:]))
        if not unsafe(inner) and _is_file(root / inner):
            return {"file_name": inner}
    return None


def _portable(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def _rename(draft: Draft, name: str, portable: str) -> dict[str, Any] | None:
    """The portable name, unless only the other one is on disk."""
    if unsafe(portable) or (
        draft.root is not None and not _is_file(draft.root / portable) and _is_file(draft.root / name)
    ):
        return None
    return {"file_name": portable}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a lone surrogate
        return False
