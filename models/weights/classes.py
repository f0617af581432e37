"""Class names as the big data sets spell them, and which of two lists' classes are the same.

COCO says "tv", "couch", "motorcycle"; VOC says "tvmonitor", "sofa", "motorbike"; darknet's ``coco.names`` says it VOC's
way. Names are compared without case, spaces, hyphens and underscores, then through those few spellings. Nothing is
guessed: "bike" may be either of two things and stays a name of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Category id -> name, ids 1..90 as in COCO's annotation files; eleven ids were never used (torchvision: "N/A").
_COCO_BY_ID = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, , stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, , backpack, umbrella, , "
    ", handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, , wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, , dining table, , , toilet, , tv, "
    "laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, , book, clock, vase, "
    "scissors, teddy bear, hair drier, toothbrush"
)
NOT_USED = "N/A"
COCO_BY_ID: tuple[str, ...] = tuple(name.strip() or NOT_USED for name in _COCO_BY_ID.split(","))
COCO: tuple[str, ...] = tuple(name for name in COCO_BY_ID if name != NOT_USED)
_VOC = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
)
VOC: tuple[str, ...] = tuple(_VOC.split())

# Spelling -> COCO's, all without spaces.
_ALIASES = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "tvmonitor": "tv",
    "hairdryer": "hairdrier",
    "doughnut": "donut",
    "cellularphone": "cellphone",
    "mobilephone": "cellphone",
    "television": "tv",
}
_BACKGROUND = {"background", "bg"}


def canonical(name: str) -> str:
    """The form in which two spellings of one class are equal."""
    plain = re.sub(r"[\s_-]+", "", name).casefold()
    return _ALIASES.get(plain, plain)


def without_background(classes: Sequence[str]) -> tuple[str, ...]:
    """The class list with a leading or trailing "background" taken off, as some checkpoints name it."""
    names = tuple(classes)
    if names and canonical(names[0]) in _BACKGROUND:
        return names[1:]
    if names and canonical(names[-1]) in _BACKGROUND:
        return names[:-1]
    return names


def shared_classes(model: Sequence[str], checkpoint: Sequence[str]) -> dict[int, int]:
    """Index in ``model`` -> index in ``checkpoint`` of the same class, for the classes both have.

    An equal spelling wins over an alias, and the first of several equal names wins.
    """
    exact = {name: index for index, name in reversed(list(enumerate(checkpoint))) if name != NOT_USED}
    loose = {canonical(name): index for index, name in reversed(list(enumerate(checkpoint))) if name != NOT_USED}
    pairs = {index: exact.get(name, loose.get(canonical(name))) for index, name in enumerate(model)}
    return {index: found for index, found in pairs.items() if found is not None}
