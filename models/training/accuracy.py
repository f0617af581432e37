"""What a classifier gets right: top-1, top-5, each class, what it takes for what, and its firmest mistakes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from models.training.scores import Result

OTHER = "another class"  # one that the model knows and the file does not


@dataclass(frozen=True)
class Answer:
    """What was said about one object.

    Attributes:
        image_id: the image it is in.
        bbox: the window that was looked at, xywh pixels.
        truth: category id.
        guesses: category ids, most probable first.
        scores: their probabilities.
    """

    image_id: int
    bbox: list[float]
    truth: int
    guesses: tuple[int, ...]
    scores: tuple[float, ...]

    @property
    def right(self) -> bool:
        """Whether the first guess is."""
        return self.guesses[0] == self.truth


def answers(truth: dict[str, Any], results: list[Result]) -> list[Answer]:
    """The answers in the order of the annotations; crowd regions were not asked about.

    Args:
        truth: from :func:`models.training.scores.complete_truth`.
        results: from :func:`models.training.detect.detect` with a classifier.
    """
    said: dict[int, list[Result]] = {}
    for result in results:
        said.setdefault(result["annotation_id"], []).append(result)
    return [
        Answer(
            image_id=row["image_id"],
            bbox=row["bbox"],
            truth=row["category_id"],
            guesses=tuple(guess["category_id"] for guess in said[row["id"]]),
            scores=tuple(guess["score"] for guess in said[row["id"]]),
        )
        for row in truth["annotations"]
        if row["id"] in said
    ]


def summary(found: list[Answer]) -> dict[str, float]:
    """Shares of 1, or -1 of nothing: first guess right, right one among five, mean of the classes' own shares."""
    if not found:
        return dict.fromkeys(("top1", "top5", "mean_class"), -1.0)
    asked = Counter(answer.truth for answer in found)
    hit = Counter(answer.truth for answer in found if answer.right)
    among = sum(answer.truth in answer.guesses for answer in found)
    return {
        "top1": hit.total() / len(found),
        "top5": among / len(found),
        "mean_class": sum(hit[truth] / count for truth, count in asked.items()) / len(asked),
    }


def measure(truth: dict[str, Any], results: list[Result], most: int = 50) -> dict[str, Any]:
    """Everything that can be said of these answers; the same dict for the same input.

    Args:
        truth: as for :func:`answers`.
        results: as for :func:`answers`.
        most: how many mistakes are listed.
    """
    found = answers(truth, results)
    return {
        "task": "classification",
        "accuracy": summary(found),
        "per_class": per_class(truth, found),
        "confusion": confusion(truth, found),
        "suspects": mistakes(truth, found, most),
        "images": len(truth["images"]),
        "objects": len(found),
    }


def per_class(truth: dict[str, Any], found: list[Answer]) -> list[dict[str, Any]]:
    """Recall (the class's accuracy), precision and F1 of each category; -1 where nothing can be said."""
    asked = Counter(answer.truth for answer in found)
    said = Counter(answer.guesses[0] for answer in found)
    hit = Counter(answer.truth for answer in found if answer.right)
    rows = []
    for category in truth["categories"]:
        key = category["id"]
        recall = hit[key] / asked[key] if asked[key] else -1.0
        precision = hit[key] / said[key] if said[key] else -1.0
        f1 = 2 * hit[key] / (asked[key] + said[key]) if asked[key] else -1.0
        row = {"name": category["name"], "recall": recall, "precision": precision, "f1": f1}
        rows.append({**row, "truths": asked[key], "detections": said[key]})
    return rows


def confusion(truth: dict[str, Any], found: list[Answer]) -> dict[str, Any]:
    """Rows: what is there; columns: what was said. A last class is what the file has no name for, if it was said."""
    names = [category["name"] for category in truth["categories"]]
    place = {category["id"]: index for index, category in enumerate(truth["categories"])}
    if any(answer.guesses[0] not in place for answer in found):
        names.append(OTHER)
    matrix = [[0] * len(names) for _ in names]
    for answer in found:
        matrix[place[answer.truth]][place.get(answer.guesses[0], len(names) - 1)] += 1
    return {"labels": names, "matrix": matrix}


def mistakes(truth: dict[str, Any], found: list[Answer], most: int) -> list[dict[str, Any]]:
    """The wrong answers, the surest first."""
    files = {image["id"]: image["file_name"] for image in truth["images"]}
    names = {category["id"]: category["name"] for category in truth["categories"]}
    wrong = [answer for answer in found if not answer.right]
    wrong.sort(key=lambda answer: (-answer.scores[0], files[answer.image_id], answer.bbox))
    return [
        {
            "file_name": files[answer.image_id],
            "kind": "class",
            "found": names.get(answer.guesses[0], OTHER),
            "annotated": names[answer.truth],
            "score": answer.scores[0],
            "annotated_score": dict(zip(answer.guesses, answer.scores, strict=True)).get(answer.truth),
            "bbox": answer.bbox,
        }
        for answer in wrong[:most]
    ]
