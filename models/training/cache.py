"""Decoded pictures of a small set in one file, which the system keeps in memory and loading processes share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHANNELS = 3


@dataclass(frozen=True)
class PictureCache:
    """N pictures of known sizes, filled as they are first read; those beyond the limit are not kept.

    The file begins with a byte per picture: 1 where it is there. A picture is written before its byte, and by whoever
    comes first; two who write one write the same.

    Attributes:
        path: the file, scratch of one run.
        sizes: (N, 2) int64 height, width in pixels.
        starts: (N + 1,) int64 offsets in the file.
        limit: size of the file in bytes.
    """

    path: Path
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    limit: int

    @classmethod
    def create(cls, path: Path, sizes: Sequence[tuple[int, int]], limit: int) -> PictureCache:
        """An empty cache for pictures of these sizes (height, width); what was at ``path`` is gone."""
        table = np.array(sizes, np.int64).reshape(-1, 2)
        path.write_bytes(bytes(len(table)))
        starts = np.concatenate([[0], np.cumsum(table.prod(1) * CHANNELS)]) + len(table)
        return cls(path, table, starts, limit)

    def read(self, index: int) -> Tensor | None:
        """The picture ``(3, H, W)`` uint8 as it was put there, in memory as the decoder lays it; None if it is not."""
        if not self._fits(index):
            return None
        height, width = self.sizes[index].tolist()
        with self.path.open("rb", buffering=0) as file:
            if os.pread(file.fileno(), 1, index) != b"\1":
                return None
            pixels = np.empty((height, width, CHANNELS), np.uint8)
            os.preadv(file.fileno(), [pixels.data], int(self.starts[index]))
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def write(self, index: int, image: Tensor) -> None:
        """Keep a picture, if there is room and it lies in memory row by row of whole pixels, as decoders leave it.

        Another layout would come back as this one, and what is computed from it could differ in the last bit.
        """
        rows = image.permute(1, 2, 0)
        if not self._fits(index) or not rows.is_contiguous() or tuple(rows.shape[:2]) != tuple(self.sizes[index]):
            return
        with self.path.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), rows.numpy().data, int(self.starts[index]))
            os.pwrite(file.fileno(), b"\1", index)

    def _fits(self, index: int) -> bool:
        return bool(self.starts[index + 1] <= self.limit)
