"""What the network sees: training pictures with their objects, after augmentation, as the steps of a run get them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path, PurePosixPath

from PIL import Image

from models.files import whole_file
from models.training.assemble import Assembled, assemble
from models.training.dataset import Loaded, training_images
from models.training.evaluation import table_of
from models.training.optimizer import make_plan
from models.training.options import DetectionData, TrainOptions
from models.training.requirements import require_fitting, require_objects
from models.training.sampling import StepSampler, images_per_epoch, repeat_factors, step_groups
from models.training.writers import draw_objects


def browse(
    init: Path, train: DetectionData, options: TrainOptions, folder: Path, *, epoch: int = 0, count: int = 24
) -> Iterator[Path]:
    """Write the first pictures of an epoch as the network sees them, with boxes, masks and names; yield their paths.

    They are those of a run of one process, to the pixel: size, order, augmentation, mosaic and mixup are functions of
    the seed, the epoch and the image.

    Args:
        init: the checkpoint that the run begins with.
        train: the training set.
        options: of the run.
        folder: where the JPEGs go; made if absent.
        epoch: from 0.
        count: how many pictures; those of one epoch at most.

    Raises:
        ValueError: nothing to learn in the set, or options that the model cannot have.
    """
    assembled = assemble(init)
    table = table_of(train, assembled, masks=assembled.detector.masks, skip_empty=options.skip_empty)
    require_objects(table, train)
    require_fitting(options, assembled.detector)
    factors, per_step = repeat_factors(table, options.balance), options.batch_size * options.accumulate
    steps = math.ceil(images_per_epoch(table, factors) / per_step)
    plan = make_plan(options, assembled.detector, steps, 1)
    images = training_images(table, train.images, options, assembled, plan.mixed_epochs)
    start, groups = epoch * steps, step_groups(table)
    sampler = StepSampler(groups, per_step, seed=options.seed, start=start, stop=start + steps, factors=factors)
    folder.mkdir(parents=True, exist_ok=True)
    for number, address in enumerate(islice(chain.from_iterable(sampler), count), 1):
        loaded = images[address]
        path = folder / f"{number:04}-{PurePosixPath(table.name(loaded.index)).stem}.jpg"
        with whole_file(path) as part:
            seen(loaded, assembled).save(part, "JPEG", quality=92)
        yield path


def seen(loaded: Loaded, assembled: Assembled) -> Image.Image:
    """A training picture with its objects drawn in; a classifier's has one, around the whole of it."""
    canvas = Image.fromarray(loaded.image.permute(1, 2, 0).contiguous().numpy())
    target = loaded.target
    names = [assembled.meta.classes[label - 1] for label in target["labels"].tolist()]
    notes = ["(crowd)" if crowd else "" for crowd in target["iscrowd"].tolist()]
    masks = target["masks"].dense(canvas.height, canvas.width).bool() if "masks" in target else None
    draw_objects(canvas, names, target["boxes"], notes, masks)
    return canvas
