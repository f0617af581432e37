"""Reading, planning and loading a 248 MB checkpoint beside plain ``torch.load`` and ``load_state_dict``.

    python benchmarks/bench_weights.py [--rounds 5]

Each round is a process of its own, forked from one that has imported everything, that builds YOLOv3 (62 million
parameters) and loads a checkpoint of it; the rounds alternate. Time: CPU seconds from the path to the loaded model,
without imports and building. Memory: the peak resident set of the process less what it was before loading; mapped
pages of the file count. The same for Paddle's pickles of both protocols, beside ``pickle.load``, which runs what a
file asks for.
"""

from __future__ import annotations

import argparse
import multiprocessing
import pickle
import re
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from models.weights.apply import apply_plan
from models.weights.containers import read_checkpoint
from models.weights.planning import plan_load
from models.zoo import DetectorOptions, build_detector, get_detector

CLASSES = tuple(f"class {number}" for number in range(80))
NAME = "yolov3_darknet53"
KINDS = ("plain", "ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    state = build_detector(DetectorOptions(name=NAME), len(CLASSES) + 1).state_dict()
    arrays = {key: tensor.numpy() for key, tensor in state.items()}
    print(f"{torch.get_num_threads()} threads, median of {rounds}")
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, path := Path(folder) / "yolov3.pth")
        compare("torch.save", path, rounds)
        for protocol in (4, 2):
            with path.open("wb") as file:
                pickle.dump(arrays, file, protocol)
            compare(f"Paddle, protocol {protocol}", path, rounds)


def compare(title: str, path: Path, rounds: int) -> None:
    """Print the medians of both, and their ratio."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["models.zoo", "models.weights.containers", "models.weights.planning"])
    with forks.Pool(1, maxtasksperchild=1) as fresh:
        seen = [[fresh.apply(measure, (kind, path)) for kind in KINDS] for _ in range(rounds)]
    print(f"{title}, {path.stat().st_size / 1e6:.0f} MB")
    for at, unit in enumerate(("s", "MB")):
        plain, ours = (median(both[kind][at] for both in seen) for kind in range(len(KINDS)))
        print(f"  plain {plain:8.2f} {unit:2}   ours {ours:8.2f} {unit:2}   ratio {ours / plain:.2f}", flush=True)


def measure(kind: str, path: Path) -> tuple[float, float]:
    """CPU seconds and megabytes that it takes to load the file into a model."""
    model = build_detector(DetectorOptions(name=NAME), len(CLASSES) + 1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: proc_pid_clear_refs(5)
    before, start = peak_megabytes(), time.process_time()
    if kind == "plain":
        model.load_state_dict(plainly_read(path))
    else:
        checkpoint = read_checkpoint(path)
        plan = plan_load(model, get_detector(NAME), CLASSES, checkpoint)
        model.load_state_dict(apply_plan(plan, model.state_dict(), checkpoint))
    return time.process_time() - start, peak_megabytes() - before


def plainly_read(path: Path) -> dict[str, torch.Tensor]:
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        file.seek(0)
        return {key: torch.as_tensor(array) for key, array in pickle.load(file).items()}


def peak_megabytes() -> float:
    """The highest resident set of this process since its peak began anew."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024 / 1e6


if __name__ == "__main__":
    main()
