"""Commands around the flow: models, retraining and its champion, prelabelling, sweeps, the store, one's own server."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from flows.terminal import Overrides, PrefectFile, Recipe, narrated, out, quiet_prefect, runs_table

champion_app = typer.Typer(no_args_is_help=True, help="The registry's champion: show it, its history, roll back.")
store_app = typer.Typer(no_args_is_help=True, help="The workspace's store: its size, and giving disk back.")

RegistryUrl = Annotated[str, typer.Argument(metavar="REGISTRY", help="Folder or fsspec URL of the registry.")]
Workspace = Annotated[Path, typer.Argument(help="The workspace of the recipes.")]


def models(
    name: Annotated[str | None, typer.Argument(help="A model: its checkpoints, what depends on the classes.")] = None,
) -> None:
    """List detectors and classifiers: published scores, parameters, and the fields to exclude from a load."""
    from models.zoo import classifier_table, zoo_table

    if name:
        _tell_model(name)
        return
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("detector", no_wrap=True)
    for column in ("box", "mask", "M", "pre"):
        table.add_column(column, justify="right")
    table.add_column("exclude fields", overflow="fold")
    for row in zoo_table():
        scores = (f"{score:.1f}" if score else "-" for score in (row.box_ap, row.mask_ap))
        published = str(len(row.weights) or "-")
        table.add_row(row.name, *scores, f"{row.parameters / 1e6:.1f}", published, " ".join(row.fields))
    out.print(table)
    out.print(
        "box, mask: published AP on COCO val2017, percent. M: parameters, millions. pre: pretrained checkpoints, which "
        "`annotune models NAME` lists. exclude fields: what `weights.exclude` understands besides re: and glob: rules."
    )
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("classifier", no_wrap=True)
    table.add_column("top-1", justify="right")
    table.add_column("M", justify="right")
    table.add_column("", overflow="fold")
    for row in classifier_table():
        table.add_row(row.name, f"{row.top1:.1f}" if row.top1 else "-", f"{row.parameters / 1e6:.1f}", row.title)
    out.print(table)
    out.print(
        "top-1: published on ImageNet's validation images, percent. These are some: timm://NAME and torchvision://NAME "
        "take any model of the two libraries."
    )


def _tell_model(name: str) -> None:
    """The checkpoints published for a model, and its tensors that depend on the classes."""
    from models.zoo import class_tensors, get_detector

    detector = get_detector(name)
    for weights in detector.pretrained:
        known = (("box AP", weights.box_ap), ("mask AP", weights.mask_ap), ("top-1", weights.top1))
        published = ", ".join(f"{kind} {score}" for kind, score in known if score)
        out.print(f"{weights.source}  {published}", soft_wrap=True)
    tensors = class_tensors(detector)
    keys, rows = (max(len(text) for text in column) for column in zip(*((t.key, t.rows) for t in tensors), strict=True))
    out.print("\nWhat depends on the classes, its rows, and the exclude field that drops it:")
    for tensor in tensors:  # one line each, however wide, for eyes and for grep
        line = f"{tensor.key:{keys}}  {tensor.rows:{rows}}  {' '.join(tensor.fields)}"
        out.print(line, markup=False, soft_wrap=True)


def score(
    truth: Annotated[Path, typer.Argument(metavar="TRUTH.json", help="COCO file with what is there.")],
    found: Annotated[Path, typer.Argument(metavar="FOUND", help="COCO results (.json), or a checkpoint to run.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images; without it that of the truth.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for metrics.json, detections.json and a page.")
    ] = None,
    voc: Annotated[bool, typer.Option("--voc", help="Pascal VOC's AP too, difficult objects left aside.")] = False,
) -> None:
    """Score detections, of whatever program, or any checkpoint, against a COCO file; no recipe needed."""
    from tempfile import TemporaryDirectory

    from models.report import ReportInputs, render
    from models.training import DetectionData, evaluate
    from models.training import score as score_results
    from models.training.options import EvaluateOptions
    from tasks.evaluate import metrics_text

    options, pictures = EvaluateOptions(voc=voc), images or truth.parent
    if not pictures.is_dir():
        raise ValueError(f"{pictures}: no such folder. --images names the one that the truth's file names are in")
    with TemporaryDirectory() as nowhere:
        place = folder or Path(nowhere)
        if found.suffix.lower() == ".json":
            metrics = score_results(found, truth, place, options=options)
        else:
            metrics = evaluate(found, DetectionData(truth, pictures), place, options=options)
    out.print(metrics_text(metrics), markup=False, soft_wrap=True)
    if folder:
        inputs = ReportInputs(
            title=found.name,
            val=truth,
            metrics=folder / "metrics.json",
            detections=folder / "detections.json",
            images=pictures,
        )
        render(inputs, folder / "report.html")
        out.print(f"page  {folder / 'report.html'}", markup=False, soft_wrap=True)


def browse(
    config: Recipe,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")],
    overrides: Overrides = None,
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 24,
    epoch: Annotated[int, typer.Option(min=0, help="Of which epoch, from 0: mosaic and mixup end before the run.")] = 0,
) -> None:
    """See what the network sees: training pictures and their objects after augmentation, as the run gets them."""
    from flows.chain import up_to
    from flows.config import load_config
    from models.training import DetectionData
    from models.training.browse import browse as write
    from tasks.convert import image_root

    settings, _ = load_config(config, overrides or [])
    with narrated():
        done = up_to("adapt", settings)
    train = DetectionData(done["check"].path / "train.json", image_root(settings.source, done["convert"]))
    written = list(write(done["adapt"].path / "init.pt", train, settings.train, folder, epoch=epoch, count=count))
    out.print(f"{len(written)} pictures in {folder}", markup=False, soft_wrap=True)


def retrain(
    config: Recipe,
    registry: Annotated[str, typer.Option(help="Folder or fsspec URL of the registry of models.")],
    overrides: Overrides = None,
    margin: Annotated[float, typer.Option(help="AP or accuracy (0..1) by which the challenger must be better.")] = 0.0,
    tolerance: Annotated[float, typer.Option(help="AP or accuracy (0..1) by which a class may fall.")] = 0.05,
    refreeze: Annotated[bool, typer.Option(help="Judge by the validation split of now, from now on.")] = False,
) -> None:
    """Train a challenger where the data changed; it becomes champion only if it is better on the same images."""
    quiet_prefect()
    from flows.config import load_config
    from flows.promotion import PromotionRules
    from flows.retrain import retrain as flow

    settings, _ = load_config(config, overrides or [])
    with narrated():
        flow(settings, _registry_url(registry), PromotionRules(margin=margin, tolerance=tolerance), refreeze)


@champion_app.command("show")
def champion_show(registry: RegistryUrl) -> None:
    """Print the champion: its classes, its scores, and where its checkpoint is."""
    from flows.registry import MODEL, Registry, RegistryError
    from flows.runs import cells, figures

    champion = Registry(registry).champion()
    if champion is None:
        raise RegistryError(f"{registry}: no champion yet. `annotune retrain` makes the first")
    table = Table(box=SIMPLE, show_header=False)
    table.add_row("version", champion.number)
    table.add_row("detector", champion.detector)
    table.add_row("classes", ", ".join(escape(name) for name in champion.classes))
    shown = figures([champion.scores])
    table.add_row(", ".join(shown), ", ".join(cells(champion.scores, shown)))
    table.add_row("judged by", f"{len(champion.validation)} images")
    table.add_row("checkpoint", f"{registry}/versions/{champion.number}/{MODEL}")
    out.print(table)


@champion_app.command("history")
def champion_history(registry: RegistryUrl) -> None:
    """List what happened to the champion, and why."""
    from flows.registry import Registry

    table = Table(box=SIMPLE)
    for column in ("when (UTC)", "what", "champion", "why"):
        table.add_column(column, overflow="fold")
    for entry in Registry(registry).history():
        table.add_row(entry.at[:19].replace("T", " "), entry.event, entry.champion, escape("\n".join(entry.reasons)))
    out.print(table)


@champion_app.command("rollback")
def champion_rollback(
    registry: RegistryUrl,
    version: Annotated[str | None, typer.Argument(help="Which version; the champion before without it.")] = None,
    reason: Annotated[str, typer.Option(help="For the history.")] = "rolled back by hand",
) -> None:
    """Make an earlier version champion again. The same data does not bring the later one back by itself."""
    from flows.registry import Registry

    out.print(f"version {Registry(registry).rollback(version, reason).number} is champion")


def prelabel(
    registry: RegistryUrl,
    images: Annotated[Path, typer.Argument(help="Folder of pictures without annotations.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for labelme files, or a classifier's list.")],
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Leave out what is less certain.")] = 0.3,
    limit: Annotated[int, typer.Option(min=0, help="Write only so many, the least certain; 0: all.")] = 0,
) -> None:
    """Let the champion label new pictures, and say in which order a person should look at them."""
    quiet_prefect()
    from flows.prelabel import prelabel as flow

    with narrated():
        flow(registry, images.resolve(), folder.resolve(), min_score, limit)


def join(
    workspace: Workspace = Path(".annotune"),
    once: Annotated[bool, typer.Option(help="Leave after one run.")] = False,
) -> None:
    """Train along in the workspace's runs that want more machines (`train.machines`); Ctrl-C stops it."""
    from flows.join import join_runs

    with narrated():
        join_runs(workspace.resolve(), once=once)


