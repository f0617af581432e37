"""torchvision's names, which are ours, and those of its and timm's classification backbones.

Files published before torchvision 0.12 name a few convolutions differently (``rpn.head.conv.weight`` for what is now
``rpn.head.conv.0.0.weight``); torchvision renames them while it loads (``_load_from_state_dict``), so we do too.
"""

from __future__ import annotations

from models.weights.classes import COCO_BY_ID
from models.weights.keymaps.keymap import KeyMap, Rename, vgg_stages

_OLD_NAMES = (
    Rename(r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    Rename(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(weight|bias)", r"backbone.fpn.\1_blocks.\2.0.\3"),
    *(
        Rename(rf"roi_heads\.mask_head\.mask_fcn{number}\.(weight|bias)", rf"roi_heads.mask_head.{number - 1}.0.\1")
        for number in range(1, 5)
    ),
    *(
        Rename(
            rf"head\.(classification|regression)_head\.conv\.{2 * number}\.(weight|bias)",
            rf"head.\1_head.conv.{number}.0.\2",
        )
        for number in range(4)
    ),
)

NAME = KeyMap(
    name="name",
    title="the same names (torchvision, timm, our own)",
    signature=(),
    renames=(Rename(r"(.+)", r"\1"), *_OLD_NAMES),
    published={90: COCO_BY_ID},
)

# A backbone's own names -> where our detectors keep it. What is left of a classifier has no place.
BACKBONE = KeyMap(
    name="backbone",
    title="a classifier's backbone (torchvision, timm)",
    signature=(),
    renames=(
        Rename(r"(fc|classifier|head|last_linear)\..+", None, reason="the classifier of another task"),
        Rename(r"(.+)", r"backbone.body.\1"),
        # timm's feature extractors lift a list's members one level up: stages.0 becomes stages_0.
        Rename(r"(\w+)\.(\d+)\.(.+)", r"backbone.body.\1_\2.\3"),
        Rename(r"features\.(.+)", r"backbone.body.\1"),
        *vgg_stages(lambda block, conv: rf"features\.{(0, 5, 10, 17, 24)[block] + 2 * conv}\."),
        # SSDlite cuts MobileNetV3-Large behind the expansion of its 13th block.
        Rename(r"features\.13\.block\.0\.(.+)", r"backbone.features.0.13.\1"),
        *(Rename(rf"features\.13\.block\.{part}\.(.+)", rf"backbone.features.1.0.{part - 1}.\1") for part in (1, 2, 3)),
        *(Rename(rf"features\.{block}\.(.+)", rf"backbone.features.1.{block - 13}.\1") for block in (14, 15, 16)),
        Rename(r"features\.(.+)", r"backbone.features.0.\1"),
        Rename(r"(.+)", r"backbone.\1"),
    ),
)
