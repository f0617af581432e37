"""Flows for parts of the chain: the dataset alone, and the score of a checkpoint that is there already."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from prefect import flow

from converters.fingerprint import Fingerprint
from flows.chain import Runner, chain
from flows.config import FinetuneConfig
from flows.finetune import as_tasks, scores_of
from tasks.convert import Images, images_of
from tasks.evaluate import evaluate as evaluate_stage
from tasks.fetch import fetch
from tasks.gc import under_way
from tasks.store import Product


class Dataset(NamedTuple):
    """A dataset as training may use it."""

    seen: Fingerprint
    checked: Product
    images: Images


def dataset(config: FinetuneConfig, run: Runner) -> Dataset:
    """Run the chain up to the check.

    Raises:
        DatasetError: the check found errors.
    """
    (_, seen), (_, converted), (_, checked) = islice(chain(config, run), 3)
    return Dataset(seen, checked, images_of(config.source, converted, seen))


@flow(name="convert", flow_run_name="{config.name}")
def convert(config: FinetuneConfig) -> Product:
    """Convert and check a dataset: COCO files, and a page of what is wrong.

    Args:
        config: as for finetune; only name, workspace, source and check matter.

    Raises:
        DatasetError: the check found errors.
    """
    with under_way(config.workspace):
        return dataset(config, as_tasks(config)).checked


@flow(name="evaluate", flow_run_name="{config.name}")
def evaluate(config: FinetuneConfig, checkpoint: str) -> dict[str, float]:
    """Score a checkpoint on the validation split.

    Args:
        config: as for finetune; what is trained does not matter.
        checkpoint: a checkpoint of ours: a path, or a URL as in weights.source.

    Returns:
        COCO's box metrics or the accuracy, 0..1.
    """
    run = as_tasks(config)
    with under_way(config.workspace):
        data = dataset(config, run)
        weights = run(fetch, checkpoint, None)
        return scores_of(run(evaluate_stage, weights, data.checked.file("val.json"), data.images, config.evaluate))
