"""Key maps: whose names a checkpoint uses, found by looking at its keys."""

from models.weights.keymaps.keymap import KeyMap, Rename
from models.weights.keymaps.torchvision import NAME

KEY_MAPS: dict[str, KeyMap] = {key_map.name: key_map for key_map in (NAME,)}

__all__ = ["KEY_MAPS", "KeyMap", "Rename"]
