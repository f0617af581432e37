"""Conversion in parts: every shard of the source is a product of its own, and together they are one big run's bytes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from converters.coco import Coco, write_coco
from converters.errors import AnnotationError
from converters.fingerprint import Fingerprint
from converters.formats import Conversion, join_shards
from converters.formats import convert as convert_source
from converters.records import ConversionLog
from converters.splits import Splits, selectors
from tasks.source import SourceOptions
from tasks.stage import product
from tasks.store import Product

RUNNERS = Literal["inline", "threads", "processes", "dask", "ray"]


class ConvertOptions(BaseModel):
    """How a large source is divided; the result is the same to the byte however that is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: int = Field(default=1, ge=1, description="Parts that the source is converted in; each is kept by itself")
    runner: RUNNERS = Field(
        default="inline",
        description="Who converts the shards when a flow runs: one after another, threads, processes, or the workers "
        "of Dask or Ray (pip install 'annotune[dask]', 'annotune[ray]')",
    )
    workers: int | None = Field(default=None, ge=1, description="Shards at once on this machine; none: one a core")
    address: str | None = Field(
        default=None, description="Dask scheduler or Ray cluster that is there already; none: workers of this machine"
    )


class Shards(BaseModel):
    """The finished shards of a source, in order; what is made of them does not depend on their number."""

    model_config = ConfigDict(frozen=True)

    products: tuple[Product, ...] = ()

    def binding(self) -> dict[str, Any]:
        """Nothing: the same source gives the same bytes, in shards or not."""
        return {}


@product("converters.formats")
def convert_shard(folder: Path, source: SourceOptions, seen: Fingerprint, index: int, count: int) -> None:
    """Write the ``index``-th of ``count`` parts, from 0: for every pass over the source its COCO files and its log.

    Raises:
        AnnotationError: a file cannot be read (or is counted, with ``skip_bad``).
        DatasetError: the format cannot be read in shards, or as in convert.
    """
    images = 0
    for number, splits in enumerate(_passes(source)):
        log = ConversionLog(skip_bad=source.skip_bad)
        result = convert_source(
            source.format,
            source.root,
            splits,
            images=source.images,
            categories=source.categories,
            options=source.options,
            shard=(index, count),
            log=log,
        )
        for name, coco in result.splits.items():
            write_coco(coco, folder / f"{number}-{name}.json")
            images += len(coco["images"])
        (folder / f"{number}-log.json").write_text(json.dumps(_packed(log)))  # names need not be UTF-8
    (folder / "summary.md").write_text(f"shard {index} of {count}: {images:,} images\n")


def joined(source: SourceOptions, shards: Shards, log: ConversionLog) -> Conversion:
    """What one run over the whole source would have given; ``log`` takes what the shards counted.

    Raises:
        DatasetError: a split without images, or an image in two shards.
    """
    parts: list[dict[str, Coco]] = []
    for number, splits in enumerate(_passes(source)):
        for shard in shards.products:
            log.merge(_unpacked(json.loads((shard.path / f"{number}-log.json").read_text())))
            parts.append({name: orjson.loads((shard.path / f"{number}-{name}.json").read_bytes()) for name in splits})
    return join_shards(
        source.format,
        source.root,
        parts,
        source.splits,
        images=source.images,
        categories=source.categories,
        options=source.options,
        log=log,
    )


def _passes(source: SourceOptions) -> Iterator[Splits]:
    """What is read at once: all shares together, but every list or folder by itself, as in one run."""
    splits = source.splits or {"all": 1.0}
    if any(isinstance(what, float) for what in splits.values()):
        yield splits
    else:
        yield from ({name: what} for name, what in selectors(splits))


def _packed(log: ConversionLog) -> dict[str, Any]:
    bad = [error.args for error in log.bad_files]
    return {"bad": bad, "dropped": log.dropped, "notes": log.notes, "examples": log.examples}


def _unpacked(said: Mapping[str, Any]) -> ConversionLog:
    bad = [AnnotationError(*fields) for fields in said["bad"]]
    return ConversionLog(True, bad, Counter(said["dropped"]), Counter(said["notes"]), said["examples"])