def sweep(
    config: Recipe,
    vary: Annotated[list[str], typer.Option(metavar="KEY=A,B,C", help="Values of a key. Repeatable: all pairs.")],
    overrides: Overrides = None,
    at_once: Annotated[int, typer.Option(min=1, help="Runs at once; more than GPUs only makes them slower.")] = 1,
    promote: Annotated[
        str | None,
        typer.Option(metavar="REGISTRY", help="Registry where the best run becomes champion, if better."),
    ] = None,
) -> None:
    """Run a recipe with several values and compare: `--vary train.learning_rate=0.01,0.02`."""
    quiet_prefect()
    from flows.config import load_config
    from flows.runs import cells, figures
    from flows.sweep import sweep as flow
    from flows.sweep import variants

    configs = [
        load_config(config, [*(overrides or []), *changes, f"name={name}"])[0] for name, changes in variants(vary)
    ]
    with narrated():
        compared = flow(configs, at_once, _registry_url(promote) if promote else None)
    changed = dict(variants(vary))
    columns = figures(run.metrics for run in compared.runs)
    table = runs_table(columns, "values")
    for run in compared.runs:
        table.add_row(run.name, *cells(run.metrics, columns, 4), escape(" ".join(changed[run.name])))
    for name, error in compared.failed.items():
        table.add_row(name, *("failed", "")[: len(columns)], escape(error.splitlines()[0]))
    out.print(table)
    if compared.page:
        out.print(f"comparison  {compared.page}", soft_wrap=True)


