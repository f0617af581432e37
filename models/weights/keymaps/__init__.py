"""Key maps: whose names a checkpoint uses, found by looking at its keys."""

from models.weights.keymaps.chainercv import CHAINERCV
from models.weights.keymaps.darknet import DARKNET
from models.weights.keymaps.detectron2 import DETECTRON2
from models.weights.keymaps.keymap import KeyMap, Rename
from models.weights.keymaps.mmdetection import MMDETECTION
from models.weights.keymaps.paddle import PADDLE
from models.weights.keymaps.paddle_static import PADDLE_STATIC
from models.weights.keymaps.torchvision import BACKBONE, NAME

KEY_MAPS: dict[str, KeyMap] = {
    key_map.name: key_map
    for key_map in (NAME, BACKBONE, MMDETECTION, DETECTRON2, PADDLE, PADDLE_STATIC, CHAINERCV, DARKNET)
}

__all__ = ["BACKBONE", "KEY_MAPS", "KeyMap", "Rename"]
