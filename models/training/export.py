"""Export a checkpoint to ONNX, and hold the file to what PyTorch finds in the same pictures.

torch's TorchScript exporter writes the graph: ``torch.export`` cannot follow the selection of boxes in torchvision's
detectors, whose branches depend on the data (torch 2.15: "Could not guard on data-dependent expression" in
``torchvision.ops.boxes``).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import ExportError
from models.files import whole_file
from models.training.assemble import Assembled, assemble
from models.training.dataset import at_working_size
from models.training.images import read_image
from models.training.transforms import WorkingSize

OPSET = 18
BOX, SCORE, MASK = 0.1, 1e-3, 0.02  # what may differ: pixels, and shares of 1

BOXES = "xyxy, pixels of the input"
Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Agreement:
    """How far ONNX Runtime and PyTorch are apart on some pictures.

    Attributes:
        pictures: how many were compared.
        detections: how many were found in them with enough certainty to be compared.
        unmatched: of those, found by one of the two alone.
        boxes: greatest difference of a corner, pixels of the working size.
        scores: greatest difference of a score.
        masks: greatest difference of a mask's cell, 0 without masks.
    """

    pictures: int
    detections: int
    unmatched: int
    boxes: float
    scores: float
    masks: float

    @property
    def close(self) -> bool:
        """Whether the two give the same."""
        return not self.unmatched and self.boxes <= BOX and self.scores <= SCORE and self.masks <= MASK

    def __str__(self) -> str:
        boxes = f"boxes {self.boxes:.2g} px, " if self.boxes else ""  # a classifier has none
        masks = f", masks {self.masks:.2g}" if self.masks else ""
        return (
            f"{self.detections} results in {self.pictures} picture{'s' * (self.pictures != 1)}, {self.unmatched} of "
            f"them from one alone; greatest differences: {boxes}scores {self.scores:.2g}{masks}"
        )


def export_onnx(
    checkpoint: Path,
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    check: Sequence[Path] = (),
    min_score: float = 0.05,
) -> Agreement | None:
    """Write a checkpoint as an ONNX file that gives what PyTorch gives.

    Input ``image (3, H, W)`` uint8, RGB, at the working size; outputs ``boxes (N, 4)`` pixel xyxy of that size,
    ``labels (N,)`` from 1, ``scores (N,)`` and, for mask detectors, ``masks (N, 1, M, M)`` in 0..1, each within its
    box. Normalisation is part of the graph. What else a program needs stands in the file's metadata.

    Args:
        checkpoint: one of ours.
        path: the ONNX file; it appears whole, or not at all.
        size: (height, width) to fix the input to; None: any size, for detectors that have no fixed one.
        check: pictures to compare ONNX Runtime with PyTorch on.
        min_score: detections below it are not compared; which of the weakest survive is a matter of rounding.

    Returns:
        How far the two are apart, or None without pictures.

    Raises:
        ExportError: the file does not agree with PyTorch (none is left), nothing was found that could be compared, the
            size is not the detector's, or onnx and onnxruntime are not installed.
        WeightsError: not a checkpoint of ours.
        UnreadableImageError: a picture cannot be read.
    """
    _require()
    assembled = assemble(checkpoint)
    working = _working_size(assembled, size)
    pictures = [at_working_size(read_image(one), working, 0).image for one in check]
    model = OneImage(assembled).eval()
    with whole_file(path) as part:
        _write(model, working, assembled, part)
        agreement = compare(model, part, pictures, min_score) if pictures else None
        if agreement is not None:
            _insist(agreement, checkpoint, min_score)
    return agreement


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of ``HxW``.

    Raises:
        ExportError: it is not two numbers with an x between them.
    """
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise ExportError(f"size {text!r}: height and width in pixels, such as 480x640")
    return int(sides[0]), int(sides[1])