def _registry_url(text: str) -> str:
    return text if "://" in text else str(Path(text).resolve())


@store_app.command("size")
def store_size(workspace: Workspace = Path(".annotune")) -> None:
    """Print what the workspace holds, by stage, in MB."""
    from tasks.gc import sizes

    table = Table(box=SIMPLE)
    for column in ("what", "number", "MB"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, (count, size) in sorted(sizes(workspace).items(), key=lambda item: -item[1][1]):
        table.add_row(name, f"{count:,}", f"{size / 1e6:,.1f}")
    out.print(table)


@store_app.command("gc")
def store_gc(
    keep_runs: Annotated[int, typer.Option(help="Keep what the last so many runs used.")],
    workspace: Workspace = Path(".annotune"),
    dry: Annotated[bool, typer.Option("--dry-run", help="Only tell.")] = False,
) -> None:
    """Remove products that no recent run used. Safe while runs are under way; published runs stay."""
    from tasks.gc import collect

    done = collect(workspace, keep_runs, dry=dry)
    for name in done.removed:
        out.print(f"{'would remove' if dry else 'removed'} {name}", markup=False)
    out.print(
        f"{done.freed / 1e6:,.1f} MB in {len(done.removed)} products; {done.kept} stay, {done.active} runs active"
    )


def parameters(config: Recipe, overrides: Overrides = None) -> None:
    """Print a recipe as parameters of a deployment.

    `annotune parameters my.yaml | prefect deployment run finetune/finetune --params - --watch`
    """
    import orjson

    from flows.config import load_config

    settings, _ = load_config(config, overrides or [])
    sys.stdout.write(orjson.dumps({"config": settings.model_dump(mode="json")}).decode() + "\n")


def serve(
    prefect_file: PrefectFile = None,
    home: Annotated[Path, typer.Option(help="Prefect's database and logs.")] = Path(".prefect"),
    port: Annotated[int, typer.Option(help="Of the server, on this machine alone.")] = 4200,
    gpus: Annotated[int, typer.Option(min=1, help="Training runs at once.")] = 1,
) -> None:
    """Start a Prefect server and a worker with every deployment on this machine; Ctrl-C stops both."""
    from flows.serve import DEPLOYMENTS, QUEUES, serving

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same end for a service manager
    queues, file = {**QUEUES, "gpu": gpus}, (prefect_file or DEPLOYMENTS).resolve()
    out.print(f"starting server and worker with the deployments of {file}, half a minute ...", soft_wrap=True)
    with suppress(KeyboardInterrupt), serving(home.resolve(), file, port, queues) as running:
        out.print(f"Prefect: {running.api.removesuffix('/api')}  (logs in {home})", soft_wrap=True)
        out.print(f"export PREFECT_API_URL={running.api}", soft_wrap=True)
        running.wait()
    out.print("stopped")


def deploy(
    prefect_file: PrefectFile = None,
    gpus: Annotated[int, typer.Option(min=1, help="Training runs at once.")] = 1,
) -> None:
    """Make pool, queues, deployments and automations on the Prefect server that PREFECT_API_URL names."""
    from flows.serve import DEPLOYMENTS, QUEUES, prepare

    if "PREFECT_API_URL" not in os.environ:
        raise ValueError("PREFECT_API_URL is not set. Set it to the server's API, e.g. http://127.0.0.1:4200/api")
    prepare((prefect_file or DEPLOYMENTS).resolve(), os.environ, {**QUEUES, "gpu": gpus})
