"""The ``annotune-convert`` command: annotations in, COCO out.

There is a subcommand for every line of the format table. Its options are the parameters of the format's reader, and
their help is what the reader's docstring says, so a new format needs nothing here. Start-up counts: a set of some
thousand files is converted in a tenth of a second, so nothing is imported that this run does not use.
"""

from __future__ import annotations

import argparse
import inspect
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn, TextIO, get_args, get_origin, get_type_hints

from converters.coco import Coco, dump_coco, merge_coco, write_coco
from converters.collection import paused_collection
from converters.errors import CategoriesError, DatasetError
from converters.formats import FORMATS, Conversion, Format, Progress, convert
from converters.records import ConversionLog
from converters.splits import read_list
from converters.summary import printable, summary_lines

COMMANDS = {
    **{row.name: f"{row.summary}." for row in FORMATS.values()},
    "merge": "Join COCO files, such as the shards of one dataset: the same file as one big run would have written.",
    "check": "Check a COCO dataset: ids, boxes, masks, images on disk, duplicates, leakage between splits.",
}
"""What each subcommand does."""


def main() -> NoReturn:
    """Run the command; what users get wrong is one message and exit code 2, what the machine does exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a class name that the console cannot show stops nothing
    try:
        _dispatch(sys.argv[1:])
    except ValueError as error:  # all errors for users are ValueErrors
        if os.environ.get("ANNOTUNE_TRACEBACK"):
            raise
        _fail(str(error), 2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except KeyboardInterrupt:
        _fail("stopped; nothing was written", 130)
    sys.exit(0)


def _dispatch(arguments: Sequence[str]) -> None:
    wanted = arguments[0] if arguments else ""
    if wanted == "check":
        _check(arguments[1:])
        return
    parser = make_parser(wanted)
    if not arguments:
        parser.print_help(sys.stderr)
        sys.exit(2)
    values = vars(parser.parse_args(arguments))
    command = values.pop("command")
    if command == "merge":
        _merge(**values)
    else:
        _run(FORMATS[command], values)


def _check(arguments: Sequence[str]) -> None:
    import typer  # noqa: PLC0415 (a tenth of a second)

    from converters.check.command import check  # noqa: PLC0415

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(check)
    app(list(arguments), prog_name="annotune-convert check")


def _fail(message: str, code: int) -> NoReturn:
    word = "\033[1;31merror\033[0m" if sys.stderr.isatty() else "error"
    print(f"{word}: {printable(message)}", file=sys.stderr)
    sys.exit(code)


# --- the parser --------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser whose errors look like all others."""

    def __init__(self, **given: Any) -> None:
        super().__init__(allow_abbrev=False, **given)

    def error(self, message: str) -> NoReturn:
        _fail(f"{message}. See {self.prog} --help", 2)


def make_parser(wanted: str) -> argparse.ArgumentParser:
    """The parser of all commands; only the ``wanted`` one has its options: those of a format import its reader."""
    parser = _Parser(prog="annotune-convert", description="Turn annotations of any known format into COCO.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text.replace("%", "%%"), description=text)
        if name == wanted == "merge":
            command.add_argument("parts", type=Path, nargs="+", metavar="PART.json", help="COCO files of other images")
            command.add_argument("-o", "--output", type=Path, required=True, help="the COCO file to write")
        elif name == wanted:
            _add_common(command, FORMATS[name])
            _add_own(command, FORMATS[name])
    return parser


def _add_common(parser: argparse.ArgumentParser, chosen: Format) -> None:
    """The options that every format has."""
    add = parser.add_argument
    add("root", type=Path, metavar="ROOT", help="the dataset")
    add(
        "-o", "--output", type=Path, required=True,
        help="the COCO file, - for the standard output; with several splits its name holds {split}",
    )  # fmt: skip
    add("--images", type=Path, metavar="DIR", help="folder of the images, if it is elsewhere")
    add(
        "--split", action="append", metavar="NAME[=WHAT]",
        help="what to convert; repeatable. NAME alone is an image set, a list file or a folder of the dataset; "
        "NAME=WHAT gives it another name, several of one name are joined; NAME=0.8 is a share, chosen by a stable hash "
        "of the file names",
    )  # fmt: skip
    add("--categories", metavar="A,B,... | FILE", help="the classes in the order of their ids, or a file, one a line")
    add("--strict", action="store_true", help="write nothing, exit 1, if anything had to be left out")
    add("--skip-bad", action="store_true", help="leave out what cannot be read, and count it")
    if chosen.divisible:
        add("--jobs", type=_count, default=1, help="processes that read; for slow disks, masks and very many files")
        add("--shard", metavar="I/N", help="only the I-th of N parts, from 0; `merge` joins them")
    else:  # one list, read by one process
        parser.set_defaults(jobs=1, shard=None)


def _count(text: str) -> int:
    if not text.isdecimal() or not (number := int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return number


def _add_own(parser: argparse.ArgumentParser, chosen: Format) -> None:
    """The options of a format, from the signature and the docstring of its reader."""
    parameters, hints = inspect.signature(chosen.read).parameters, get_type_hints(chosen.read)
    described = _described(inspect.getdoc(chosen.read) or "")
    for name in chosen.options:
        hint, default = hints[name], parameters[name].default
        given: dict[str, Any] = {"default": default, "help": described.get(name, "").replace("%", "%%")}
        if hint is bool:
            given["action"] = argparse.BooleanOptionalAction
        elif get_origin(hint) is Literal:
            given |= {"choices": get_args(hint)}
        else:
            kind = next(kind for kind in (*get_args(hint), hint) if isinstance(kind, type))
            given |= {"type": kind, "metavar": kind.__name__.upper()}
        parser.add_argument(f"--{name.replace('_', '-')}", **given)


def _described(docstring: str) -> dict[str, str]:
    """What the ``Args`` of a docstring say, by name."""
    section = re.search(r"^Args:\n(.*?)(?:^\S|\Z)", docstring, re.MULTILINE | re.DOTALL)
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section[1] if section else "", re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.replace("``", "").split()) for name, text in entries}


