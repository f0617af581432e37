"""Convert: the source's annotations to one COCO file per split."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict

from converters.coco import Coco, write_coco
from converters.crops import crop_boxes
from converters.fingerprint import Fingerprint
from converters.formats import Conversion, find_format
from converters.formats import convert as convert_source
from converters.records import ConversionLog
from converters.summary import printable
from tasks.shards import Shards, joined
from tasks.source import CropOptions, SourceOptions
from tasks.stage import as_text, product
from tasks.store import Product


class Images(BaseModel):
    """Where the images are, and what they are: the folder may move, the digest is what counts."""

    model_config = ConfigDict(frozen=True)

    root: Path
    digest: str


WHOLE = Shards()
told = logging.getLogger("annotune")


@product("converters.formats")
def convert(folder: Path, source: SourceOptions, seen: Fingerprint, shards: Shards = WHOLE) -> None:
    """Write ``<split>.json`` for every split, and ``about.json`` with what was left out.

    ``seen`` stands for the bytes under ``source.root``: it is what the result is keyed on. ``shards`` that were
    converted already are only put together.

    Raises:
        AnnotationError: a file cannot be read (or is counted, with ``skip_bad``).
        DatasetError: an unknown format or option, a split without images.
    """
    log = ConversionLog(skip_bad=source.skip_bad)
    result = joined(source, shards, log) if shards.products else _at_once(source, log)
    splits = {split: _cropped(coco, source.crops, log) for split, coco in result.splits.items()}
    for split, coco in splits.items():
        write_coco(coco, folder / f"{split}.json")
    image_root = result.image_root.resolve()
    base = (source.images or source.root).resolve()
    about = {
        "image_root": os.path.relpath(image_root, base),
        "task": "classification" if source.crops else "detection",
        "splits": {split: _counts(coco) for split, coco in splits.items()},
        "dropped": _told(log.dropped),
        "notes": _told(log.notes),
        "examples": {printable(why): [printable(where) for where in log.examples[why]] for why in sorted(log.examples)},
        "bad_files": [printable(str(error)) for error in log.bad_files],
    }
    (folder / "about.json").write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2))
    (folder / "summary.md").write_text(_summary(about))


def _at_once(source: SourceOptions, log: ConversionLog) -> Conversion:
    if source.jobs > 1 and not find_format(source.format).divisible:
        told.info("source.jobs %d: %s is one list, which one process reads", source.jobs, source.format)
    return convert_source(
        source.format,
        source.root,
        source.splits or None,
        images=source.images,
        categories=source.categories,
        options=source.options,
        jobs=source.jobs,
        log=log,
    )


def _cropped(coco: Coco, crops: CropOptions | None, log: ConversionLog) -> Coco:
    return crop_boxes(coco, log, padding=crops.padding, min_size=crops.min_size) if crops else coco


def images_of(source: SourceOptions, converted: Product, seen: Fingerprint) -> Images:
    """The images of a converted source, as the stages after it take them."""
    return Images(root=image_root(source, converted), digest=seen.images)


def image_root(source: SourceOptions, converted: Product) -> Path:
    """The folder that the ``file_name`` of the converted images are relative to."""
    about = orjson.loads((converted.path / "about.json").read_bytes())
    return Path(os.path.normpath((source.images or source.root).resolve() / about["image_root"]))


def _told(counts: Mapping[str, int]) -> dict[str, int]:
    """By reason, in order; file names in it need not be UTF-8, JSON has to be."""
    return {printable(reason): counts[reason] for reason in sorted(counts)}


def _counts(coco: Mapping[str, Any]) -> dict[str, Any]:
    per_class = Counter(annotation["category_id"] for annotation in coco["annotations"])
    return {
        "images": len(coco["images"]),
        "instances": len(coco["annotations"]),
        "classes": {category["name"]: per_class[category["id"]] for category in coco["categories"]},
    }


def _summary(about: Mapping[str, Any]) -> str:
    splits = about["splits"]
    first = ", ".join(f"{name} {s['images']:,} images {s['instances']:,} instances" for name, s in splits.items())
    names = list(next(iter(splits.values()))["classes"])
    lines = [first, "", "| class | " + " | ".join(splits) + " |", "|---|" + "---:|" * len(splits)]
    lines += [
        f"| {as_text(name)} | " + " | ".join(str(s["classes"][name]) for s in splits.values()) + " |" for name in names
    ]
    left_out = [*about["dropped"].items(), *about["notes"].items()]
    lines += ["", *(f"- {as_text(reason)}: {count}" for reason, count in left_out)]
    lines += [f"- not readable: {as_text(error)}" for error in about["bad_files"]]
    return "\n".join(lines) + "\n"
