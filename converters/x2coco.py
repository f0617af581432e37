"""The ``x2coco`` command: PaddleDetection's flags, folders and file names, with the right numbers in them.

A script that calls ``tools/x2coco.py`` calls this instead and changes nothing else. ``--compat`` writes
PaddleDetection's own numbers, for results that must stay comparable; docs/x2coco.md lists where the two differ.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from converters import x2coco_compat as compat
from converters.coco import Coco, merge_coco, to_coco, write_coco
from converters.collection import paused_collection
from converters.errors import DatasetError
from converters.pictures import IMAGE_SUFFIXES
from converters.records import ConversionLog, ImageRecord
from converters.splits import read_list
from converters.summary import log_lines, printable
from converters.voc import read_voc

_TYPES = ("voc", "widerface", "labelme", "cityscape")
_SPLITS = ("train", "val", "test")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; what users get wrong is one message on stderr and exit code 2."""
    try:
        _run(_parse(arguments))
    except ValueError as error:
        if os.environ.get("ANNOTUNE_TRACEBACK"):
            raise
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)


def _fail(message: str, code: int) -> None:
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(code)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="x2coco", formatter_class=argparse.ArgumentDefaultsHelpFormatter, description=__doc__
    )
    add = parser.add_argument
    add("--dataset_type", help=f"what is converted: {', '.join(_TYPES)}")
    add("--json_input_dir", type=Path, help="folder of the JSON files of labelme or cityscape")
    add("--image_input_dir", type=Path, help="folder of their images")
    add("--output_dir", type=Path, default=Path("./"), help="gets annotations/, train/, val/ and test/")
    add("--train_proportion", type=float, default=1.0, help="share of the images that are for training")
    add("--val_proportion", type=float, default=0.0, help="share of the images that are for validation")
    add("--test_proportion", type=float, default=0.0, help="share of the images that are for testing")
    add("--voc_anno_dir", type=Path, help="folder of the XML files of voc")
    add("--voc_anno_list", type=Path, help="list of their names")
    add("--voc_label_list", type=Path, help="list of the classes, one a line")
    add("--voc_out_name", default="voc.json", help="the file that is written in output_dir for voc")
    add("--widerface_root_dir", type=Path, help="folder of wider_face_split, WIDER_train and WIDER_val")
    add("--compat", action="store_true", help="write PaddleDetection's numbers where they differ from the right ones")
    return parser.parse_args(arguments)


@paused_collection()
def _run(options: argparse.Namespace) -> None:
    if options.dataset_type not in _TYPES:
        raise DatasetError(f"--dataset_type is {options.dataset_type!r}, not one of {', '.join(_TYPES)}")
    log = ConversionLog()
    if options.dataset_type == "voc":
        _voc(options, log)
    elif options.dataset_type == "widerface":
        _widerface(options, log)
    else:
        _polygons(options, log)
    for line in log_lines(log):
        print(line)


def _given(options: argparse.Namespace, *names: str) -> None:
    """Raise unless these paths are given and there."""
    for name in names:
        path = getattr(options, name)
        if path is None:
            raise DatasetError(f"--dataset_type {options.dataset_type} needs --{name}")
        if not path.exists():
            raise DatasetError(f"--{name}: {path} does not exist")


def _wrote(coco: Coco, path: Path) -> None:
    write_coco(coco, path)
    print(f"{path}: {len(coco['images'])} images, {len(coco['annotations'])} annotations")


# --- voc and widerface: one file each ----------------------------------------------------------------------------


def _voc(options: argparse.Namespace, log: ConversionLog) -> None:
    _given(options, "voc_anno_dir", "voc_anno_list", "voc_label_list")
    path = options.output_dir / options.voc_out_name
    if options.compat:
        coco = compat.voc(options.voc_anno_dir, options.voc_anno_list, options.voc_label_list)
    else:
        labels = read_list(options.voc_label_list)
        listed = os.path.abspath(options.voc_anno_list)  # noqa: PTH100 (as it is named, links and all)
        records = read_voc(options.voc_anno_dir, split=listed, corners="edges", categories=labels, log=log)
        coco = to_coco(records, labels)
    _wrote(coco, path)