# --- converting --------------------------------------------------------------------------------------------------


@paused_collection()
def _run(chosen: Format, values: dict[str, Any]) -> None:
    """Convert, summarise, write."""
    options = {name: values[name] for name in chosen.options}
    log = ConversionLog(skip_bad=values["skip_bad"])
    splits = _splits(values["split"])
    targets = _targets(values["output"], list(splits or {"all": 1.0}))
    with _progress(chosen.name) as progress:
        try:
            result = convert(
                chosen.name, values["root"], splits, images=values["images"],
                categories=_categories(values["categories"]), options=options, jobs=values["jobs"],
                shard=_shard(values["shard"]), log=log, progress=progress,
            )  # fmt: skip
        except CategoriesError as error:
            listed = Path(values["categories"]).is_file()
            raise DatasetError(f"{values['categories']}: {error}" if listed else f"--{error}") from error
    print("\n".join(summary_lines(result)), file=_words(values["output"]))
    if values["strict"]:
        _check_nothing_lost(result)
    for name, coco in result.splits.items():
        _write(coco, targets[name])


def _check_nothing_lost(result: Conversion) -> None:
    lost = result.log.dropped.total() + len(result.log.bad_files)
    if lost:
        _fail(f"--strict: {lost} objects or files had to be left out, so nothing was written", 1)


def _splits(given: list[str] | None) -> dict[str, Any] | None:
    """By name what was given; a name with several selectors has them all."""
    if not given:
        return None
    splits: dict[str, list[str | float]] = {}
    for text in given:
        name, equals, what = text.partition("=")
        splits.setdefault(name if equals else Path(text).stem, []).append(_number_or_text(what) if equals else text)
    for own in splits.values():
        if len(own) > 1 and any(isinstance(what, float) for what in own):
            raise DatasetError(f"two splits have one name in {', '.join(given)}, and shares cannot be joined")
    return {name: own if len(own) > 1 else own[0] for name, own in splits.items()}


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
def _progress(what: str) -> Iterator[Progress]:
    """A bar on a terminal; silence elsewhere."""
    if not sys.stderr.isatty():
        yield lambda count, expected: None
        return
    from rich import progress as rich_progress  # noqa: PLC0415 (nobody else waits for it)
    from rich.console import Console  # noqa: PLC0415

    done = rich_progress.TextColumn("{task.description} {task.completed:,.0f} images")
    columns = (done, rich_progress.BarColumn(), rich_progress.TimeElapsedColumn(), rich_progress.TimeRemainingColumn())
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"reading {what}", total=None)
        yield lambda count, expected: bar.update(task, advance=count, total=expected or None)


def _merge(parts: Sequence[Path], output: Path) -> None:
    from converters.coco_source import read_json  # noqa: PLC0415

    merged = merge_coco([read_json(path) for path in parts])
    print(f"{len(merged['images'])} images, {len(merged['annotations'])} instances", file=_words(output))
    _write(merged, output)


def _write(coco: Coco, output: Path) -> None:
    """Write a file, or to the standard output for ``-``."""
    if str(output) == "-":
        dump_coco(coco, sys.stdout.buffer)
        return
    write_coco(coco, output)
    print(f"wrote {printable(str(output))}", file=_words(output))


def _words(output: Path) -> TextIO:
    """Where to say what was done: not where the file goes."""
    return sys.stderr if str(output) in ("-", "/dev/stdout") else sys.stdout


if __name__ == "__main__":
    main()
