"""The tables of the docs are what the code says; `ANNOTUNE_UPDATE_DOCS=1 make test` writes them anew."""

import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from helpers_converters import real
from pydantic import BaseModel

from converters.check.command import check
from converters.cli import COMMANDS, make_parser
from converters.formats import FORMATS
from flows.cli import app
from flows.config import FinetuneConfig, load_config
from flows.yaml_config import RECIPES
from models.zoo import DETECTORS, classifier_table, zoo_table

ROOT = Path(__file__).parents[1]


def formats() -> Iterator[str]:
    yield from ("| format | what is read |", "|---|---|")
    for row in FORMATS.values():
        yield f"| `{row.name}` | {row.summary} |"


def models() -> Iterator[str]:
    yield from ("| detector | | box AP | mask AP | M parameters |", "|---|---|---:|---:|---:|")
    for row in zoo_table():
        scores = " | ".join(f"{score:.1f}" if score else "-" for score in (row.box_ap, row.mask_ap))
        yield f"| `{row.name}` | {row.title} | {scores} | {row.parameters / 1e6:.1f} |"


def classifiers() -> Iterator[str]:
    yield from ("| classifier | | top-1 | M parameters |", "|---|---|---:|---:|")
    for row in classifier_table():
        score = f"{row.top1:.1f}" if row.top1 else "-"
        yield f"| `{row.name}` | {row.title} | {score} | {row.parameters / 1e6:.1f} |"


def commands() -> Iterator[str]:
    yield from ("| command | what it does |", "|---|---|")
    yield from _commands("annotune", typer.main.get_command(app))
    yield from (f"| `annotune-convert {name}` | {text} |" for name, text in COMMANDS.items())


def _commands(path: str, group: Any) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(f"{path} {name}", command)
        else:
            text = re.sub(r"\s+", " ", (command.help or "").strip().split("\n\n")[0])
            yield f"| `{path} {name}` | {text} |"


def config_keys() -> Iterator[str]:
    yield from ("| key | default | what it is |", "|---|---|---|")
    yield from _keys(FinetuneConfig, "")


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = next(
            (
                t
                for t in (field.annotation, *get_args(field.annotation))
                if isinstance(t, type) and issubclass(t, BaseModel)
            ),
            None,
        )
        default = "required" if field.is_required() else f"`{field.default}`"
        default = default if inner is None else ("" if not field.is_required() else "required")
        text = (field.description or "").replace("|", "\\|")
        yield f"| {'**' if inner else '`'}{prefix}{name}{'**' if inner else '`'} | {default} | {text} |"
        if inner:
            yield from _keys(inner, f"{prefix}{name}.")


def recipes() -> Iterator[str]:
    """What comes with the package, with the first line of its comment."""
    yield from ("| `_base_` | what it is |", "|---|---|")
    for file in sorted(RECIPES.glob("*.yaml"), key=lambda file: file.stem):
        first = file.read_text().splitlines()[0]
        assert re.fullmatch(r"# .*\.", first), f"{file.name} does not begin with a comment of one sentence"
        yield f"| `{file.stem}` | {first.removeprefix('# ').removesuffix('.')} |"


def exports() -> Iterator[str]:
    """Every detector; that each can be exported is seen in test_export.py."""
    yield from ("| detector | input | outputs |", "|---|---|---|")
    for name, detector in DETECTORS.items():
        fixed = detector.options.get("fixed_size")
        masks = ", masks" if detector.masks else ""
        yield f"| `{name}` | {f'{fixed[0]} x {fixed[1]}' if fixed else 'any size'} | boxes, labels, scores{masks} |"


TABLES: list[tuple[str, str, Callable[[], Iterator[str]]]] = [
    ("README.md", "formats", formats),
    ("README.md", "models", models),
    ("README.md", "classifiers", classifiers),
    ("README.md", "commands", commands),
    ("docs/config.md", "recipes", recipes),
    ("docs/config.md", "keys", config_keys),
    ("docs/export.md", "exports", exports),
]


