"""What is written is whole or not there, whatever its name stands for; the same function serves all writers."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from models.checkpoint import CheckpointMeta, load_checkpoint, save_checkpoint
from models.files import whole_file, write_bytes


def test_what_fails_leaves_the_file_as_it_was_and_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_bytes(path, b"before")

    def fill_the_disk() -> None:
        with whole_file(path) as part:
            part.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(part))

    with pytest.raises(OSError, match="No space left") as full:
        fill_the_disk()

    assert full.value.filename == str(path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "page.html").symlink_to("disk/page.html")

    write_bytes(tmp_path / "page.html", b"new")

    assert (tmp_path / "page.html").is_symlink()
    assert (tmp_path / "disk/page.html").read_bytes() == b"new"


def test_a_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="name a file in it"), whole_file(tmp_path):
        pytest.fail("the work was begun")


def test_a_checkpoint_goes_through_a_pipe(tmp_path: Path) -> None:
    """torch writes its archive back and forth, which a pipe does not take."""
    pipe, state = tmp_path / "pipe", {"weight": torch.arange(3.0)}
    os.mkfifo(pipe)
    content: list[bytes] = []
    reader = threading.Thread(target=lambda: content.append(pipe.read_bytes()), daemon=True)
    reader.start()

    save_checkpoint(pipe, state, CheckpointMeta("none", ("a",), {}))

    reader.join(10)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
    (tmp_path / "copy.pt").write_bytes(content[0])
    assert torch.equal(load_checkpoint(tmp_path / "copy.pt")[0]["model"]["weight"], state["weight"])
