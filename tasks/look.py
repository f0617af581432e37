"""Look: has the source changed? Never cached, since it is the question itself."""

from __future__ import annotations

from pathlib import Path

from converters.fingerprint import Fingerprint, fingerprint
from converters.formats import find_format
from tasks.keys import content_key
from tasks.source import SourceOptions
from tasks.stage import stage


@stage("converters.fingerprint", cached=False)
def look(workspace: Path, source: SourceOptions) -> Fingerprint:
    """Fingerprint of the annotations and of the images; bytes are read again only where a file changed.

    Raises:
        DatasetError: the folder does not exist or cannot be read.
    """
    seen = _fingerprint(workspace, source.root)
    # Pictures may lie beside: around a single file, in Cityscapes' leftImg8bit, in a folder that the recipe names.
    pictures = find_format(source.format).find_image_root(source.root, source.images)
    if not pictures.exists() or pictures.resolve().is_relative_to(source.root.resolve()):
        return seen
    apart = _fingerprint(workspace, pictures)
    return Fingerprint(
        annotations=content_key("look", "tasks.look", {"here": seen.annotations, "there": apart.annotations}),
        images=content_key("look", "tasks.look", {"here": seen.images, "there": apart.images}),
        files=seen.files + apart.files,
        size=seen.size + apart.size,
    )


def _fingerprint(workspace: Path, root: Path) -> Fingerprint:
    name = content_key("look", "tasks.look", {"root": str(root.resolve())})
    folder = workspace / "fingerprints"
    folder.mkdir(parents=True, exist_ok=True)
    return fingerprint(root, index=folder / f"{name[:24]}.json", leave_out=workspace)
