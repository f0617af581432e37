"""What a detector confuses, misses and invents, from hotcoco's diagnostics."""

from __future__ import annotations

from typing import Any

from models.training.scores import Result, hotcoco_evaluation

KINDS = {
    "Cls": "class",
    "Loc": "localisation",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}


def confusion(evaluation: Any, min_score: float) -> dict[str, Any]:
    """Rows: what is there; columns: what was found, at IoU 0.5; the last of both is the background.

    Args:
        evaluation: from :func:`models.training.scores.hotcoco_evaluation`.
        min_score: least score of a detection that counts.
    """
    found = evaluation.confusion_matrix(min_score=min_score)
    labels, matrix = [*found["cat_names"], "background"], found["matrix"].astype(int).tolist()
    return {"labels": labels, "matrix": matrix, "min_score": min_score}


def error_kinds(evaluation: Any) -> dict[str, dict[str, float]]:
    """How often each of TIDE's kinds of error happens, and what AP50 would gain without it (Bolya et al. 2020).

    A crowd region counts as an object for the detections that it only partly covers; TIDE knows no such regions.
    """
    found = evaluation.tide_errors()
    return {
        name: {"count": int(found["counts"][key]), "AP50_gain": float(found["delta_ap"][key])}
        for key, name in KINDS.items()
    }


def image_mistakes(truth: dict[str, Any], results: list[Result], min_score: float, most: int) -> dict[str, Any]:
    """The images with the lowest F1, and the annotations that the detector disagrees with most firmly.

    Args:
        truth: from :func:`models.training.scores.complete_truth`.
        results: detections.
        min_score: least score of a detection that counts.
        most: how many images are listed.
    """
    firm = [result for result in results if result["score"] >= min_score]
    found = hotcoco_evaluation(truth, firm, "bbox").image_diagnostics(iou_thr=0.5, score_thr=max(0.5, min_score))
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    worst = sorted(
        found["img_summary"].items(), key=lambda entry: (entry[1]["f1"], -entry[1]["fn"] - entry[1]["fp"], entry[0])
    )
    suspects = sorted(found["label_errors"], key=lambda error: (-error["dt_score"], error["image_id"], error["dt_id"]))
    return {
        "worst_images": [
            {"image_id": key, "file_name": names[key], **{part: value[part] for part in ("f1", "tp", "fp", "fn")}}
            for key, value in worst[:most]
            if value["fp"] or value["fn"]
        ],
        "suspects": [
            {
                "file_name": names[error["image_id"]],
                "kind": error["type"],
                "found": error["dt_category"],
                "annotated": error["gt_category"],
                "score": error["dt_score"],
                "bbox": firm[error["dt_id"] - 1]["bbox"],
            }
            for error in suspects[:50]
        ],
    }
