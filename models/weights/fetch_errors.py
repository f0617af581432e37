"""What can go wrong on the way to a checkpoint, and whether trying again can help.

WeightsError
`-- FetchError           wrong source, wrong content, no room: trying again does not help
    |-- NotThereError    the server says that it has no such file
    `-- NetworkError     a drop, a stall, a busy server (an OSError too): trying again may help and goes on from there
"""

from __future__ import annotations

from models.errors import WeightsError


class FetchError(WeightsError):
    """A checkpoint that cannot be fetched, and will not be by trying again."""


class NotThereError(FetchError):
    """The place answers, and has no such file."""


class NetworkError(FetchError, OSError):
    """The network or the server failed; what has arrived is kept and the next call goes on from there.

    Attributes:
        retry_after: seconds the server asked to wait, or None.
    """

    def __init__(self, problem: str, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(problem, remedy)
        self.retry_after = retry_after
