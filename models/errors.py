"""What can go wrong between a checkpoint and a detector, said in one line: file, field, value, remedy.

ValueError
|-- WeightsError         this checkpoint cannot be fetched, read or loaded into this model
|   `-- ExportError      it cannot be written as that file, or the file does not do what it does
`-- DetectorError        no such detector, or options that it cannot have
RuntimeError
|-- TrainingError        the run cannot go on; what it has reached is in its folder
`-- TrainingCrash        the training process died; a retry continues from its last checkpoint
    |-- OutOfMemory      one of several processes had no room; they begin again with half the images per pass
    `-- TrainingStopped  it was told to stop (SIGTERM) and wrote a checkpoint first
"""

from __future__ import annotations


class WeightsError(ValueError):
    """A checkpoint that cannot be fetched, read or loaded; ``problem`` names it, ``remedy`` says what to do.

    The fields go to ``super().__init__`` so that the error survives pickling between processes.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem, self.remedy = problem, remedy

    def __str__(self) -> str:
        return self.problem + (f". {self.remedy}" if self.remedy else "")


class DetectorError(ValueError):
    """An unknown detector name or an option that the detector cannot have."""


class ExportError(WeightsError):
    """A checkpoint that cannot be exported, or an export that does not agree with PyTorch."""


class TrainingError(RuntimeError):
    """The run cannot go on: a loss that is not finite, too many unreadable images."""


class TrainingCrash(RuntimeError):  # noqa: N818 - what happened to the process, not what was done wrong
    """The training process died, or was killed: a signal, the OOM killer, a fault of the GPU. Worth a retry."""


class TrainingStopped(TrainingCrash):
    """The run was told to stop and wrote a checkpoint first; it continues from its folder."""


class OutOfMemory(TrainingCrash):
    """One of several processes had no room for its images; the next attempt takes half as many at once."""
