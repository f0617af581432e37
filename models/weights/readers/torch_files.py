"""``torch.save`` files, zip and legacy: ``torch.load(weights_only=True)`` behind a look at the pickle's structure.

Classes that checkpoints of known projects carry beside their tensors (NumPy scalars, argparse namespaces, mmengine's
history) are replaced by stand-ins that hold data or nothing; everything else is refused by name.
"""

from __future__ import annotations

import io
import mmap
import re
import struct
import threading
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models.errors import WeightsError
from models.weights.readers.arrays import Opaque
from models.weights.readers.opened import Opened
from models.weights.readers.pickles import NUMPY, run_pickle

# torch.save's first pickle in the legacy format: the magic number as LONG1 (torch/serialization.py, MAGIC_NUMBER).
LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_PICKLE_LIMIT = 256 << 20
_ONE_AT_A_TIME = threading.Lock()  # torch keeps its table of safe names for the whole process
_UNKNOWN = re.compile(r"GLOBAL (\S+) was not|Trying to load unsupported GLOBAL (\S+)")


def _namespace(*_: Any) -> OrderedDict[str, Any]:
    return OrderedDict()


# What is replaced: a mapping (their state is data worth keeping), a path's text, or nothing.
_STAND_INS: dict[str, Callable[..., Any]] = {
    **NUMPY,
    "argparse.Namespace": OrderedDict,
    "collections.defaultdict": _namespace,
    "types.SimpleNamespace": OrderedDict,
    "yacs.config.CfgNode": OrderedDict,
    "fvcore.common.config.CfgNode": OrderedDict,
    "detectron2.config.config.CfgNode": OrderedDict,
    "easydict.EasyDict": OrderedDict,
    "addict.addict.Dict": OrderedDict,
    "mmengine.config.config.ConfigDict": OrderedDict,
    "mmengine.logging.history_buffer.HistoryBuffer": Opaque,
    "mmcv.utils.config.ConfigDict": OrderedDict,
    **{f"builtins.{name}": Opaque for name in ("getattr", "int", "float", "list", "dict", "set", "tuple")},
    "pathlib.PosixPath": lambda *parts: "/".join(str(part) for part in parts),
    "pathlib._local.PosixPath": lambda *parts: "/".join(str(part) for part in parts),
    "pathlib.WindowsPath": lambda *parts: "\\".join(str(part) for part in parts),
}


def read_torch(path: Path) -> Opened:
    """Read a ``torch.save`` file onto the CPU; the tensors of a zip file are mapped, not read.

    Raises:
        WeightsError: it asks for a class that is not plain data, or is a TorchScript archive.
    """
    zipped = zipfile.is_zipfile(path)
    _look(path, zipped)
    stand_ins: Any = [(stand_in, name) for name, stand_in in _STAND_INS.items()]
    try:
        with _ONE_AT_A_TIME, warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")  # an unusual protocol; TypedStorage
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:
        if asked := _UNKNOWN.search(str(error)):
            raise WeightsError(
                f"{path}: its pickle asks for {asked[1] or asked[2]}, which is not plain data; nothing of it was run",
                "Save the state dict alone (torch.save(model.state_dict(), ...)) where you trust the file",
            ) from None
        raise
    if isinstance(content, torch.Tensor):
        content = {"": content}
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict")
    return Opened("torch-zip" if zipped else "torch-legacy", content)


def _look(path: Path, zipped: bool) -> None:
    """Run the pickle with every name standing for nothing: bounds what torch's own reader is then given."""
    if not zipped:
        with path.open("rb") as file:
            for _ in range(5):  # magic number, protocol, system, the object, storage keys
                run_pickle(file, None)
        return
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if entry.file_size]
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise WeightsError(
                f"{path}: a TorchScript archive, which is a program", "Save the module's state_dict() instead"
            )
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise WeightsError(f"{path}: a torch file that was zipped again", "Save it again with torch.save")
    pickled = next(entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl")
    if pickled.file_size > _PICKLE_LIMIT:
        raise WeightsError(f"{path}: its pickle alone has {pickled.file_size:,} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        _check_sums(path, view, entries)
        run_pickle(io.BytesIO(view[_span(view, pickled)]), None)


def _check_sums(path: Path, view: mmap.mmap, entries: list[zipfile.ZipInfo]) -> None:
    """Compare every member with the checksum that the archive holds of it, which torch.load does not.

    It takes 0.1 s for 250 MB. ``torch.serialization.set_crc32_options(False)`` leaves zeros there, which mean nothing.
    """
    for entry in entries:
        with memoryview(view) as whole, whole[_span(view, entry)] as stored:
            if entry.CRC and zlib.crc32(stored) != entry.CRC:
                raise WeightsError(
                    f"{path}: damaged: {entry.filename!r} has not the checksum it was saved with", "Fetch it again"
                )


def _span(view: mmap.mmap, entry: zipfile.ZipInfo) -> slice:
    """Where a stored member's bytes are: after 30 bytes, its name and an extra field (APPNOTE.TXT, 4.3.7)."""
    name, extra = struct.unpack_from("<HH", view, entry.header_offset + 26)
    start = entry.header_offset + 30 + name + extra
    return slice(start, start + entry.file_size)
