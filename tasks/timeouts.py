"""How long a stage may take before it is given up: a guard against what hangs, far above what work takes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Timeouts(BaseModel):
    """Hours that one attempt at a stage may take. The results do not depend on them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    look: float = Field(default=2, gt=0, description="Hours to look at the source for changes.")
    convert: float = Field(default=12, gt=0, description="Hours to convert the annotations.")
    convert_shard: float = Field(default=12, gt=0, description="Hours to convert one shard of them.")
    check: float = Field(default=12, gt=0, description="Hours to check the dataset.")
    holdout: float = Field(default=1, gt=0, description="Hours to keep the champions' validation split apart.")
    fetch: float = Field(default=4, gt=0, description="Hours to fetch the pretrained checkpoint.")
    adapt: float = Field(default=1, gt=0, description="Hours to load what fits of it.")
    train: float = Field(default=168, gt=0, description="Hours to train; what was reached is kept for the next run.")
    evaluate: float = Field(default=12, gt=0, description="Hours to evaluate one checkpoint.")
    report: float = Field(default=2, gt=0, description="Hours to write the page.")


class StageTimeoutError(ValueError):
    """A stage took longer than its timeout and was stopped."""
