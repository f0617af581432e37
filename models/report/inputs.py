"""What a report is made from: the files of a run, read with tolerance for those that are not there."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson


class ReportError(ValueError):
    """A report that cannot be made: a file it needs is absent, or is not what it should be."""


@dataclass(frozen=True)
class ReportInputs:
    """The files and texts of one run. Sections whose file is None or absent are left out of the page.

    Attributes:
        title: the headline of the page.
        val: COCO file of the split that was evaluated; the page calls it what the file is called, val or test.
        metrics: ``metrics.json`` of the evaluation.
        images: folder that the ``file_name`` of ``val`` are relative to; without it there are no pictures.
        train: COCO file of the training split.
        chosen_by: COCO file of the split that the best checkpoint was chosen by, where that is not ``val``.
        detections: COCO results of the evaluation.
        history: ``metrics.jsonl`` of the training.
        plan: ``plan.json`` of the weight loading; absent where the training began from scratch.
        problems: ``problems.json`` of the check.
        last: ``metrics.json`` of the checkpoint that the training ended with, where that is not the best one.
        baseline: ``metrics.json`` of the run to compare with.
        baseline_title: what to call that run, as in "more than the baseline".
        note: what sets this run apart from those it is compared with.
        config: the resolved configuration, as text.
        environment: versions and machine, in the order to show them.
    """

    title: str
    val: Path
    metrics: Path
    images: Path | None = None
    train: Path | None = None
    chosen_by: Path | None = None
    detections: Path | None = None
    history: Path | None = None
    plan: Path | None = None
    problems: Path | None = None
    last: Path | None = None
    baseline: Path | None = None
    baseline_title: str = "the baseline"
    note: str = ""
    config: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run, read: JSON as it stands in the files, ``{}`` or ``[]`` for what is absent."""

    inputs: ReportInputs
    val: Mapping[str, Any]
    train: Mapping[str, Any]
    chosen_by: Mapping[str, Any]
    metrics: Mapping[str, Any]
    last: Mapping[str, Any]
    baseline: Mapping[str, Any]
    detections: Sequence[Mapping[str, Any]]
    history: Sequence[Mapping[str, Any]]
    plan: Mapping[str, Any]
    check: Mapping[str, Any] | None  # None: no check was recorded
    digests: Mapping[str, str]  # file name -> the first 16 hex digits of its SHA-256

    @property
    def split(self) -> str:
        """What to call the split that was evaluated."""
        return {"val": "validation", "test": "test"}.get(self.inputs.val.stem, "evaluated")


def load_run(inputs: ReportInputs) -> Run:
    """Read everything a report is made from.

    Raises:
        ReportError: ``val`` or ``metrics`` is absent, or a file is not the JSON it should be.
    """
    for name, path in (("val", inputs.val), ("metrics", inputs.metrics)):
        if not path.is_file():
            raise ReportError(f"{path}: no such file ({name}). A report needs the evaluated split and its metrics")
    check = _read(inputs.problems, (list, dict), None)
    return Run(
        inputs=inputs,
        val=_coco(inputs.val),
        train=_coco(inputs.train),
        chosen_by=_coco(inputs.chosen_by),
        metrics=_read(inputs.metrics, (dict,), {}),
        last=_read(inputs.last, (dict,), {}),
        baseline=_read(inputs.baseline, (dict,), {}),
        detections=_read(inputs.detections, (list,), []),
        history=_lines(inputs.history),
        plan=_read(inputs.plan, (dict,), {}),
        check={"problems": check} if isinstance(check, list) else check,
        digests=_digests(inputs),
    )


def presentable(text: str) -> str:
    """Take out of a text what a page that travels should not tell: whose disk it was made on, and how to log in.

    Absolute paths, file URLs too, are shortened to their last part. Other URLs stay, without login and query.
    """
    text = _LOGIN.sub(r"\1…@", text)
    text = _QUERY.sub(r"\1?…", text)
    return _ABSOLUTE.sub(lambda match: "…/" + re.split(r"[/\\]", match.group().rstrip("/\\"))[-1], text)


_LOGIN = re.compile(r"(\w://)[^\s/@'\"]+@")
_QUERY = re.compile(r"(\w://[^\s?'\"]+)\?[^\s'\"]+")
_ABSOLUTE = re.compile(
    r"""(?<![\w./\\~…-])  # not inside of a word, a URL or a relative path
        (?:(?:file://)?/|[A-Za-z]:[/\\])[^\s'",;:()<>\[\]{}|/\\]+(?:[/\\][^\s'",;:()<>\[\]{}|/\\]*)*""",
    re.VERBOSE,
)


def _coco(path: Path | None) -> Mapping[str, Any]:
    """A COCO file with at least its three lists."""
    coco = _read(path, (dict,), {})
    for key in ("images", "annotations", "categories"):
        if coco and not isinstance(coco.get(key), list):
            raise ReportError(f"{path}: {key}: no list of that name. Is it a COCO instances file?")
    return {"images": [], "annotations": [], "categories": [], **coco}


def _read(path: Path | None, shapes: tuple[type, ...], absent: Any) -> Any:
    if path is None or not path.is_file():
        return absent
    try:
        content = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ReportError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, shapes):
        names = " or ".join({"list": "a list", "dict": "an object"}[shape.__name__] for shape in shapes)
        raise ReportError(f"{path}: not {names} but {type(content).__name__}")
    return content


def _lines(path: Path | None) -> list[Mapping[str, Any]]:
    """The events of a JSON Lines file; a torn last line, of a run that was killed, is left out."""
    if path is None or not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                events.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ReportError(f"{path}:{number}: not JSON: {error}") from None
    return [event for event in events if isinstance(event, dict)]


def _digests(inputs: ReportInputs) -> dict[str, str]:
    paths = {
        "training annotations": inputs.train,
        "validation annotations": inputs.chosen_by,
        "evaluated annotations": inputs.val,
        "load plan": inputs.plan,
        "detections": inputs.detections,
        "metrics": inputs.metrics,
    }
    there = {name: path for name, path in paths.items() if path is not None and path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in there.items()}
