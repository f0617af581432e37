"""The source: which annotations and images a run is about."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from converters.formats import FORMATS, find_format
from converters.splits import read_list

TAKEN = ("about", "classes", "known", "manifest", "problems")  # JSON files that lie beside those of the splits


class Location:
    """Marks a text field that may hold a path: relative ones are meant from the recipe that writes them."""


class CropOptions(BaseModel):
    """How boxes become the pictures of a classifier; a box around a whole picture is one already."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    padding: float = Field(default=0.0, ge=0, description="Share of a box's width and height added on each side")
    min_size: float = Field(
        default=8.0, ge=1, description="Boxes narrower or lower than so many pixels are left out and counted"
    )


class SourceOptions(BaseModel):
    """The annotations and images you have."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: str = Field(
        description="Format of the annotations; docs/formats.md says what is read",
        json_schema_extra={"enum": [*FORMATS]},
    )
    root: Path = Field(description="Folder of the dataset")
    images: Path | None = Field(None, description="Folder of the images, where the format does not say")
    splits: dict[str, float | str | tuple[str, ...]] = Field(
        {"train": 0.8, "val": 0.2},
        description="Per split what belongs to it: a list file, a folder or a name as the format has it, a list of "
        "these, or a share between 0 and 1 that is chosen by a stable hash of the file name",
    )
    categories: Annotated[list[str] | None, Location()] = Field(
        None,
        description="Classes in order, or a file with one a line, such as PaddleDetection's label_list.txt; none: all "
        "that occur, alphabetically",
    )
    options: dict[str, Any] = Field({}, description="Options of the format, such as corners or difficult for voc")
    skip_bad: bool = Field(False, description="Leave out annotation files that cannot be read, and count them")
    jobs: int = Field(
        1, ge=1, description="Processes that read annotations; one list, as of coco or widerface, is read by one"
    )
    crops: CropOptions | None = Field(
        None, description="How a classifier's pictures are cut out of a dataset of objects; only with a classifier"
    )

    @field_validator("root", "images", mode="before")
    @classmethod
    def _is_given(cls, folder: Any) -> Any:
        if folder == "":  # a deployment whose variable was not set; it would mean whatever folder the worker is in
            raise ValueError("empty. Give the folder of the dataset; the deployments take it from ANNOTUNE_SOURCE")
        return folder

    @field_validator("categories", mode="before")
    @classmethod
    def _are_read(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        if not Path(given).is_file():
            raise ValueError(f"no such file: {given}. Give a list, such as [cat, dog], or a file with one class a line")
        return read_list(Path(given))

    @field_validator("format")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return find_format(name).name

    @field_validator("splits")
    @classmethod
    def _are_names_of_files(cls, splits: dict[str, Any]) -> dict[str, Any]:
        for name in splits:
            if not re.fullmatch(r"\w[\w.-]*", name) or name in TAKEN:
                raise ValueError(f"a split cannot be called {name!r}: it names a file. Write letters, digits, - and _")
        return splits

    def binding(self) -> dict[str, Any]:
        """The fields that decide the result: not where the source is, nor how many processes read it."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in ("root", "images", "jobs")}
