# ruff: noqa: E501 - a table reads best with one rule to a line
"""Every rule of the check as data: what it is called, how bad it is, what repairs it, what to do about it.

Severity: ``error`` breaks training or falsifies evaluation, ``warning`` is a likely mistake, ``info`` is worth knowing.
Policy, by rule id: ``error``, ``warn`` and ``info`` report; ``fix`` repairs the entry; ``drop`` leaves the annotation
(or the image with its annotations) out; ``off`` does not look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from converters.errors import DatasetError, did_you_mean

POLICIES = ("error", "warn", "info", "fix", "drop", "off")
SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that can be wrong with a dataset."""

    id: str
    level: str  # what it is about: file, split, category, image, annotation, or entry for any of the last three
    severity: str  # error, warning or info
    repair: str  # what a repairing run does: "fix", "drop" or "" where only a person can decide
    what: str
    remedy: str
    on_request: bool = False  # the repair exists, but only an explicit policy asks for it
    default: str = ""  # policy where none is given; empty: report with the rule's own severity

    @property
    def policy(self) -> str:
        """The policy of a plain check."""
        return self.default or {"error": "error", "warning": "warn", "info": "info"}[self.severity]

    @property
    def allowed(self) -> tuple[str, ...]:
        """The policies that this rule can have."""
        can = {"error", "warn", "info", "off", self.repair}
        if self.level in {"image", "annotation", "entry"}:
            can.add("drop")
        return tuple(policy for policy in POLICIES if policy in can)


def _table(level: str, *rows: tuple[str, str, str, str, str]) -> tuple[Rule, ...]:
    """Rows of (id, severity, repair, what, remedy); ``?fix`` is a repair made on request, ``info!`` a rule off at first."""
    return tuple(
        Rule(
            name,
            level,
            severity.rstrip("!"),
            repair.lstrip("?"),
            what,
            remedy,
            on_request=repair.startswith("?"),
            default="off" if severity.endswith("!") else "",
        )
        for name, severity, repair, what, remedy in rows
    )


