"""``annotune-convert check``: the check as a command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from converters.check.finding import find_problems
from converters.check.page import write_page
from converters.check.probe import Depth
from converters.check.report import CheckReport, Problem
from converters.check.rules import SEVERITIES, plain_policy, repair_policy
from converters.errors import DatasetError
from converters.files import write_whole

_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan", "repaired": "green"}
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


Files = Annotated[list[Path], typer.Argument(metavar="COCO.json...", help="One COCO file for each split.")]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="DIR", help="Folder of the images; once for all files, or once for each. Without it no image is read."
    ),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write all findings and figures as JSON.")
]
HtmlFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with figures and pictures.")]
Fix = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|DIR",
        help="Repair what needs no decision and write the result here (a folder for several files), with a log of the "
        "changes beside it.",
    ),
]
Policy = Annotated[
    list[str] | None,
    typer.Option(metavar="RULE=POLICY", help="error, warn, info, fix, drop or off for one rule; repeatable."),
]
Classes = Annotated[str | None, typer.Option(metavar="A,B,...", help="The class names that the dataset must have.")]
Pixels = Annotated[
    bool, typer.Option("--pixels", help="Decode every image: finds broken data, near duplicates, blank frames.")
]
Jobs = Annotated[int, typer.Option(min=0, help="Images read at once; 0: one a core.")]
MaxDrop = Annotated[
    float, typer.Option(min=0, max=1, help="Largest share that --fix may drop before it refuses to write.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit 1 when there are warnings.")]


def check(
    files: Files,
    images: Images = None,
    json_file: JsonFile = None,
    html: HtmlFile = None,
    fix: Fix = None,
    policy: Policy = None,
    classes: Classes = None,
    pixels: Pixels = False,
    jobs: Jobs = 0,
    max_drop: MaxDrop = 0.01,
    strict: Strict = False,
) -> None:
    """Check a COCO dataset: ids, boxes, masks, images on disk, duplicates, leakage between splits.

    Exit codes: 0 nothing found that stops a training, 1 warnings (with --strict), 2 errors.

    Example: annotune-convert check train.json val.json --images photos --html check.html --fix fixed/
    """
    splits = split_names(files)
    roots = _roots(splits, images or [])
    chosen = (repair_policy if fix else plain_policy)(_policies(policy or []))
    targets = _targets(splits, fix)
    names = [name.strip() for name in classes.split(",")] if classes else None
    depth: Depth = "pixels" if pixels else "header"
    with _progress() as progress:
        report = find_problems(
            splits, roots, policy=chosen, jobs=jobs, depth=depth, classes=names, max_drop=max_drop, progress=progress
        )
    _print(report)
    _write_fixed(report, targets)
    if json_file:
        _write_json(json_file, report.to_json(), indent=True)
    if html:
        write_page(report, html, roots, f"Check of {', '.join(splits)}")
    for path in filter(None, (json_file, html)):
        _out.print(f"wrote {_plain(str(path))}", soft_wrap=True)
    raise typer.Exit(exit_code(report, strict))


def exit_code(report: CheckReport, strict: bool = False) -> int:
    """0: go on; 1: warnings, where they count; 2: errors."""
    if report.severities["error"]:
        return 2
    return 1 if strict and report.severities["warning"] else 0


def split_names(files: list[Path]) -> dict[str, Path]:
    """Name each file's split: by its stem, or by its folder where all files are called the same.

    Raises:
        DatasetError: two files would get one name.
    """
    for name in (
        lambda p: p.stem.removesuffix(".coco").strip("_"),
        lambda p: p.parent.name,
        lambda p: f"{p.parent.name}-{p.stem}",
    ):
        named = {name(path): path for path in (path.absolute() for path in files)}
        if len(named) == len(files):
            return named
    raise DatasetError(f"the same file twice, or files with the same names: {', '.join(map(str, files))}")


def _roots(splits: Mapping[str, Path], images: list[Path]) -> dict[str, Path] | None:
    if not images:
        return None
    if len(images) not in {1, len(splits)}:
        raise DatasetError(f"--images was given {len(images)} times for {len(splits)} files: once, or once for each")
    for folder in images:
        if not folder.is_dir():
            raise DatasetError(f"--images {folder}: there is no such folder")
    return dict(zip(splits, images * len(splits) if len(images) == 1 else images, strict=True))


def _policies(given: list[str]) -> dict[str, str]:
    policies = {}
    for text in given:
        rule, equals, policy = text.partition("=")
        if not equals:
            raise DatasetError(f"--policy {text}: write RULE=POLICY, such as bbox-tiny=drop")
        policies[rule.strip()] = policy.strip()
    return policies


def _targets(splits: Mapping[str, Path], fix: Path | None) -> dict[str, Path]:
    """Where each repaired split goes; never onto a file that was read."""
    if fix is None:
        return {}
    one = len(splits) == 1 and not fix.is_dir()
    targets = {name: fix if one else fix / f"{name}.json" for name in splits}
    sources = {path.resolve() for path in splits.values()}
    for target in targets.values():
        if target.resolve() in sources:
            raise DatasetError(f"--fix {fix} would overwrite {target}: name another file, the source stays as it is")
    return targets


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar over the images, on a terminal; silence elsewhere."""
    if not _err.is_terminal:
        yield None
        return
    columns = (TextColumn("reading images"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=_err, transient=True) as bar:
        task = bar.add_task("images", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(report: CheckReport) -> None:
    """A table of the rules that found something, and the totals."""
    firsts: dict[str, Problem] = {}
    for problem in report.problems:  # sorted: the worst that stands comes first
        firsts.setdefault(problem.rule, problem)
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("rule", no_wrap=True)
    table.add_column("found", justify="right")
    table.add_column("repaired", justify="right")
    table.add_column("first")
    for rule, problem in firsts.items():
        style = _STYLES[problem.severity if problem.action == "reported" else "repaired"]
        repaired = report.repaired.get(rule, 0)
        place = f"{problem.split}: {problem.file}: {problem.message}"
        value = f": {problem.value}" if problem.value not in place else ""
        counts = f"{report.counts[rule]:,}", f"{repaired:,}" if repaired else ""
        table.add_row(f"[{style}]{rule}[/]", *counts, _plain(place + value))
    if firsts:
        _out.print(table)
    _print_totals(report)


def _print_totals(report: CheckReport) -> None:
    figures, repaired = report.statistics, sum(report.repaired.values())
    totals = f"{sum(figures.images.values()):,} images, {sum(figures.annotations.values()):,} annotations: "
    counts = {severity: report.severities[severity] for severity in SEVERITIES}
    found = ", ".join(f"{count:,} {name}{'s' * (count != 1 and name != 'info')}" for name, count in counts.items())
    _out.print(totals + found + (f", {repaired:,} repaired" if repaired else ""), soft_wrap=True)


def _plain(text: str) -> str:
    """Text from a dataset for a terminal: no markup, no control characters, no lone surrogates."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return escape(shown)


def _write_fixed(report: CheckReport, targets: Mapping[str, Path]) -> None:
    if targets and "drop-budget" in report.counts:
        _err.print("[bold red]not written[/]: more would be dropped than --max-drop allows", soft_wrap=True)
        return
    for name, path in targets.items():
        if name not in report.splits:
            _err.print(f"[bold red]not written[/]: {_plain(str(path))}, its source cannot be read", soft_wrap=True)
            continue
        log = path.with_name(f"{path.stem}.changes.json")
        _write_json(path, report.splits[name])
        _write_json(log, [change._asdict() for change in report.changes if change.split == name], indent=True)
        _out.print(f"wrote {_plain(str(path))} and {_plain(log.name)}", soft_wrap=True)


def _write_json(path: Path, value: Any, indent: bool = False) -> None:
    data = to_bytes(value, indent)
    write_whole(path, lambda file: file.write(data))


def to_bytes(value: Any, indent: bool = False) -> bytes:
    """Return JSON for anything that a check can hold: what JSON has no word for becomes null or text."""
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else 0)
    except TypeError:  # integers beyond 64 bits, lone surrogates, bytes, keys that are no text
        return json.dumps(_sane(value), indent=2 if indent else None).encode("ascii")


def _sane(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _sane(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_sane(inner) for inner in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value
