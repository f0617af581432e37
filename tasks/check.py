"""Check: what is wrong with the dataset, what was done about it, and whether to go on."""

from __future__ import annotations

from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict, Field

from converters.check import find_problems, write_page
from converters.coco import write_coco
from converters.errors import DatasetError
from tasks.convert import Images
from tasks.stage import product
from tasks.store import Product

FIRST = 10  # problems that the error message shows; the file has all


class CheckOptions(BaseModel):
    """What the dataset check does with what it finds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: dict[str, str] = Field({}, description="error, warn, fix, drop or off by rule id; see docs/check.md")
    max_drop: float = Field(0.01, ge=0, le=1, description="Largest share of annotations that may be dropped")
    decode: bool = Field(False, description="Decode every image in full instead of reading its header")
    jobs: int = Field(2, ge=1, description="Threads that read images")


@product("converters.check")
def check(folder: Path, converted: Product, images: Images, options: CheckOptions) -> None:
    """Write the splits as they may be used, ``problems.json``, ``problems.html`` and ``classes.json``.

    Problems that should stop the run are in the product as well: see :func:`refuse_errors`.
    """
    names = sorted(
        path.stem for path in converted.path.glob("*.json") if path.name not in ("about.json", "manifest.json")
    )
    splits = {name: converted.path / f"{name}.json" for name in names}
    report = find_problems(
        splits, images.root, policy=options.policy, max_drop=options.max_drop, decode=options.decode, jobs=options.jobs
    )
    for name, coco in report.splits.items():
        write_coco(coco, folder / f"{name}.json")
    classes = [category["name"] for category in next(iter(report.splits.values()))["categories"]]
    (folder / "classes.json").write_bytes(orjson.dumps(classes))
    (folder / "problems.json").write_bytes(report.to_json())
    write_page(report, folder / "problems.html", images.root)
    (folder / "summary.md").write_text(report.summary() + "\n")


def refuse_errors(checked: Product) -> Product:
    """Return the product, or stop the run where the check found errors.

    Raises:
        DatasetError: with the first ten errors, their number, and the page that shows them all.
    """
    problems = orjson.loads((checked.path / "problems.json").read_bytes())["problems"]
    errors = [problem for problem in problems if problem["severity"] == "error"]
    if errors:
        shown = "\n".join(f"  {p['file'] or p['split']}: {p['message']}. {p['remedy']}" for p in errors[:FIRST])
        raise DatasetError(
            f"the dataset has {len(errors)} errors:\n{shown}\nAll of them: {checked.path / 'problems.html'}"
        )
    return checked


def classes_of(checked: Product) -> tuple[str, ...]:
    """Category names in label order."""
    return tuple(orjson.loads((checked.path / "classes.json").read_bytes()))