class OneImage(nn.Module):
    """A detector as a graph: one picture in, tensors out."""

    def __init__(self, assembled: Assembled) -> None:
        super().__init__()
        self.model = assembled.model
        boxes = ("boxes",) if assembled.detector.task == "detection" else ()
        self.outputs = (*boxes, "labels", "scores", *(("masks",) if assembled.detector.masks else ()))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Outputs by position for ``(3, H, W)`` uint8 of the working size."""
        found: Outputs = self.model([image.float() / 255])[0]  # float: a uint8 batch is filled in place
        return tuple(found[name] for name in self.outputs)


def _require() -> None:
    try:
        for needed in ("onnx", "onnxruntime"):
            import_module(needed)
    except ModuleNotFoundError as error:
        raise ExportError(f"{error.name} is not installed", "pip install 'annotune[onnx]'") from None


def _working_size(assembled: Assembled, size: tuple[int, int] | None) -> WorkingSize:
    own = assembled.size
    if size is None:
        return own
    if own.fixed not in (None, size):
        raise ExportError(f"size {size}: {assembled.meta.detector} was trained at {own.fixed}", "Leave --size out")
    if any(side % 32 for side in size) and own.fixed is None:
        raise ExportError(f"size {size}: both sides must be multiples of 32")
    return WorkingSize(own.min_size, own.max_size, size, own.crop)


def _write(model: OneImage, working: WorkingSize, assembled: Assembled, path: Path) -> None:
    """Trace the model at a size of its own and write the graph with its metadata."""
    import onnx  # noqa: PLC0415  an extra

    # Noise, so that something passes the thresholds and every branch is seen; never square, which would hide a swap.
    height, width = working.fixed or working.of(480, 640)
    draw = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, height, width), generator=draw, dtype=torch.uint8)
    free = {1: "height", 2: "width"} if working.fixed is None else {}
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            model,
            (image,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(model.outputs),
            dynamic_axes={"image": free, **{name: {0: "detections"} for name in model.outputs}},
        )
    written = onnx.load(str(path))
    onnx.helper.set_model_props(written, metadata(working, assembled))
    onnx.checker.check_model(written)
    onnx.save(written, str(path))


def metadata(working: WorkingSize, assembled: Assembled) -> dict[str, str]:
    """What a program that runs the file needs to know; values are JSON where they are no plain words."""
    options = assembled.meta.options
    size = (
        {"height": working.fixed[0], "width": working.fixed[1], "keep_aspect_ratio": False}
        if working.fixed
        else {"shorter_side": working.min_size, "longest_side": working.max_size, "keep_aspect_ratio": True}
    )
    return {
        "annotune.detector": assembled.meta.detector,
        "annotune.classes": json.dumps(list(assembled.meta.classes)),  # label 1 is the first
        "annotune.input_size": json.dumps(size),
        "annotune.colour_order": "RGB",
        "annotune.pixel_values": "uint8 0..255, (3, height, width)",
        "annotune.normalisation": json.dumps(
            {"mean": list(options["image_mean"]), "std": list(options["image_std"]), "of": "0..1", "within_graph": True}
        ),
        **({"annotune.centre_crop": json.dumps(working.crop)} if working.crop else {"annotune.boxes": BOXES}),
        **({"annotune.masks": "0..1 within each box, inside from 0.5"} if assembled.detector.masks else {}),
    }


def compare(model: OneImage, path: Path, pictures: Sequence[Tensor], min_score: float) -> Agreement:
    """Run pictures ``(3, H, W)`` uint8 of the working size through PyTorch and through ONNX Runtime."""
    runtime: Any = import_module("onnxruntime")  # an extra, and without types
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3  # it warns of shapes that it guessed wrong
    settings.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    seen = []
    for picture in pictures:
        with torch.inference_mode():
            ours = dict(zip(model.outputs, (one.numpy() for one in model(picture)), strict=True))
        theirs = dict(zip(model.outputs, session.run(None, {"image": picture.numpy()}), strict=True))
        seen.append(difference(ours, theirs, min_score))
    return Agreement(
        len(seen),
        sum(one.detections for one in seen),
        sum(one.unmatched for one in seen),
        *(max(getattr(one, name) for one in seen) for name in ("boxes", "scores", "masks")),
    )


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], min_score: float) -> Agreement:
    """Pair the detections of one picture: same label, and the boxes nearest to each other.

    A score just above the least may be just below it on the other side, so each side looks for its own among all of
    the other.
    """
    pairs = [*_pairs(ours, theirs, min_score), *((b, a) for a, b in _pairs(theirs, ours, min_score))]
    both = [(here, there) for here, there in pairs if here is not None and there is not None]
    worst = {"boxes": 0.0, "scores": 0.0, "masks": 0.0}
    for name in worst.keys() & ours.keys():
        apart = (float(np.abs(ours[name][here] - theirs[name][there]).max()) for here, there in both)
        worst[name] = max(apart, default=0.0)
    count = int((ours["scores"] >= min_score).sum())
    return Agreement(1, count, len(pairs) - len(both), **worst)


def _pairs(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], min_score: float
) -> Iterator[tuple[int | None, int | None]]:
    """For each of our detections its partner, or None where there is none of its label within 10 pixels."""
    for here in np.flatnonzero(ours["scores"] >= min_score).tolist():
        same = np.flatnonzero(theirs["labels"] == ours["labels"][here])
        apart = np.zeros(len(same))  # a classifier's answers have no place
        if len(same) and "boxes" in ours:
            apart = np.abs(theirs["boxes"][same] - ours["boxes"][here]).max(-1)
        near = int(apart.argmin()) if len(apart) else 0
        yield here, int(same[near]) if len(apart) and apart[near] <= 10 else None


def _insist(agreement: Agreement, checkpoint: Path, min_score: float) -> None:
    if not agreement.detections:
        raise ExportError(
            f"{checkpoint.name} finds nothing with a score of {min_score} in the {agreement.pictures} pictures, so "
            "nothing could be compared",
            "Give pictures like those it was trained on, or a lower --min-score",
        )
    if not agreement.close:
        raise ExportError(
            f"ONNX Runtime does not give what PyTorch gives: {agreement}. Allowed: boxes {BOX} px, scores {SCORE}, "
            f"masks {MASK}",
            "No file was written",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns of every branch that it takes; that the graph is right is checked by running it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
