"""Randomness as a function: what is drawn follows from (seed, purpose, position), never from what was drawn before.

A run that resumes at step 1,234 therefore draws what the uninterrupted run drew there, for any number of workers, and
no generator state needs to be saved.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mix(*values: int | str) -> int:
    """A 63-bit seed from anything that names a position; the same in every process and on every machine."""
    text = "/".join(map(str, values)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def seed_everything(*values: int | str) -> None:
    """Set the generators of python, numpy and torch (all devices) to the position named by ``values``."""
    seed = mix(*values)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def drawn_at(*values: int | str) -> Iterator[random.Random]:
    """Torch's CPU generator and the yielded one stand at the position; afterwards torch's is as it was before."""
    with torch.random.fork_rng(devices=[]):
        seed = mix(*values)
        torch.default_generator.manual_seed(seed)
        yield random.Random(seed)  # noqa: S311 - augmentation, no secrets
