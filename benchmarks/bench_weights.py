"""Reading, planning and loading a 248 MB checkpoint beside plain ``torch.load`` and ``load_state_dict``.

    python benchmarks/bench_weights.py [--rounds 5]

Each round is a process of its own that builds YOLOv3 (62 million parameters) and loads a checkpoint of it; the rounds
alternate. Time: from the path to the loaded model, imports and building apart. Memory: the peak resident set of the
process less what it was before loading; mapped pages of the file count. The same for Paddle's pickles of both
protocols, beside ``pickle.load``, which runs what a file asks for.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=["plain", "ours"])
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.file)))
        return
    state = build_detector(DetectorOptions(name=NAME), len(CLASSES) + 1).state_dict()
    arrays = {key: tensor.numpy() for key, tensor in state.items()}
    print(f"{torch.get_num_threads()} threads, median of {options.rounds}")
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, path := Path(folder) / "yolov3.pth")
        compare("torch.save", path, options.rounds)
        for protocol in (4, 2):
            path.write_bytes(pickle.dumps(arrays, protocol))
            compare(f"Paddle, protocol {protocol}", path, options.rounds)


def compare(title: str, path: Path, rounds: int) -> None:
    seen: dict[str, list[dict[str, float]]] = {"plain": [], "ours": []}
    for _ in range(rounds):
        for kind, found in seen.items():
            command = [sys.executable, __file__, "--one", kind, "--file", str(path)]
            found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(f"{title}, {path.stat().st_size / 1e6:.0f} MB")
    for key, unit in (("seconds", "s"), ("megabytes", "MB")):
        plain, ours = (median(found[key] for found in seen[kind]) for kind in ("plain", "ours"))
        print(f"  {key:9} plain {plain:8.2f} {unit}   ours {ours:8.2f} {unit}   ratio {ours / plain:.2f}")


def measure(kind: str, path: Path) -> dict[str, float]:
    model = build_detector(DetectorOptions(name=NAME), len(CLASSES) + 1)
    peak = Peak()
    start = time.perf_counter()
    with peak:
        if kind == "plain":
            model.load_state_dict(plainly_read(path))
        else:
            checkpoint = read_checkpoint(path)
            plan = plan_load(model, get_detector(NAME), CLASSES, checkpoint)
            model.load_state_dict(apply_plan(plan, model.state_dict(), checkpoint))
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "megabytes": (peak.highest - peak.before) / 1e6}


def plainly_read(path: Path) -> dict[str, torch.Tensor]:
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        file.seek(0)
        return {key: torch.as_tensor(array) for key, array in pickle.load(file).items()}


class Peak:
    """The highest resident set of this process within a ``with`` block, looked at every millisecond."""

    def __init__(self) -> None:
        self.before = self.highest = self.now()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self) -> None:
        while not self.done.wait(0.001):
            self.highest = max(self.highest, self.now())

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.highest = max(self.highest, self.now())
        self.done.set()
        self.thread.join()

    @staticmethod
    def now() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


if __name__ == "__main__":
    main()
