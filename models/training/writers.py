"""Predictions as files: pictures to look at, COCO results, labelme files to correct and train on."""

from __future__ import annotations

import colorsys
import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from models.files import whole_file, write_bytes, write_json, write_readable_json
from models.outlines import outlines
from models.pictures import as_rgb
from models.training.detect import run_lengths
from models.training.predict import Prediction
from models.training.randomness import mix

MASK_OPACITY = 0.45


def write_pictures(predictions: Iterable[Prediction], folder: Path, root: Path | None = None) -> Iterator[Prediction]:
    """Write each picture with its boxes, masks, names and scores drawn in, as JPEG; pass the predictions on.

    Args:
        predictions: from :func:`models.training.predict`.
        folder: where the pictures go, under their own names.
        root: the folder the pictures lie in; their place below it is kept.
    """
    for prediction in predictions:
        path = _place(prediction.path, folder, root, ".jpg")
        with whole_file(path) as part:
            drawn(prediction).save(part, "JPEG", quality=92)
        yield prediction


def write_labelme(predictions: Iterable[Prediction], folder: Path, root: Path | None = None) -> Iterator[Prediction]:
    """Write each prediction as a labelme file, to be corrected there; pass the predictions on.

    Masks become the polygons of their outer edges, boxes labelme's rectangles. The picture is named by its path
    relative to the file, not embedded.

    Args:
        predictions: from :func:`models.training.predict`.
        folder: where the files go; the folder of the pictures itself is the handiest.
        root: the folder the pictures lie in; their place below it is kept.
    """
    for prediction in predictions:
        path = _place(prediction.path, folder, root, ".json")
        write_readable_json(path, labelme_file(prediction, path))
        yield prediction


def write_coco_results(predictions: Iterable[Prediction], path: Path, root: Path | None = None) -> None:
    """Write all detections as COCO results.

    Args:
        predictions: from :func:`models.training.predict`.
        path: the JSON file. Pictures are numbered from 1 in the order of the predictions, with ``file_name`` beside.
        root: the folder the pictures lie in; they are named as seen from there.
    """
    results: list[dict[str, Any]] = []
    for number, prediction in enumerate(predictions, 1):
        image = {"image_id": number, "file_name": _name(prediction.path, root)}
        for index, (label, category, score, box) in enumerate(_findings(prediction)):
            result = {**image, "category_id": label, "category": category, "bbox": box, "score": score}
            if prediction.masks is not None:
                result["segmentation"] = run_lengths(prediction.masks[index])
            results.append(result)
    write_json(path, results)


def write_answers(predictions: Iterable[Prediction], path: Path, root: Path | None = None) -> None:
    """Write a classifier's answers as JSON: for each picture its most probable classes, best first.

    Args:
        predictions: from :func:`models.training.predict`.
        path: the JSON file.
        root: the folder the pictures lie in; they are named as seen from there.
    """
    rows = [
        {
            "file_name": _name(prediction.path, root),
            "answers": [
                {"category_id": label, "category": category, "score": score}
                for label, category, score, _ in _findings(prediction)
            ],
        }
        for prediction in predictions
    ]
    write_json(path, rows)


