"""The `annotune` command. Imports are where they are used: `--help` and single stages should not wait for Prefect."""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Column, Table

from flows.commands import (
    browse,
    champion_app,
    deploy,
    join,
    models,
    parameters,
    prelabel,
    retrain,
    score,
    serve,
    store_app,
    sweep,
)
from flows.terminal import Overrides, Recipe, Version, beside, err, narrated, out, quiet_prefect, runs_table

app = typer.Typer(
    name="annotune",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
weights_app = typer.Typer(no_args_is_help=True, help="Look at checkpoints: fetch, inspect, plan a load.")
app.add_typer(weights_app, name="weights")
app.add_typer(champion_app, name="champion")
app.add_typer(store_app, name="store")


@app.callback()
def annotune(version: Version = False) -> None:
    """From the annotations you have to a fine-tuned, evaluated detector."""


def main() -> None:
    """Entry point: one message for what users get wrong (exit 2), another for what the machine does (exit 1)."""
    # Before torch is imported: threads that wait by spinning starve each other where a machine is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except ValueError as error:  # all our user errors are ValueErrors
        if os.environ.get("ANNOTUNE_TRACEBACK"):
            raise
        _fail(str(error), 2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        remedy = ". Free some space and run again; finished stages are kept" if error.errno == errno.ENOSPC else ""
        _fail(f"{where}{error.strerror or error}{remedy}", 1)
    except RuntimeError as error:
        if type(error).__module__.split(".")[0] not in ("models", "tasks", "flows"):
            raise
        _fail(str(error), 1)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("flows", "tasks", "models", "converters"):
            raise
        remedy = "The pipeline needs more than the converters: pip install 'annotune[pipeline]'"
        _fail(f"{error.name} is not installed. {remedy}", 1)
    except SystemExit as ended:
        if ended.code != 130:  # Typer's word for Ctrl-C
            raise
        _fail("stopped. Run the same command again to go on where it was", 130)


def _fail(message: str, code: int) -> None:
    err.print(f"[bold red]error[/]: {escape(message)}", soft_wrap=True)
    sys.exit(code)


@app.command()
def finetune(config: Recipe, overrides: Overrides = None) -> None:
    """Run the whole flow: look, convert, check, fetch, adapt, train, evaluate, report.

    Stages whose result is there already are reused; a run that was killed goes on where it was.
    """
    from flows.config import load_config

    settings, _ = load_config(config, overrides or [])
    outcome = run_flow(settings)
    _tell_outcome(outcome)


def run_flow(settings: Any, **extra: Any) -> Any:
    """Run the finetune flow in this process, with Prefect's own temporary server unless one is configured."""
    quiet_prefect()
    from flows.finetune import finetune as flow

    with narrated():
        return flow(settings, **extra)


def _tell_outcome(outcome: Any) -> None:
    from flows.runs import cells

    detects = "AP" in outcome.metrics
    columns = ("AP", "AP50", "AP75", "AR100") if detects else ("top1", "top5", "mean_class")
    out.print(f"{outcome.name}: {'COCO box metrics' if detects else 'accuracy'}")
    table = Table(*(Column(column, justify="right") for column in columns), box=SIMPLE)
    table.add_row(*cells(outcome.metrics, columns))
    out.print(table)
    out.print(f"checkpoint  {outcome.folder / 'best.pt'}", soft_wrap=True)
    out.print(f"report      {outcome.report}", soft_wrap=True)


@app.command()
def config(config: Recipe, overrides: Overrides = None) -> None:
    """Print the configuration that results from a recipe, and where each value came from."""
    from flows.config import explain_config

    for line, origin in explain_config(config, overrides or []):
        out.print(f"{escape(f'{line:56s}')} [dim]# {escape(origin)}[/]" if origin else escape(line), soft_wrap=True)


def _run_until(stage: str, config: Path, overrides: list[str] | None) -> None:
    from flows.chain import up_to
    from flows.config import load_config

    settings, _ = load_config(config, overrides or [])
    with narrated():
        path = getattr(up_to(stage, settings)[stage], "path", None)
    if path is not None and (path / "summary.md").is_file():
        text = (path / "summary.md").read_text()
        out.print(Markdown(text) if out.is_terminal else text, markup=False, soft_wrap=not out.is_terminal)
        for page in sorted(path.glob("*.html")):
            out.print(f"page  {page}", markup=False, soft_wrap=True)


def _stage_command(name: str, text: str) -> None:
    def command(config: Recipe, overrides: Overrides = None) -> None:
        _run_until(name, config, overrides)

    command.__doc__ = f"{text}\n\nWhat comes before is done first, or reused where it is there already."
    app.command(name)(command)


_stage_command("convert", "Convert the source's annotations to COCO, one file per split.")
_stage_command("check", "Check the dataset: a list and a page of what is wrong.")
_stage_command("fetch", "Fetch the pretrained checkpoint and verify it.")
_stage_command("adapt", "Load what fits of the checkpoint; tell about every tensor.")
_stage_command("train", "Fine-tune in a child process; goes on where a killed run was.")
_stage_command("evaluate", "Evaluate the best checkpoint on the test split, or on val where there is none.")


@app.command()
def report(
    what: Annotated[
        list[Path], typer.Argument(metavar="CONFIG.yaml|RUN", help="A recipe, or two run folders or more.")
    ],
    overrides: Overrides = None,
    page: Annotated[Path, typer.Option("--out", help="The page that compares runs.")] = Path("compare.html"),
) -> None:
    """Write the report page of a recipe, or a page that compares runs.

    Run folders are those that `annotune runs` lists, in the workspace's `runs`; the first is the reference.
    """
    if len(what) == 1 and not what[0].is_dir():
        _run_until("report", what[0], overrides)
        return
    from flows.runs import compare_runs

    say = beside(page)
    compare_runs(what, page)
    say.print(f"wrote {page}", soft_wrap=True)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything lands; removed by hand.")] = Path(".demo"),
) -> None:
    """See it work: drawn scenes, fine-tuned with and without transferred weights. Some minutes on two cores."""
    quiet_prefect()
    from flows.demo import run_demo

    with narrated():
        outcome = run_demo(folder.resolve())
    before, after = outcome.scratch.metrics, outcome.finetuned.metrics
    out.print("COCO box metrics on the same 60 scenes, after the same training")
    table = Table("", *(Column(name, justify="right") for name in ("AP", "AP50")), box=SIMPLE)
    table.add_row("from random weights", f"{before['AP']:.3f}", f"{before['AP50']:.3f}")
    table.add_row("[bold]with transferred weights[/]", f"[bold]{after['AP']:.3f}[/]", f"[bold]{after['AP50']:.3f}[/]")
    out.print(table)
    if set(outcome.finetuned.reused) >= {"train", "evaluate", "report"}:
        out.print("Every stage was found done; nothing was trained again.")
    out.print(f"Report: {outcome.finetuned.report}", soft_wrap=True)
    out.print("Your own data: write my.yaml as in the README, then  [bold]annotune finetune my.yaml[/]")


@app.command()
def runs(
    workspace: Annotated[Path, typer.Argument(help="The workspace of the recipes.")] = Path(".annotune"),
) -> None:
    """List finished runs: metrics, and where their configurations differ."""
    from flows.runs import cells, differences, figures, list_runs

    found = list_runs(workspace)
    if not found:
        raise ValueError(f"{workspace}: no finished runs there. Give the workspace of your recipe")
    columns = figures(run.metrics for run in found)
    table = runs_table(columns, "where they differ")
    for run, own in zip(found, differences(found), strict=True):
        table.add_row(run.name, *cells(run.metrics, columns), escape("\n".join(own)))
    out.print(table)


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a run; it knows its detector and classes.")],
    images: Annotated[Path, typer.Argument(help="A picture, or a folder of them.")],
    pictures: Annotated[Path | None, typer.Option("--out", help="Folder for pictures with what was found.")] = None,
    results: Annotated[
        Path | None, typer.Option("--json", help="File for COCO results, or a classifier's five best answers.")
    ] = None,
    table: Annotated[Path | None, typer.Option("--csv", help="File for one row a finding or answer.")] = None,
    labelme: Annotated[Path | None, typer.Option(help="Folder for labelme files, to be corrected there.")] = None,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Leave out what is less certain.")] = 0.5,
) -> None:
    """Find objects in pictures, or say what they show, with a checkpoint alone."""
    from models.training import predict as find
    from models.training.options import PredictOptions
    from models.training.writers import write_answers, write_coco_results, write_csv, write_labelme, write_pictures

    root = images if images.is_dir() else images.parent
    unreadable: list[Any] = []
    found = find(checkpoint, images, options=PredictOptions(min_score=min_score), unreadable=unreadable)
    if pictures:
        found = write_pictures(found, pictures, root)
    if labelme:
        found = write_labelme(found, labelme, root)
    kept, say = [], beside(results, table)
    for prediction in found:
        kept.append(prediction)
        say.print(f"{prediction.path}: {_found(prediction, min_score)}", markup=False, soft_wrap=True)
    if table:
        write_csv(kept, table, root)
    if results and kept and kept[0].whole:
        write_answers(kept, results, root)
    elif results:
        write_coco_results(kept, results, root)
    if unreadable:
        _fail("\n".join(map(str, unreadable)), 1)


