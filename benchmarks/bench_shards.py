"""VOC to COCO on local workers (Dask, processes, ...) against one process, in one run, on generated files.

    python benchmarks/bench_shards.py [--files 200000] [--runner dask] [--workers 2] [--shards 8] [--folder DIR]

Both go through the stages and their store, the workers within a flow on Prefect's own temporary server; the start of
the workers counts, that of the server and the look at the source do not. The results are compared byte by byte. On a
machine that others use, seconds by the clock say how many processes asked for it: look at the CPU seconds there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from bench_voc import write_set
from prefect import flow

from flows.chain import Plainly, Runner, chain
from flows.config import FinetuneConfig, load_config
from flows.finetune import as_tasks


def converted(config: FinetuneConfig, run: Runner) -> dict[str, Any]:
    """Seconds, peak memory and the digest of a conversion."""
    results = chain(config, run)
    next(results)
    start, spent = time.monotonic(), sum(os.times()[:4])
    _, made = next(results)
    wall, cpu = time.monotonic() - start, sum(os.times()[:4]) - spent  # the workers' too: they have ended
    return {"wall": wall, "cpu": cpu, "digest": made.digest, "images": _images(made.path)}


def _images(folder: Path) -> int:
    splits = json.loads((folder / "about.json").read_bytes())["splits"]
    return sum(split["images"] for split in splits.values())


@flow(name="bench")
def in_flow(config: FinetuneConfig) -> dict[str, Any]:
    return converted(config, as_tasks(config))


def child(recipe: Path, overrides: list[str]) -> None:
    """One of the two, in a process of its own; figures go to the last line of stdout."""
    config, _ = load_config(recipe, overrides)
    alone = config.convert.shards == 1
    figures = converted(config, Plainly(config.workspace)) if alone else in_flow(config)
    own, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    figures["peak"], figures["peak_worker"] = own.ru_maxrss / 1024, 0 if alone else workers.ru_maxrss / 1024
    print("\n" + json.dumps(figures), flush=True)


def measure(place: Path, recipe: Path, name: str, *overrides: str) -> dict[str, Any]:
    environ = {**os.environ, "PREFECT_HOME": str(place / "prefect"), "PREFECT_LOGGING_LEVEL": "WARNING"}
    environ |= {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300", "DO_NOT_TRACK": "1"}
    command = [sys.executable, __file__, "--child", str(recipe), f"workspace={place / name}", *overrides]
    with (place / f"{name}.log").open("w") as log:
        done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=log, check=False, text=True)
    if done.returncode:
        sys.exit((place / f"{name}.log").read_text()[-4000:])
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def tell(who: str, figures: dict[str, Any]) -> None:
    print(f"{who}: {figures['wall']:.1f} s, {figures['cpu']:.1f} s of CPU, peak {figures['peak']:.0f} MB")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--runner", default="dask")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="where the files are made; removed afterwards")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as text:
        place = Path(text)
        write_set(place / "data", given.files, objects=3)
        recipe = place / "bench.yaml"
        source = {"format": "voc", "root": str(place / "data"), "options": {"corners": "edges"}}
        recipe.write_text(yaml.safe_dump({"source": source}))
        spread = [
            f"convert.runner={given.runner}",
            f"convert.workers={given.workers}",
            f"convert.shards={given.shards}",
        ]
        alone = measure(place, recipe, "alone")
        together = measure(place, recipe, "together", *spread)
        if together["digest"] != alone["digest"]:
            sys.exit("the bytes differ")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{alone['images']:,} XML files, {machine}")
    tell("one process", alone)
    tell(f"{given.runner}, {given.workers} workers, {given.shards} shards", together)
    print(f"the largest worker: peak {together['peak_worker']:.0f} MB")
    faster, dearer = alone["wall"] / together["wall"], together["cpu"] / alone["cpu"]
    print(f"{faster:.2f} times as fast for {dearer:.2f} times the CPU, the same bytes")


if __name__ == "__main__":
    main()
