"""metrics.jsonl: what happened, one JSON object per line, without repeats when a run resumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from models.files import write_bytes

Line = dict[str, Any]


class Journal:
    """Appends lines to ``metrics.jsonl`` and hands each to its listeners; does nothing where ``path`` is None."""

    def __init__(self, path: Path | None, echo: Callable[[Line], None] | None = None) -> None:
        self.path = path
        self.listeners = [echo] if echo is not None else []

    def write(self, event: str, **values: Any) -> None:
        """Append one line."""
        if self.path is None:
            return
        line: Line = {"event": event, **values}
        with self.path.open("ab") as file:
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY))
        for listener in self.listeners:
            listener(line)

    def tell(self, text: str) -> None:
        """Append a sentence for people."""
        self.write("note", said=text)

    def back_to(self, step: int) -> None:
        """Drop the lines that a run resuming at ``step`` will write again, and a last line cut short."""
        if self.path is None or not self.path.exists():
            return
        kept = [line for line in read_lines(self.path) if line["event"] != "end" and line.get("step", 0) <= step]
        write_bytes(self.path, b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in kept))


def read_lines(path: Path) -> list[Line]:
    """The lines of a ``metrics.jsonl``; one that a killed process left unfinished is passed over."""
    lines: list[Line] = []
    for text in path.read_bytes().splitlines():
        try:
            lines.append(orjson.loads(text))
        except orjson.JSONDecodeError:
            continue
    return lines