def _found(prediction: Any, min_score: float) -> str:
    """A prediction in a few words."""
    if prediction.whole:
        answers = zip(prediction.names[:3], prediction.scores.tolist(), strict=False)
        return ", ".join(f"{name} {score:.2f}" for name, score in answers)
    counts = Counter(prediction.names)
    said = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return said or f"nothing at {min_score:g} or above"


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a run.")],
    onnx: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Fix the input's size; else it stays free.")] = None,
    check: Annotated[list[Path] | None, typer.Option(help="Picture to compare with PyTorch on. Repeatable.")] = None,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Compare what is at least so certain.")] = 0.05,
) -> None:
    """Write a checkpoint as ONNX, compared with PyTorch on your pictures; a file that does not agree is not kept."""
    from models.training.export import export_onnx, parse_size

    say, fixed = beside(onnx), parse_size(size) if size else None
    agreement = export_onnx(checkpoint, onnx, size=fixed, check=check or (), min_score=min_score)
    say.print(f"wrote {onnx}", soft_wrap=True)
    say.print(str(agreement or "not compared with PyTorch: give pictures with --check"), markup=False, soft_wrap=True)


@weights_app.command("fetch")
def weights_fetch(
    source: Annotated[str, typer.Argument(help="Path, https://, torchvision://, timm://, hf://, s3://, ...")],
    folder: Annotated[Path, typer.Option(help="Where verified files are kept.")] = Path(".annotune/weights"),
    sha256: Annotated[str | None, typer.Option(help="The hash it must have.")] = None,
) -> None:
    """Fetch a checkpoint, verify it, and print where it is."""
    from models.weights.fetch import fetch
    from tasks.fetch import download_bar

    with download_bar(source) as bar:
        fetched = fetch(source, folder, sha256=sha256, progress=bar)
    out.print(str(fetched.path), soft_wrap=True)