def write_csv(predictions: Iterable[Prediction], path: Path, root: Path | None = None) -> None:
    """Write a row for each finding or answer: picture, rank in it, class, score, and its box in pixels.

    Args:
        predictions: from :func:`models.training.predict`.
        path: the CSV file.
        root: the folder the pictures lie in; they are named as seen from there.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("picture", "rank", "class", "score", "x", "y", "width", "height"))
    for prediction in predictions:
        picture = _name(prediction.path, root)
        for rank, (_, category, score, box) in enumerate(_findings(prediction), 1):
            writer.writerow((picture, rank, category, f"{score:.6f}", *(f"{value:g}" for value in box)))
    write_bytes(path, text.getvalue().encode())


def _findings(prediction: Prediction) -> Iterator[tuple[int, str, float, list[float]]]:
    """Label, class, score and box (x, y, width, height in pixels) of each finding or answer, rounded for a file."""
    rows = zip(prediction.labels.tolist(), prediction.names, prediction.scores.tolist(), strict=True)
    for (label, category, score), (x0, y0, x1, y1) in zip(rows, prediction.boxes.double().tolist(), strict=True):
        yield label, category, round(score, 6), [round(value, 3) for value in (x0, y0, x1 - x0, y1 - y0)]


def labelme_file(prediction: Prediction, path: Path) -> dict[str, Any]:
    """The content of a labelme file (its version 5 format) that will stand at ``path``.

    Raises:
        ValueError: a classifier's prediction, which has no objects to correct.
    """
    if prediction.whole:
        raise ValueError("labelme files hold objects, and a classifier finds none. Write its answers as JSON or CSV")
    width, height = prediction.size
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(_shapes(prediction)),
        "imagePath": Path(_relative(prediction.path, path.parent)).as_posix(),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _shapes(prediction: Prediction) -> Iterator[dict[str, Any]]:
    for index, (x0, y0, x1, y1) in enumerate(prediction.boxes.double().tolist()):
        common: dict[str, Any] = {
            "label": prediction.names[index],
            "group_id": None,
            "description": f"score {float(prediction.scores[index]):.3f}",
            "flags": {},
        }
        rings = [] if prediction.masks is None else outlines(prediction.masks[index].numpy())
        if not rings:
            corners = [[round(x0, 2), round(y0, 2)], [round(x1, 2), round(y1, 2)]]
            yield {**common, "points": corners, "shape_type": "rectangle"}
        for ring in rings:
            # labelme joins the parts of one object by their group
            group = {"group_id": index + 1} if len(rings) > 1 else {}
            yield {**common, **group, "points": ring, "shape_type": "polygon"}


def drawn(prediction: Prediction) -> Image.Image:
    """The picture with its masks, boxes, names and scores; the weakest first, so that the strongest lie on top."""
    with Image.open(prediction.path) as picture:
        canvas = as_rgb(ImageOps.exif_transpose(picture))
    if prediction.whole:
        return _captioned(canvas, prediction, _font(canvas))
    scores = (f"{score:.2f}" for score in prediction.scores.tolist())
    draw_objects(canvas, prediction.names, prediction.boxes, tuple(scores), prediction.masks)
    return canvas


def _font(canvas: Image.Image) -> Any:
    return ImageFont.load_default(max(11, min(canvas.size) // 40))


def draw_objects(
    canvas: Image.Image, names: Sequence[str], boxes: Tensor, notes: Sequence[str], masks: Tensor | None = None
) -> None:
    """Draw objects into a picture, the first on top.

    Args:
        canvas: an RGB picture.
        names: N classes; each has its colour.
        boxes: (N, 4) pixel xyxy.
        notes: N texts that stand behind the names.
        masks: (N, H, W) bool.
    """
    font, line = _font(canvas), max(1, min(canvas.size) // 250)
    for index in reversed(range(len(boxes))):
        colour = colour_of(names[index])
        if masks is not None:
            veil = Image.fromarray((masks[index].to(torch.uint8) * int(255 * MASK_OPACITY)).numpy())
            canvas.paste(Image.new("RGB", canvas.size, colour), mask=veil)
        pen = ImageDraw.Draw(canvas)
        box = boxes[index].tolist()
        pen.rectangle(box, outline=colour, width=line)
        text = f"{names[index]} {notes[index]}".rstrip()
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        y = max(0.0, box[1] - (bottom - top) - 2 * line - 2)
        pen.rectangle((box[0], y, box[0] + right - left + 4, y + bottom - top + 4), fill=colour)
        pen.text((box[0] + 2 - left, y + 2 - top), text, fill="white", font=font)


def _captioned(canvas: Image.Image, prediction: Prediction, font: Any) -> Image.Image:
    """The picture with a classifier's answers below it, each with a bar as long as it is probable."""
    row = round(1.6 * font.size)
    answers = list(zip(prediction.names, prediction.scores.tolist(), strict=True))
    paper = Image.new("RGB", (max(canvas.width, 12 * font.size), canvas.height + row * len(answers)), "white")
    paper.paste(canvas)
    pen = ImageDraw.Draw(paper)
    for place, (name, score) in enumerate(answers):
        top = canvas.height + row * place
        red, green, blue = (255 - (255 - value) // 3 for value in colour_of(name))
        pen.rectangle((0, top + 1, round(score * paper.width), top + row - 1), fill=(red, green, blue))
        pen.text((4, top + row // 8), name, fill="black", font=font)
        pen.text((paper.width - 4, top + row // 8), f"{score:.2f}", fill="black", font=font, anchor="ra")
    return paper


def colour_of(name: str) -> tuple[int, int, int]:
    """A strong colour that a category keeps in every picture and on every run."""
    red, green, blue = colorsys.hls_to_rgb(mix("colour", name) % 360 / 360, 0.42, 0.85)
    return int(red * 255), int(green * 255), int(blue * 255)


def _place(picture: Path, folder: Path, root: Path | None, suffix: str) -> Path:
    """Where the file for a picture goes; its folder is made."""
    inner = picture.relative_to(root) if root is not None and picture.is_relative_to(root) else Path(picture.name)
    path = (folder / inner).with_suffix(suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _name(picture: Path, root: Path | None) -> str:
    """A picture as seen from ``root``; its file name elsewhere."""
    return picture.relative_to(root).as_posix() if root is not None and picture.is_relative_to(root) else picture.name


def _relative(path: Path, start: Path) -> str:
    """``path`` as seen from ``start``."""
    return os.path.relpath(path.absolute(), start.absolute())
