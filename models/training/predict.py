"""Say what is in pictures with one of our checkpoints: objects and where they are, or what the whole picture shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.training.assemble import assemble, pick_device, placed
from models.training.dataset import Loaded, at_working_size
from models.training.detect import find, image_batches, loading_processes
from models.training.images import UnreadableImageError, read_image
from models.training.options import PredictOptions
from models.training.transforms import WorkingSize

PICTURES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif", ".jp2",
})  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture, best first.

    Attributes:
        path: the picture.
        size: its (width, height) in pixels.
        boxes: (N, 4) float pixel xyxy.
        labels: (N,) from 1.
        scores: (N,) 0..1.
        names: N category names.
        masks: (N, H, W) bool, or None where the detector has no masks.
        whole: a classifier's, whose five most probable answers are about the whole picture.
    """

    path: Path
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    names: tuple[str, ...]
    masks: Tensor | None = None
    whole: bool = False


def predict(
    checkpoint: Path,
    images: Path | Sequence[Path],
    *,
    options: PredictOptions | None = None,
    unreadable: list[UnreadableImageError] | None = None,
) -> Iterator[Prediction]:
    """Yield what a checkpoint finds in each picture, in the order given.

    Args:
        checkpoint: one of ours; it knows its detector, classes and image size.
        images: pictures, or a folder, which is searched through in the order of the names.
        options: see :class:`PredictOptions`.
        unreadable: gets what is wrong with pictures that cannot be read, once all others have been looked at.

    Raises:
        WeightsError: not a checkpoint of ours.
        UnreadableImageError: a picture cannot be read, and ``unreadable`` is None; after all others were yielded.
        ValueError: a folder without pictures.
    """
    options = options or PredictOptions()
    paths = find_pictures(images) if isinstance(images, Path) else list(images)
    device = pick_device(options.device)
    assembled = assemble(checkpoint)
    batches = image_batches(
        _Pictures(paths, assembled.size),
        range(len(paths)),
        options.batch_size,
        loading_processes(options.workers, device),
    )
    whole = assembled.detector.task == "classification"
    seen = set()
    for found in find(placed(assembled.model, device), batches, device, 0.0 if whole else options.min_score):
        names = tuple(assembled.meta.classes[label - 1] for label in found.labels.tolist())
        height, width = found.size
        seen.add(found.index)
        yield Prediction(
            paths[found.index], (width, height), found.boxes, found.labels, found.scores, names, found.masks, whole
        )
    for index in sorted(set(range(len(paths))) - seen):
        try:
            read_image(paths[index])
        except UnreadableImageError as error:
            if unreadable is None:
                raise
            unreadable.append(error)


def find_pictures(path: Path) -> list[Path]:
    """The picture itself, or all of a folder and the folders in it, in the order of their names.

    Raises:
        ValueError: nothing there.
    """
    if path.is_file():
        return [path]
    found = sorted(entry for entry in path.rglob("*") if entry.suffix.lower() in PICTURES and entry.is_file())
    if not found:
        raise ValueError(f"{path}: no pictures there ({', '.join(sorted(PICTURES))})")
    return found


class _Pictures(Dataset[Loaded]):
    """Pictures at the working size."""

    def __init__(self, paths: Sequence[Path], size: WorkingSize) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Loaded:
        """The picture; of one that cannot be read, a black one that says so."""
        try:
            return at_working_size(read_image(self.paths[index]), self.size, index)
        except UnreadableImageError:
            black = torch.zeros(3, 32, 32, dtype=torch.uint8)
            return replace(at_working_size(black, self.size, index), unreadable=(index,))