@weights_app.command("inspect")
def weights_inspect(checkpoint: Annotated[Path, typer.Argument(help="Any container.")]) -> None:
    """List what a checkpoint holds, whatever framework wrote it; nothing in it is executed."""
    from models.weights.containers import describe_checkpoint

    out.print(describe_checkpoint(checkpoint), markup=False, soft_wrap=True)


@weights_app.command("plan")
def weights_plan(
    checkpoint: Annotated[Path, typer.Argument(help="Any container.")],
    model: Annotated[str | None, typer.Option(help="Model, as `annotune models` lists them.")] = None,
    classes: Annotated[str | None, typer.Option(help="Your class names, comma-separated, in label order.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe for model, classes and rules not given here.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Rules for what stays out. Repeatable.")] = None,
    overrides: Overrides = None,
    everything: Annotated[bool, typer.Option("--all", help="List also what is simply copied, or unused.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole plan as JSON.")] = False,
) -> None:
    """Will this checkpoint fit my classes, and which tensors move? Needs no dataset and allocates no model.

    Any rule of a recipe's `weights` and any dimension of its `detector` can be set: `-o weights.key_map=paddle`.
    """
    import orjson

    from models.weights.preview import plan_for

    given = [*(overrides or []), *([f"weights.exclude={orjson.dumps(exclude).decode()}"] if exclude else [])]
    config = _plan_config(recipe, model, given)
    names = [name.strip() for name in classes.split(",")] if classes else config.source.categories
    if not names:
        raise ValueError("which classes? Give --classes, or a --recipe with source.categories")
    plan = plan_for(config.detector, names, checkpoint, config.weights)
    if as_json:
        sys.stdout.write(orjson.dumps(plan.to_json(), option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    rows = [row for row in plan.to_rows() if everything or row["action"] not in ("copied", "unused")]
    columns = ("action", "tensor", "shape", "from")
    wide = {column: max((len(row[column]) for row in rows), default=0) for column in columns}
    for row in rows:  # one line each, however wide, for eyes and for grep
        cells = [row[column].ljust(width) for column, width in wide.items()]
        out.print("  ".join([*cells, row["reason"]]).rstrip(), markup=False, soft_wrap=True)
    for line in plan.summary():
        out.print(line, markup=False, soft_wrap=True)


def _plan_config(recipe: Path | None, model: str | None, overrides: list[str]) -> Any:
    """What a recipe would say of model and weights; where there is none, one that holds no more than that."""
    from flows.config import load_config
    from models.zoo.detector import is_classifier

    if not (recipe or model):
        raise ValueError("which model? Give --model, or a --recipe")
    given = (
        ["weights.source=the argument"] if recipe else ["weights.source=the argument", "source={format: coco, root: .}"]
    )
    if model:
        given += [f"detector.name={model}", f"task={'classification' if is_classifier(model) else 'detection'}"]
    return load_config(recipe or Path(os.devnull), [*given, *overrides])[0]


for around in (models, browse, score, retrain, prelabel, sweep, join, parameters, serve, deploy):
    app.command()(around)
PANELS = {
    "A run": ("finetune", "config", "browse", "runs", "report", "sweep", "demo"),
    "One stage, and what comes before it": ("convert", "check", "fetch", "adapt", "train", "evaluate"),
    "A checkpoint": ("predict", "export", "score", "models", "weights"),
    "New data": ("retrain", "prelabel", "champion"),
    "Machines": ("serve", "deploy", "parameters", "join", "store"),
}
"""How `annotune --help` groups the commands."""
PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}
for single in app.registered_commands:
    single.rich_help_panel = PANEL_OF.get(str(single.name or getattr(single.callback, "__name__", "")))
for group in app.registered_groups:
    group.rich_help_panel = PANEL_OF.get(str(group.name))
