"""The configuration: one model for the YAML recipe, for ``-o a.b=value`` and for Prefect's parameter form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from flows.config_mistakes import explain_mistakes, models_of
from flows.yaml_config import ConfigError, Origin, Recipe, read_recipe
from models.training.options import EvaluateOptions, TrainOptions
from models.zoo.detector import is_classifier
from models.zoo.options import DetectorOptions
from tasks.check import CheckOptions
from tasks.fetch import WeightsOptions
from tasks.shards import ConvertOptions
from tasks.source import CropOptions, Location, SourceOptions
from tasks.timeouts import Timeouts

DECIDE_NOTHING = ("workspace", "timeouts", "convert")  # where, how long and by whom, not what
LOGIN = re.compile(r"(\w://)[^\s/@'\"]+@")  # of a URL: user name and password


class FinetuneConfig(BaseModel):
    """Everything a run depends on; equal configurations of equal data give the same bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        "run",
        description="Names the report and the run; letters, digits, - and _; without it the recipe's own",
        pattern=r"^\w[\w.-]*$",  # a folder's name: neither hidden nor the folder above
    )
    task: Literal["detection", "classification"] = Field(
        "detection", description="Find objects, or say what a picture shows (or each object, cut out of its picture)"
    )
    workspace: Path = Field(Path(".annotune"), description="Folder for products, caches and reports")
    source: SourceOptions = Field(description="The annotations and images you have")
    convert: ConvertOptions = Field(ConvertOptions(), description="How a large source is divided among workers")
    check: CheckOptions = Field(CheckOptions(), description="What the dataset check does with what it finds")
    detector: DetectorOptions = Field(DetectorOptions(), description="Which detector, and its dimensions")
    weights: WeightsOptions | None = Field(None, description="Where to start from; none: random weights")
    train: TrainOptions = Field(TrainOptions(), description="How to train")
    evaluate: EvaluateOptions = Field(EvaluateOptions(), description="How to evaluate")
    timeouts: Timeouts = Field(Timeouts(), description="Hours after which a stage is given up")

    @field_validator("workspace", mode="before")
    @classmethod
    def _is_given(cls, workspace: Any) -> Any:
        if workspace == "":
            raise ValueError("empty. Give a folder for the products; the deployments take it from ANNOTUNE_WORKSPACE")
        return workspace

    @field_validator("source")
    @classmethod
    def _has_splits(cls, source: SourceOptions) -> SourceOptions:
        missing = {"train", "val"} - set(source.splits)
        if missing:
            raise ValueError(f"splits needs {' and '.join(sorted(missing))}: a list file, a folder, a name or a share")
        return source

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        name, wants = self.detector.name, self.task == "classification"
        if wants and not is_classifier(name):
            raise ValueError(f"task classification, but {name} is a detector. detector.name: timm://resnet50d, say")
        if is_classifier(name) and not wants:
            raise ValueError(f"{name} is a classifier. Write task: classification")
        if self.source.crops and not wants:
            raise ValueError("source.crops are for task: classification")
        if self.evaluate.voc and wants:
            raise ValueError("evaluate.voc is for detectors: a classifier has no AP. Leave it out")
        return self

    @property
    def data(self) -> SourceOptions:
        """The source as the task wants it: a classifier's pictures are cut out where they are not whole ones."""
        if self.task == "detection" or self.source.crops:
            return self.source
        return self.source.model_copy(update={"crops": CropOptions()})

    def as_yaml(self) -> str:
        """The resolved configuration as a recipe, every value that decides something; no logins of URLs."""
        values = self.model_dump(mode="json", exclude={*DECIDE_NOTHING})
        return LOGIN.sub(r"\1", yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10**6))


def load_config(path: Path, overrides: Sequence[str] = ()) -> tuple[FinetuneConfig, Recipe]:
    """Read a recipe and check it against :class:`FinetuneConfig`.

    Returns:
        The configuration with absolute paths, and the recipe with the origin of each value.

    Raises:
        ConfigError: naming file and line, key, value and remedy; all mistakes at once.
    """
    recipe = read_recipe(path, overrides)
    recipe.values.setdefault("name", re.sub(r"[^\w.-]+", "-", path.stem).lstrip(".-") or "run")
    _resolve_paths(FinetuneConfig, recipe.values, recipe.origins, "")
    try:
        config = FinetuneConfig.model_validate(recipe.values)
    except ValidationError as error:
        raise ConfigError(explain_mistakes(error, FinetuneConfig, path, recipe)) from error
    return config.model_copy(update={"workspace": config.workspace.resolve()}), recipe


def explain_config(path: Path, overrides: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The resolved configuration as lines of YAML, each with where its value came from.

    Returns:
        ``(line, origin)``; together ``line  # origin`` is again a recipe. The origin of a section is empty.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    config, recipe = load_config(path, overrides)
    return list(_lines(config.model_dump(mode="json"), recipe.origins, ""))


def _lines(values: Mapping[str, Any], origins: Mapping[str, Origin], prefix: str) -> Iterator[tuple[str, str]]:
    indent = "  " * prefix.count(".")
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:", ""
            yield from _lines(value, origins, f"{dotted}.")
            continue
        text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("...\n")
        origin = next((o.name for k, o in origins.items() if k == dotted or k.startswith(f"{dotted}.")), "default")
        yield f"{indent}{key}: {text.strip()}", origin


def _resolve_paths(model: type[BaseModel], values: dict[str, Any], origins: Mapping[str, Origin], prefix: str) -> None:
    """Make relative paths absolute, each against the folder of the file that wrote it."""
    for name, field in model.model_fields.items():
        value = values.get(name)
        origin = origins.get(prefix + name)
        if isinstance(value, dict):
            for inner in models_of(field.annotation):
                _resolve_paths(inner, value, origins, f"{prefix}{name}.")
        elif isinstance(value, str) and value and origin is not None:
            absolute = origin.folder / Path(value).expanduser()
            is_path = field.annotation is Path or Path in get_args(field.annotation)
            is_location = any(isinstance(mark, Location) for mark in field.metadata)
            if is_path or (is_location and absolute.exists()):
                values[name] = str(absolute)
