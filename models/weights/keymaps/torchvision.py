"""torchvision's names, which are ours: full detectors as they are, classification backbones with their prefix.

Files published before torchvision 0.12 name a few convolutions differently (``rpn.head.conv.weight`` for what is now
``rpn.head.conv.0.0.weight``); torchvision renames them while it loads (``_load_from_state_dict``), so we do too.
"""

from __future__ import annotations

from models.weights.classes import COCO_BY_ID
from models.weights.keymaps.keymap import KeyMap, Rename

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