# fmt: off
_FILE = _table(
    "file",
    ("json-unreadable", "error", "", "the file cannot be read, is not UTF-8 or is not JSON", "write it again from its source; the message names the offset"),
    ("json-bom", "error", "fix", "the file begins with a byte order mark", "save it as UTF-8 without a mark; most readers stop at it"),
    ("json-nan", "error", "fix", "NaN or Infinity stands in the file", "JSON has no such numbers and strict readers stop; write a number or leave the entry out"),
    ("structure-invalid", "error", "", "images, annotations or categories are missing or not lists", "a COCO file is one object with these three lists"),
    ("annotations-missing", "error", "fix", "there is no list of annotations", 'a split without objects still needs "annotations": []'),
    ("entry-invalid", "error", "drop", "an entry of a list is not an object", "leave it out"),
    ("info-missing", "warning", "fix", "info or licenses is missing", "write them, empty if need be: older pycocotools stop without info"),
    ("unknown-key", "info", "", "a key that COCO does not define", "it is kept; rename it if it was meant to be a COCO key"),
)
_IDS = _table(
    "entry",
    ("id-type", "error", "fix", "an id is text or a float", 'write ids as integers: "1" and 1 never match, and the AP becomes -1 without a word'),
    ("number-type", "warning", "fix", "a size or flag is text, a float or a boolean", "write width, height and iscrowd as integers"),
    ("id-invalid", "error", "fix", "an id is missing or no number", "annotations are numbered again, images left out; number categories by hand"),
) + _table(
    "split",
    ("image-id-duplicate", "error", "", "two images have one id", "number the images again together with their annotations"),
    ("category-id-duplicate", "error", "", "two categories have one id", "number the categories again together with their annotations"),
    ("category-id-gap", "warning", "?fix", "category ids are not 1..C", "number them 1..C: several trainers take the id for the class index"),
) + _table(
    "annotation",
    ("annotation-id-duplicate", "error", "fix", "two annotations have one id", "number them again: COCOeval counts only one of them (AP 0.25 instead of 1)"),
    ("annotation-id-nonpositive", "error", "fix", "an annotation id is 0 or negative", "start at 1: COCOeval counts a match with id 0 as a false positive"),
    ("orphan-image", "error", "drop", "an annotation of an image that is not in the file", "add the image or leave the annotation out"),
    ("orphan-category", "error", "drop", "an annotation of a category that is not in the file", "add the category or leave the annotation out"),
)
_CATEGORIES = _table(
    "category",
    ("category-name-duplicate", "error", "", "two categories have one name", "merge them"),
    ("category-name-similar", "warning", "", "names that differ only in case or blanks", "merge them if they are one class"),
    ("category-name-empty", "warning", "", "a category without a name", "name it"),
    ("supercategory-missing", "info", "fix", "a category without a supercategory", 'write "": getCatIds(supNms=...) stops without the key'),
    ("category-unused", "warning", "", "a category without a single annotation", "leave it out, or find out where its annotations went"),
    ("category-few", "info", "", "a category with very few annotations", "collect more, or merge it with a near class"),
) + _table(
    "split",
    ("category-single", "info", "", "there is only one category", "nothing, if that is the task"),
    ("category-imbalance", "info", "", "one category is many times as frequent as another", "let it come more often (train.balance in a recipe), or collect more of it"),
    ("category-not-in-train", "warning", "", "a category is in another split but not in train", "it cannot be learnt: split again, by class"),
    ("category-share", "info", "", "a category's share differs much between splits", "split again, by class"),
    ("categories-differ", "error", "", "splits give one name different ids, or do not have the same names", "use one category list for all splits, unused classes included"),
    ("categories-order", "warning", "", "splits list the categories in different orders", "use one order: several trainers number classes by it"),
    ("categories-unexpected", "error", "", "the categories are not those that the model has", "check the class list of the recipe, or build the model with the dataset's classes"),
)
_NAMES = _table(
    "image",
    ("file-name-unsafe", "error", "fix", "file_name is missing, absolute or leaves the image folder", "write it relative to the image folder"),
    ("file-name-style", "error", "fix", "file_name has backslashes or is not in Unicode NFC", "write / and composed characters: other systems do not find the file"),
    ("file-name-duplicate", "warning", "", "one file_name stands twice in a split", "merge the two entries"),
)
_DISK = _table(
    "image",
    ("image-missing", "error", "drop", "the image file is not there", "copy it to the image folder, or leave the image out"),
    ("image-unreadable", "error", "drop", "the file is empty or no image", "get it again from its source, or leave the image out"),
    ("image-truncated", "error", "drop", "the image file ends too early", "get it again from its source, or leave the image out"),
    ("image-size-invalid", "error", "fix", "width or height is missing, not positive or beyond any image", "write the size of the file"),
    ("image-size-differs", "error", "fix", "width and height are not those of the file", "write the size of the file, if the boxes were drawn on it"),
    ("image-exif", "warning", "", "the file is shown rotated (EXIF orientation)", "bake the rotation into the pixels once, and keep the boxes that fit it"),
    ("image-extension", "warning", "", "the extension names another format", "rename the file: some readers believe the extension"),
    ("image-small", "error", "drop", "a side is shorter than 10 pixels", "leave the image out"),
    ("image-mode", "warning", "", "CMYK, 16 bit, alpha, palette or animated", "convert to RGB once, so that every reader sees the same pixels"),
    ("image-huge", "warning", "", "more than 89 million pixels", "cut it into tiles: decoders refuse it, and boxes vanish in the resize"),
    ("image-aspect", "warning", "", "the image is much wider or higher than the others", "check the crop; padding will fill most of the batch"),
    ("image-empty", "info", "", "an image without annotations", "fine as a negative; otherwise its annotations are missing"),
    ("image-dark", "info!", "", "nearly all pixels are dark", "check the exposure"),
    ("image-bright", "info!", "", "nearly all pixels are white", "check the exposure"),
    ("image-blurred", "info!", "", "there is hardly an edge in it", "check the focus"),
    ("image-flat", "info!", "", "there is hardly anything in it", "check that it is not a blank frame"),
) + _table("split", ("image-unlisted", "warning", "", "an image in the folder that no file lists", "annotate it, or move it away"))
_DUPLICATES = _table(
    "image",
    ("split-shared-image", "error", "?drop", "one file is in two splits", "keep it in one: the evaluation would see what was trained on"),
    ("leak-bytes", "error", "?drop", "one picture is in two splits under different names", "keep it in one: the evaluation would see what was trained on"),
    ("leak-near", "warning", "?drop", "nearly the same picture is in two splits", "keep frames of one scene in one split"),
    ("duplicate-bytes", "warning", "", "one picture is twice in a split", "leave one out"),
    ("duplicate-labels", "warning", "", "one picture is annotated in two different ways", "decide which is right"),
    ("near-duplicate", "info", "", "two pictures of a split are nearly the same", "fine for video; otherwise leave one out"),
) + _table(
    "split",
    ("split-empty", "error", "", "a split without images", "check the split list and the paths"),
    ("split-no-objects", "warning", "", "a split without a single annotation", "its AP will be -1; check the annotation paths"),
    ("split-ids-overlap", "warning!", "", "splits use the same ids for different images", "no harm in separate files; number them apart before merging"),
)
_BOXES = _table(
    "annotation",
    ("bbox-invalid", "error", "drop", "a box that is not four finite numbers", "write [x, y, width, height] in pixels"),
    ("bbox-degenerate", "error", "fix", "a box without width or height", "reversed corners are sorted, others left out: torchvision stops at them"),
    ("bbox-off-image", "error", "drop", "a box wholly outside its image", "leave it out, or check which image it belongs to"),
    ("bbox-outside", "warning", "fix", "a box partly outside its image", "clip it to the image"),
    ("bbox-overhang", "info", "fix", "a box up to one pixel outside its image", "clip it; often 1-based corners were read as 0-based"),
    ("bbox-tiny", "warning", "drop", "a box less than one pixel wide or high", "leave it out: it cannot be learnt, and some trainers drop its image"),
    ("bbox-aspect", "info", "", "a box longer than 20 times its width", "check that it is meant"),
    ("bbox-outlier", "info", "", "a box far from the usual size of its class", "check that it is meant"),
    ("bbox-duplicate", "warning", "drop", "the same box twice", "leave one out"),
    ("bbox-near-duplicate", "info", "", "two boxes of a class nearly cover each other (IoU above 0.95)", "leave one out if it is one object"),
    ("bbox-two-classes", "warning", "", "the same box with two classes", "decide which is right"),
) + _table(
    "image",
    ("bbox-swapped", "warning", "", "the boxes only fit the image with width and height exchanged", "the image was rotated after it was annotated: turn it back, or turn the boxes"),
    ("bbox-crowded", "info", "", "more than 100 objects of a class in one image", "COCOeval looks at 100 detections: raise maxDets, or cut tiles"),
) + _table(
    "split",
    ("bbox-xyxy", "error", "", "the boxes look like [x1, y1, x2, y2]", "write [x, y, width, height]"),
    ("bbox-normalised", "error", "", "the boxes look like fractions of the image", "multiply by width and height: COCO boxes are pixels"),
    ("bbox-whole-image", "warning", "", "many boxes cover their whole image", "a classification set? Boxes like these teach a detector nothing"),
    ("bbox-below-stride", "info", "", "boxes smaller than a feature cell after the resize", "train at a higher resolution, or cut tiles"),
)
_SEGMENTATION = _table(
    "annotation",
    ("segm-invalid", "error", "fix", "segmentation is neither a list of rings nor run lengths", "write [[x0, y0, x1, y1, ...]]; what cannot be understood is emptied"),
    ("segm-ring-short", "error", "fix", "a ring with fewer than three points or half a point", "leave the ring out: pycocotools takes four numbers for a box"),
    ("segm-nan", "error", "drop", "a coordinate that is not finite or beyond a million", "leave it out: pycocotools crashes or takes all memory"),
    ("segm-outside", "warning", "fix", "a ring leaves its image", "clip it to the image"),
    ("segm-degenerate", "warning", "fix", "a ring without area", "leave the ring out"),
    ("segm-self-crossing", "warning", "", "a ring crosses itself", "its true area is that of its pixels; draw it again if it matters"),
    ("segm-closing-point", "info", "fix", "the first point of a ring stands again at its end", "COCO closes rings by itself"),
    ("segm-many-points", "info", "", "a ring with more than a thousand points", "simplify it: loading becomes the bottleneck"),
    ("rle-invalid", "error", "drop", "run lengths that cannot be read or do not fill the image", "encode the mask again: short runs decode to random memory"),
    ("rle-size", "error", "fix", "the size of the run lengths is not that of the image", "exchanged height and width are put right; encode others again"),
    ("rle-bytes", "error", "fix", "counts are bytes, which JSON cannot hold", "decode them to text"),
    ("mask-empty", "error", "drop", "a mask without a pixel", "leave it out"),
    ("mask-box-mismatch", "warning", "?fix", "box and mask are in different places (IoU under 0.5)", "compute the box from the mask"),
    ("mask-outside-box", "warning", "?fix", "the mask leaves its box", "compute the box from the mask"),
    ("keypoints-invalid", "warning", "", "keypoints are not triples, or num_keypoints does not count them", "write x, y, v for every keypoint of the category"),
) + _table("split", ("segm-mixed", "warning", "", "some annotations have a segmentation, others have none", "annotate all for masks; for boxes leave it out: trainers drop one kind by accident"))
_AREA = _table(
    "annotation",
    ("area-missing", "error", "fix", "an annotation without area", "write it: COCOeval stops with a KeyError"),
    ("area-invalid", "error", "fix", "an area that is not a positive number", "compute it again: several trainers drop the object in silence"),
    ("area-wrong", "warning", "fix", "area is more than 10 % off the true one", "compute it again: AP small, medium and large go by it"),
    ("area-exceeds-box", "warning", "", "an area larger than the box", "check box and mask"),
    ("iscrowd-missing", "error", "fix", "an annotation without iscrowd", "write 0: COCOeval stops with a KeyError"),
    ("iscrowd-invalid", "error", "fix", "an iscrowd that is neither 0 nor 1", "write 0 or 1"),
    ("crowd-polygons", "warning", "fix", "a crowd drawn with polygons", "encode it as run lengths: trainers replace its polygons by zeros"),
    ("ignore-set", "warning", "?fix", "an object marked ignore", "COCOeval overwrites it, trainers drop the object: mark it iscrowd instead"),
) + _table(
    "split",
    ("crowd-many", "warning", "", "many crowds, or several of one class in an image", "crowds are neither trained on nor evaluated: an object of several parts is none"),
    ("drop-budget", "error", "", "more was dropped than the budget allows", "look at what was dropped; raise max_drop if it is right"),
)
# fmt: on

