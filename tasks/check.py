"""Check: what is wrong with the dataset, what was done about it, and whether to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator

from converters.check import CheckReport, find_problems, repair_policy
from converters.check.page import write_page
from converters.coco import write_coco
from converters.errors import DatasetError
from tasks.convert import Images
from tasks.stage import as_text, product
from tasks.store import Product


class CheckOptions(BaseModel):
    """What the dataset check does with what it finds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: dict[str, str] = Field(
        default={}, description="error, warn, info, fix, drop or off by rule id; see docs/check.md"
    )
    repair: bool = Field(
        default=True, description="Fix or drop what needs no decision, within max_drop; the page lists each change"
    )
    max_drop: float = Field(default=0.01, ge=0, le=1, description="Largest share of annotations that may be dropped")
    depth: Literal["header", "pixels"] = Field(
        default="header",
        description="Read the header of each image, and decode those to evaluate on; or decode all, and look for near "
        "duplicates too",
    )
    jobs: int = Field(default=0, ge=0, description="Images looked at at once; 0: one a core")

    @field_validator("policy", mode="before")
    @classmethod
    def _off_is_a_word(cls, policy: Any) -> Any:
        """YAML reads the bare word off as false."""
        return (
            {rule: "off" if way is False else way for rule, way in policy.items()}
            if isinstance(policy, dict)
            else policy
        )

    def binding(self) -> dict[str, Any]:
        """The fields that decide the result."""
        return self.model_dump(exclude={"jobs"})


EXAMPLES = 3  # problems of each rule in the summary; the page has more
# What is wrong with a detector's data and right with a classifier's, whose boxes are the pictures.
WHOLE_PICTURES = dict.fromkeys(("bbox-whole-image", "bbox-aspect", "bbox-outlier", "bbox-below-stride"), "off")


@product("tasks.check")
def check(folder: Path, converted: Product, images: Images, options: CheckOptions) -> None:
    """Write the splits as they may be used, ``problems.json``, ``problems.html`` and ``classes.json``.

    Errors do not stop it: they are part of the product, and :func:`refuse_errors` reads them.
    """
    about = orjson.loads((converted.path / "about.json").read_bytes())
    usual = WHOLE_PICTURES if about["task"] == "classification" else {}
    report = find_problems(
        {name: converted.path / f"{name}.json" for name in about["splits"]},
        images.root,
        policy={**(repair_policy() if options.repair else {}), **usual, **options.policy},
        jobs=options.jobs,
        depth=options.depth,
        decode=[name for name in about["splits"] if name != "train"],  # met only hours into a training otherwise
        max_drop=options.max_drop,
    )
    for name, coco in report.splits.items():
        write_coco(coco, folder / f"{name}.json")
    classes = [category["name"] for category in next(iter(report.splits.values()))["categories"]]
    (folder / "classes.json").write_bytes(orjson.dumps(classes))
    (folder / "problems.json").write_bytes(orjson.dumps(report.to_json(), option=orjson.OPT_INDENT_2))
    write_page(report, folder / "problems.html", images.root)
    (folder / "errors.txt").write_text(_errors(report))
    (folder / "summary.md").write_text(_summary(report))


def refuse_errors(checked: Product) -> Product:
    """Return the product, or stop the run where the check found errors.

    Raises:
        DatasetError: with the first ten errors, their number, and the page that shows them all.
    """
    errors = (checked.path / "errors.txt").read_text()
    if errors:
        raise DatasetError(f"{errors}\nAll of them, with pictures: {checked.path / 'problems.html'}")
    return checked


def _errors(report: CheckReport) -> str:
    try:
        report.raise_for_errors()
    except DatasetError as error:
        return str(error)
    return ""


def _summary(report: CheckReport) -> str:
    counts = report.severities
    found = f"{counts['error']:,} errors, {counts['warning']:,} warnings, {counts['info']:,} info"
    repaired = sum(report.repaired.values())
    rules = report.to_json()["rules"]
    first = (found if rules else "nothing found") + (f"; {repaired:,} repaired" if repaired else "")
    rows = [
        f"| {rule['severity']} | {name} | {rule['what']}: {rule['remedy']} | {rule['count']:,} | {rule['repaired']:,} |"
        for name, rule in rules.items()
    ]
    table = ["", "| severity | rule | what, and what to do | found | repaired |", "|---|---|---|---:|---:|", *rows, ""]
    by_rule = [[problem for problem in report.problems if problem.rule == rule][:EXAMPLES] for rule in rules]
    examples = [f"- {as_text(str(problem))}" for problems in by_rule for problem in problems]
    return "\n".join([first, *(table if rows else []), *examples]) + "\n"


def classes_of(checked: Product) -> tuple[str, ...]:
    """Category names in label order."""
    return tuple(orjson.loads((checked.path / "classes.json").read_bytes()))
