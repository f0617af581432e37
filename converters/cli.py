"""The ``annotune-convert`` command: annotations in, COCO out.

There is a subcommand for every line of the format table. Its options are the parameters of the format's reader, and
their help is what the reader's docstring says, so a new format needs nothing here.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from rich.console import Console
from rich.markup import escape

from converters.coco import merge_coco, write_coco
from converters.collection import paused_collection
from converters.errors import DatasetError
from converters.formats import FORMATS, Conversion, Format, convert
from converters.records import ConversionLog
from converters.splits import read_list
from converters.summary import print_summary, printable

_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


def main() -> None:
    """Run the command; what users get wrong is one message and exit code 2, what the machine does exit code 1."""
    try:
        make_app(sys.argv[1] if len(sys.argv) > 1 else "")()
    except ValueError as error:  # all errors for users are ValueErrors
        if os.environ.get("ANNOTUNE_TRACEBACK"):
            raise
        _fail(str(error), 2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except KeyboardInterrupt:
        _fail("stopped; nothing was written", 130)


def make_app(wanted: str | None = None) -> typer.Typer:
    """The commands; where one is ``wanted``, the others have only their names and summaries and are not imported."""
    app = typer.Typer(
        name="annotune-convert",
        help="Turn annotations of any known format into COCO.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for chosen in FORMATS.values():
        command = _format_command(chosen) if wanted in {None, chosen.name} else _named
        app.command(chosen.name, help=f"{chosen.summary}.")(command)
    app.command()(merge)
    if wanted in {None, "check"}:
        from converters.check.command import check  # noqa: PLC0415 (reads pictures; conversions do not wait for it)

        app.command()(check)
    else:
        app.command("check", help="Check a COCO dataset: ids, boxes, masks, images on disk, duplicates, leakage.")(
            _named
        )
    return app


def _named() -> None:
    """Stand for a command that was not asked for."""


def _fail(message: str, code: int) -> None:
    _err.print(f"[bold red]error[/]: {escape(printable(message))}", soft_wrap=True)
    sys.exit(code)


# --- what every format has ---------------------------------------------------------------------------------------

_COMMON: dict[str, Any] = {
    "root": Annotated[Path, typer.Argument(metavar="ROOT", help="The dataset.")],
    "output": Annotated[
        Path,
        typer.Option("-o", "--output", help="The COCO file; with several splits its name holds {split}."),
    ],
    "images": Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the images, if it is elsewhere.")],
    "split": Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=WHAT]",
            help="What to convert; repeatable. NAME alone is an image set, a list file or a folder of the dataset; "
            "NAME=WHAT gives it another name; NAME=0.8 is a share, chosen by a stable hash of the file names.",
        ),
    ],
    "categories": Annotated[
        str | None,
        typer.Option(metavar="A,B,... | FILE", help="The classes in the order of their ids, or a file, one a line."),
    ],
    "strict": Annotated[bool, typer.Option("--strict", help="Write nothing, exit 1, if anything had to be left out.")],
    "skip_bad": Annotated[bool, typer.Option("--skip-bad", help="Leave out what cannot be read, and count it.")],
    "jobs": Annotated[int, typer.Option(min=1, help="Processes that read; for slow disks, masks and very many files.")],
    "shard": Annotated[
        str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts, from 0; `merge` joins them.")
    ],
}
_DEFAULTS = {"strict": False, "skip_bad": False, "jobs": 1}


@paused_collection()
def _run(chosen: Format, values: dict[str, Any]) -> None:
    """Convert, summarise, write."""
    options = {name: _plain(values[name]) for name in chosen.options}
    log = ConversionLog(skip_bad=values["skip_bad"])
    splits = _splits(values["split"])
    targets = _targets(values["output"], list(splits or {"all": 1.0}))
    with _progress(chosen.name) as progress:
        result = convert(
            chosen.name, values["root"], splits, images=values["images"], categories=_categories(values["categories"]),
            options=options, jobs=values["jobs"], shard=_shard(values["shard"]), log=log, progress=progress,
        )  # fmt: skip
    print_summary(result, _out)
    if values["strict"]:
        _check_nothing_lost(result)
    for name, coco in result.splits.items():
        write_coco(coco, targets[name])
        _out.print(f"wrote {escape(str(targets[name]))}", soft_wrap=True)


def _check_nothing_lost(result: Conversion) -> None:
    lost = result.log.dropped.total() + len(result.log.bad_files)
    if lost:
        _fail(f"--strict: {lost} objects or files had to be left out, so nothing was written", 1)


def _splits(given: list[str] | None) -> dict[str, str | float] | None:
    if not given:
        return None
    splits: dict[str, str | float] = {}
    for text in given:
        name, equals, what = text.partition("=")
        splits[name if equals else Path(text).stem] = _number_or_text(what) if equals else text
    if len(splits) < len(given):
        raise DatasetError(f"two splits have one name in {', '.join(given)}: write NAME=WHAT")
    return splits


def _number_or_text(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _targets(output: Path, names: list[str]) -> dict[str, Path]:
    if len(names) > 1 and "{split}" not in output.name:
        example = output.with_name(f"{output.stem}_{{split}}{output.suffix}")
        raise DatasetError(f"{len(names)} splits do not fit into one file: say -o '{example}'")
    return {name: output.with_name(output.name.replace("{split}", name)) for name in names}


def _categories(given: str | None) -> list[str] | None:
    if given is None:
        return None
    if Path(given).is_file():
        return read_list(Path(given))
    return [name.strip() for name in given.split(",") if name.strip()]


def _shard(given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", given)
    if match is None:
        raise DatasetError(f"the shard {given!r} is not I/N, such as 0/4")
    return int(match[1]), int(match[2])


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """A line that counts images, on a terminal; silence elsewhere."""
    if not _err.is_terminal:
        yield lambda count: None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,.0f} images"), TimeElapsedColumn())
    with Progress(*columns, console=_err, transient=True) as progress:
        task = progress.add_task(f"reading {what}", total=None)
        yield lambda count: progress.update(task, advance=count)


# --- what each format has of its own -----------------------------------------------------------------------------


def _format_command(chosen: Format) -> Callable[..., None]:
    """Make the subcommand of a format from the signature and the docstring of its reader."""
    signature = inspect.signature(chosen.read)
    hints = get_type_hints(chosen.read)
    described = _described(inspect.getdoc(chosen.read) or "")
    own = {name: _option(hints[name], described.get(name, "")) for name in chosen.options}
    defaults = {**_DEFAULTS, **{name: signature.parameters[name].default for name in own}}

    def command(**values: Any) -> None:
        _run(chosen, values)

    annotations = {**_COMMON, **own}
    if "shard" not in chosen.parameters:
        defaults["shard"] = None
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=annotation,
            default=inspect.Parameter.empty if name in {"root", "output"} else defaults.get(name),
        )
        for name, annotation in annotations.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = annotations
    return command


def _option(hint: Any, text: str) -> Any:
    """A typer option for a reader's parameter: flags, numbers, texts, paths, and choices from a Literal."""
    kind = hint
    if get_origin(hint) is Literal:
        make_enum: Any = Enum  # typer shows the values of an Enum as choices
        kind = make_enum("Choice", {value: value for value in get_args(hint)}, type=str)
    return Annotated[kind, typer.Option(help=text)]


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _described(docstring: str) -> dict[str, str]:
    """What the ``Args`` of a docstring say, by name."""
    section = re.search(r"^Args:\n(.*?)(?:^\S|\Z)", docstring, re.MULTILINE | re.DOTALL)
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section[1] if section else "", re.MULTILINE | re.DOTALL)
    texts = {name: " ".join(text.replace("``", "").split()) for name, text in entries}
    return {name: text[:1].upper() + text[1:] for name, text in texts.items()}


# --- other commands ----------------------------------------------------------------------------------------------


def merge(
    parts: Annotated[list[Path], typer.Argument(metavar="PART.json...", help="COCO files with disjoint images.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The COCO file to write.")],
) -> None:
    """Join COCO files, such as the shards of one dataset: the same file as one big run would have written."""
    from converters.coco_source import read_json  # noqa: PLC0415

    merged = merge_coco([read_json(path) for path in parts])
    write_coco(merged, output)
    _out.print(f"{len(merged['images'])} images, {len(merged['annotations'])} instances")
    _out.print(f"wrote {escape(str(output))}", soft_wrap=True)


if __name__ == "__main__":
    main()