RULES: Mapping[str, Rule] = {
    rule.id: rule
    for group in (_FILE, _IDS, _CATEGORIES, _NAMES, _DISK, _DUPLICATES, _BOXES, _SEGMENTATION, _AREA)
    for rule in group
}
"""Every rule by id, in the order of the check."""


def plain_policy(overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the policy that reports and changes nothing, with ``overrides`` by rule id.

    Raises:
        DatasetError: no such rule, no such policy, or a repair that the rule does not have.
    """
    return {rule.id: rule.policy for rule in RULES.values()} | _checked(overrides or {})


def repair_policy(overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the policy that repairs all that a machine can decide, with ``overrides`` by rule id.

    Raises:
        DatasetError: no such rule, no such policy, or a repair that the rule does not have.
    """
    repairs = {rule.id: rule.repair for rule in RULES.values() if rule.repair and not rule.on_request}
    return plain_policy(repairs | dict(overrides or {}))


def _checked(overrides: Mapping[str, str]) -> dict[str, str]:
    for name, policy in overrides.items():
        if name not in RULES:
            raise DatasetError(f"policy: no rule is called {name!r}{did_you_mean(str(name), RULES)}")
        if policy not in RULES[name].allowed:
            raise DatasetError(f"policy {name}={policy!r}: this rule takes {', '.join(RULES[name].allowed)}")
    return dict(overrides)


def rules_table() -> str:
    """Return the rules as a Markdown table, for the documentation."""
    head = ("| rule | severity | repair | what | what to do |", "|---|---|---|---|---|")
    rows = (
        f"| `{r.id}` | {r.severity}{' (off)' if r.default == 'off' else ''} "
        f"| {r.repair}{' on request' if r.on_request else ''} | {r.what} | {r.remedy} |"
        for r in RULES.values()
    )
    return "\n".join((*head, *rows))