def _widerface(options: argparse.Namespace, log: ConversionLog) -> None:
    from converters.widerface import read_widerface  # noqa: PLC0415 (voc does not wait for it, nor for NumPy below)

    _given(options, "widerface_root_dir")
    root = options.widerface_root_dir
    for split in ("train", "val"):
        if options.compat:
            coco = compat.widerface(root, split)
        else:
            records = read_widerface(root, split=split, invalid="keep", category="human_face", log=log)
            coco = to_coco(records, ["human_face"])
        _wrote(coco, root / f"widerface_{split}.json")


# --- labelme and cityscape: one file and one folder of images per split ------------------------------------------


def _polygons(options: argparse.Namespace, log: ConversionLog) -> None:
    _given(options, "json_input_dir", "image_input_dir")
    shares = {name: getattr(options, f"{name}_proportion") for name in _SPLITS}
    if not all(0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) >= 1e-5:
        raise DatasetError(f"the proportions of train, val and test are {shares}: they must add up to 1")
    write = _compat_polygons if options.compat else _right_polygons
    write(options, shares, log)


def _compat_polygons(options: argparse.Namespace, shares: Mapping[str, float], log: ConversionLog) -> None:
    polygons = compat.Polygons(options.dataset_type, options.json_input_dir)
    compat.copy_images(options.image_input_dir, options.json_input_dir, options.output_dir, shares)
    for name in _SPLITS:
        if shares[name]:
            coco = polygons.convert(options.output_dir / name)
            _wrote(coco, options.output_dir / "annotations" / f"instance_{name}.json")


def _right_polygons(options: argparse.Namespace, shares: Mapping[str, float], log: ConversionLog) -> None:
    from converters.labelme import read_labelme  # noqa: PLC0415

    images: Path = options.image_input_dir
    if options.dataset_type == "labelme":
        records = read_labelme(options.json_input_dir, images=images, log=log)
    else:
        records = _flat_cityscapes(options.json_input_dir, images, log)
    splits = divide(records, shares)
    parts = {name: to_coco(own) for name, own in splits.items()}
    labels = sorted({category["name"] for part in parts.values() for category in part["categories"]})
    for name, part in parts.items():
        coco = merge_coco([part], labels)
        _copy(splits, name, images, options.output_dir)
        _wrote(coco, options.output_dir / "annotations" / f"instance_{name}.json")


def _flat_cityscapes(annotations: Path, images: Path, log: ConversionLog) -> Iterator[ImageRecord]:
    """Cityscapes polygons in one folder, each named like its image, as PaddleDetection's documents have it."""
    from converters.cityscapes import read_frame  # noqa: PLC0415
    from converters.cityscapes_labels import chosen_labels  # noqa: PLC0415
    from converters.cityscapes_layout import Frame  # noqa: PLC0415

    wanted = [label.name for label in chosen_labels("all")]
    for image in sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES):
        polygons = annotations / f"{image.stem}.json"
        frame = Frame(name=image.stem, image=image.name, png=None, polygons=str(polygons))
        yield read_frame(frame, images, "json", wanted, log=log)


def divide(records: Iterable[ImageRecord], shares: Mapping[str, float]) -> dict[str, list[ImageRecord]]:
    """Divide records into parts of exactly those shares, in the order of a hash of the names; none is lost.

    What rounding leaves over goes to the parts with the largest remainders, the earlier one first.
    """
    ordered = sorted(records, key=lambda record: hashlib.sha256(record.file_name.encode()).digest())
    wanted = {name: share * len(ordered) for name, share in shares.items() if share > 0}
    sizes = {name: int(size + 1e-9) for name, size in wanted.items()}
    for name in sorted(wanted, key=lambda name: round(sizes[name] - wanted[name], 6))[
        : len(ordered) - sum(sizes.values())
    ]:
        sizes[name] += 1
    splits, start = {}, 0
    for name, size in sizes.items():
        splits[name] = ordered[start : start + size]
        start += size
    return splits


def _copy(splits: Mapping[str, Sequence[ImageRecord]], name: str, images: Path, output: Path) -> None:
    """Put the images of a split into its folder, and take those of the other splits out, left from an earlier run."""
    folder = output / name
    folder.mkdir(parents=True, exist_ok=True)
    for other, records in splits.items():
        for record in records:
            source, target = images / record.file_name, folder / record.file_name
            if other != name and target.resolve() != source.resolve():
                target.unlink(missing_ok=True)
            elif other == name and source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


if __name__ == "__main__":
    main()
