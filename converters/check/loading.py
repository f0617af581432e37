"""From a file, or from anything at all, to a draft whose three lists hold objects."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from converters.check.draft import Draft, Ledger, flatten

_KNOWN = {
    "": {"info", "licenses", "images", "annotations", "categories"},
    "images": {"id", "width", "height", "file_name", "license", "flickr_url", "coco_url", "date_captured", "flags"},
    "annotations": {
        *("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore"),
        *("segmentation", "keypoints", "num_keypoints"),
        # What annotation formats carry along, written beside COCO's own by this and other converters.
        *("attributes", "description", "flags", "group_id", "parts", "pose", "score", "difficult", "truncated"),
        *("occluded", "occlusion", "blur", "expression", "illumination", "invalid"),
    },
    "categories": {"id", "name", "supercategory", "keypoints", "skeleton"},
}


def load(name: str, source: Mapping[str, Any] | Path, ledger: Ledger, root: Path | None) -> Draft:
    """Return the draft of a split; what cannot be read is an empty draft and a problem in the ledger."""
    if isinstance(source, Mapping):
        draft = Draft(name, source, ledger, root=root)
    else:
        draft = _from_file(name, source, ledger, root)
    _check_structure(draft)
    return draft


def _from_file(name: str, path: Path, ledger: Ledger, root: Path | None) -> Draft:
    empty = Draft(name, {}, ledger, path.name, root)
    empty.readable = False
    try:
        data = path.read_bytes()
    except OSError as error:
        empty.hit("json-unreadable", message=f"cannot read the file: {error.strerror or error}")
        return empty
    bom = data.startswith(b"\xef\xbb\xbf")
    parsed, problem, tokens = _parse(data[3:] if bom else data)
    if not isinstance(parsed, dict):
        if not problem:
            empty.hit("structure-invalid", message="the file holds no object", value=type(parsed).__name__)
        else:
            empty.hit("json-unreadable", message=problem)
        return empty
    draft = Draft(name, parsed, ledger, path.name, root)
    if bom:
        draft.hit("json-bom", repair=dict)
    if tokens:
        draft.hit("json-nan", message=f"NaN or Infinity {tokens}", repair=dict)
    return draft


def _parse(data: bytes) -> tuple[Any, str, str]:
    """Return what the bytes hold, why they hold nothing, and where the numbers are that JSON does not have."""
    try:
        return orjson.loads(data), "", ""
    except orjson.JSONDecodeError:
        pass  # NaN, or nesting or integers beyond orjson: the slower reader tells which
    found: Counter[str] = Counter()

    def constant(token: str) -> float:
        found[token] += 1
        return float(token)

    try:
        parsed = json.loads(data.decode("utf-8"), parse_constant=constant)
    except UnicodeDecodeError as error:
        return None, f"not UTF-8 at byte {error.start}", ""
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}", ""
    except (RecursionError, ValueError) as error:
        return None, f"not readable as JSON: {error}", ""
    first = re.search(rb"(?<![\w\"])-?(?:NaN|Infinity)\b", data)
    where = f"{sum(found.values())} times" + (f", first at byte {first.start()}" if first else "")
    return parsed, "", where if found else ""


def _check_structure(draft: Draft) -> None:
    source = draft.source
    if not draft.readable:
        return
    for kind in ("images", "categories"):
        if not isinstance(source.get(kind), list | tuple):
            draft.hit("structure-invalid", message=f"{kind} is no list", value=source.get(kind, "missing"))
    if source.get("annotations") is None:
        draft.hit("annotations-missing", repair={"annotations": []})
    elif not isinstance(source["annotations"], list | tuple):
        draft.hit("structure-invalid", message="annotations is no list", value=source["annotations"])
    for kind, strays in draft.strays.items():
        _check_strays(draft, kind, strays)
    needed: dict[str, Any] = {"info": {}, "licenses": []}
    absent = {key: empty for key, empty in needed.items() if source.get(key) is None}
    if absent:
        draft.hit("info-missing", message=f"{' and '.join(absent)} missing", repair=absent)
    _check_keys(draft)


def _check_strays(draft: Draft, kind: str, strays: list[Any]) -> None:
    """Entries that are no objects: they stand aside, and are dropped as one."""
    for stray in strays:
        if draft.hit("entry-invalid", message=f"an entry of {kind} is no object", value=stray, repair=dict) == "fixed":
            draft.touched.add(kind)
    if kind in draft.touched:
        draft.strays[kind] = []


def _check_keys(draft: Draft) -> None:
    if not draft.ledger.active("unknown-key"):
        return
    for kind, known in _KNOWN.items():
        keys = Counter(flatten(draft.lists[kind]) if kind else draft.source)
        for key in sorted(map(str, set(keys) - known)):
            draft.hit(
                "unknown-key", message=f"{kind or 'the top level'} has the key {key!r}", value=f"{keys[key]} times"
            )