@pytest.mark.parametrize(("file", "name", "table"), TABLES, ids=[f"{file}:{name}" for file, name, _ in TABLES])
def test_the_tables_are_what_the_code_says(file: str, name: str, table: Callable[[], Iterator[str]]) -> None:
    path = ROOT / file
    text = path.read_text()
    pattern = re.compile(rf"(<!-- {name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)
    assert pattern.search(text), f"{file} has no <!-- {name} --> ... <!-- end -->"
    expected = "\n" + "\n".join(table()) + "\n\n"
    if os.environ.get("ANNOTUNE_UPDATE_DOCS"):
        path.write_text(pattern.sub(lambda match: match[1] + expected + match[3], text))
        return

    assert pattern.search(text)[2] == expected  # type: ignore[index]


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every call of our commands in the code blocks of the pages, with the page that has it."""
    for path in [ROOT / "README.md", ROOT / "deployments/README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"^```\w*\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                call = re.match(r"(?:\$ )?(?:[A-Z_]+=\S* )*(annotune(?:-convert)? [^|]*)", line)
                if call:
                    yield path.name, shlex.split(call[1], comments=True)
    for call in re.findall(r"`(annotune \w+ [^`]+)`", (ROOT / "docs/coming-from.md").read_text()):
        yield "coming-from.md", shlex.split(call)


def test_the_commands_of_the_pages_are_understood() -> None:
    calls = list(command_lines())
    for page, (program, *arguments) in calls:
        try:
            if program == "annotune":
                understood(typer.main.get_command(app), arguments)
            elif arguments[0] == "check":
                typer_app = typer.Typer()
                typer_app.command()(check)
                understood(typer.main.get_command(typer_app), arguments[1:])
            else:
                make_parser(arguments[0]).parse_args(arguments)
        except (SystemExit, Exception) as error:  # click's and argparse's
            pytest.fail(f"{page}: {program} {' '.join(arguments)}: {error}")
    assert len(calls) > 30


def understood(command: Any, arguments: list[str]) -> None:
    """Read the options and arguments of a command of click's, and of a command within, without running it."""
    context = command.make_context("", list(arguments))
    if hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        _, inner, rest = command.resolve_command(context, rest)
        understood(inner, rest)


def test_links_of_the_docs_lead_somewhere_and_to_every_page() -> None:
    pages, reached = {page.resolve() for page in (ROOT / "docs").glob("*.md")}, set()
    for path in [ROOT / "README.md", *pages]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
            reached |= {(path.parent / target).resolve()} - {path}

    assert pages <= reached


def test_files_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"`((?:docs|configs|deployments|benchmarks|flows|tasks)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


def test_the_recipes_for_those_who_come_from_elsewhere_are_those_on_the_page() -> None:
    named = re.findall(r"`([\w-]+\.yaml)`", (ROOT / "docs/coming-from.md").read_text())
    assert set(named) == {path.name for path in (ROOT / "configs/coming-from").iterdir()}


def test_the_house_of_the_readme_stands() -> None:
    text = (ROOT / "README.md").read_text()
    for folder in re.findall(r"^(\w+)/ ", text, re.MULTILINE):
        assert (ROOT / folder).is_dir()
    house = text.partition("## The house")[2]
    for package in ("converters", "models", "tasks", "flows"):
        assert f"\n{package}/ " in house
        for room in {path.parent for path in (ROOT / package).glob("*/**/*.py")}:
            assert f" {room.name}/ " in house, room


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "BCCD").symlink_to(real("voc_bccd"))
    monkeypatch.chdir(tmp_path)

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})

    assert len(blocks) > 0
    assert (tmp_path / "train.json").stat().st_size > 0


def test_the_recipe_of_the_readme_is_one(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    recipe = tmp_path / "my.yaml"
    recipe.write_text(block)

    config, _ = load_config(recipe)

    assert (config.source.format, config.detector.name) == ("voc", "fasterrcnn_resnet50_fpn")
