"""Folders with annotation files of COCO: where the files and the images of each split are. ``coco.py`` reads the files.

    annotations/instances_SPLIT.json   with images/SPLIT/, images/ or SPLIT/; COCO's own files end with a year
    SPLIT/_annotations.coco.json       beside the images (Roboflow)

Labels are in the order of the files' category ids. Roboflow's first category is the name of the project. It has no box
and stays a class, so that the classes are those of the file.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pkdzoo.data.formats.base import (
    Finding,
    Format,
    by_split,
    is_split_name,
    names_of,
    split_folders,
    split_of,
)
from pkdzoo.data.formats.coco import SECTIONS, read_columns
from pkdzoo.data.formats.common import NOT_READ
from pkdzoo.data.formats.json_stream import JsonStream

ROBOFLOW_FILE = "_annotations.coco.json"
PREFIX = "instances_"


def splits(root: Path) -> dict[str, Path]:
    """The annotation file of each split."""
    return by_split((name, file) for _, name, file in sorted(map(_named, _files(root))))


def _files(root: Path) -> list[Path]:
    return sorted(file for file in (root / "annotations").glob(f"{PREFIX}*.json") if file.is_file())


def _named(file: Path) -> tuple[int, str, Path]:
    """Rank and split's name of an annotation file: COCO's 2017 comes before files without a year, and other years."""
    name = file.stem.removeprefix(PREFIX)
    year = re.search(r"(20\d\d)$", name)
    rank = 1 if year is None else 0 if year[1] == "2017" else 2
    return rank, name[: year.start()].rstrip("_-") if year else name, file


def image_dir(file: Path) -> Path:
    """The folder of the images of ``annotations/instances_SPLIT.json``, or of another file in the data set's folder.

    Raises:
        ValueError: no such folder; the message names what was looked for.
    """
    year = re.search(r"20\d\d$", file.stem)
    name = _named(file)[1] if file.stem.startswith(PREFIX) else ""
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    return find_images(root, name or "train", original=file.stem.removeprefix(PREFIX) if year else "")


def find_images(root: Path, split: str, original: str = "", prefer_original: bool = False) -> Path:
    """The image folder of a split; COCO's ``SPLIT2017/`` is preferred for COCO's own files.

    Args:
        root: folder of the data set.
        split: name of the split.
        original: name of the folder that belongs to the annotation file, e.g. ``train2017``.
        prefer_original: prefer ``SPLIT2017/``, whatever the annotation file is called.

    Raises:
        ValueError: no such folder.
    """
    names = list(dict.fromkeys([split, split_of(split), *names_of(split)]))
    usual = original or f"{split_of(split)}2017"
    own = [root / usual, root / "images" / usual]
    others = [root / "images" / name for name in names] + [root / "images"] + [root / name for name in names]
    candidates = [*own, *others] if original or prefer_original else [*others, *own]
    for folder in candidates:
        if folder.is_dir():
            return folder
    shown = [f"{f.relative_to(root)}/" for f in candidates if f.name in (split, "images", own[0].name)]
    raise ValueError(f"no images for the {split} split: looked for {', '.join(shown)}, but {list_folder(root)}")


def list_folder(folder: Path) -> str:
    """The first names in a folder, as a clause of an error message."""
    if not folder.exists():
        return f"{folder} does not exist"
    if not folder.is_dir():
        return f"{folder} is not a folder"
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"{folder} holds {', '.join(names[:12])}{more}" if names else f"{folder} is empty"


def read(path: Path, strict: bool = True) -> dict[str, Any]:
    """The content of a COCO file without its segmentations, which are nine tenths of it: True takes their place.

    Raises:
        ValueError: an invalid file.
    """
    read_columns(path)  # raises an error for an invalid COCO file
    content: dict[str, Any] = {}
    with path.open("rb") as file:
        stream = JsonStream(file, str(path))
        for key in stream.members():
            if key in SECTIONS:
                content[key] = [_cleaned(record) for record in stream.elements()]
            else:
                stream.skip()
    return content


def read_whole(path: Path) -> dict[str, Any]:
    """The content of a COCO file with its segmentations.

    Raises:
        ValueError: an invalid file.
    """
    read_columns(path)
    with path.open("rb") as file:
        stream = JsonStream(file, str(path))
        return {key: list(stream.elements()) if key in SECTIONS else stream.value() for key in stream.members()}


def _cleaned(record: dict[str, Any]) -> dict[str, Any]:
    """A record without its segmentation."""
    return {**record, "segmentation": True} if record.pop("segmentation", None) else record


def write(coco: Mapping[str, Any], folder: Path, split: str) -> Counter[str]:
    """Write ``annotations/instances_SPLIT.json``, which can store everything but the shapes of masks."""
    file = folder / "annotations" / f"{PREFIX}{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {key: value for key, value in coco.items() if key != NOT_READ}
    file.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    return Counter()


def findings(file: Path) -> list[Finding]:
    """Annotation files beside this one that belong to no split."""
    used = set(splits(file.parent.parent).values())
    others = [f"{path} ({_named(path)[1]})" for path in _files(file.parent.parent) if path not in used]
    others += [str(path) for path in used if not is_split_name(_named(path)[1])]
    return [
        ("annotation files that are not used: they are no train, val or test, or a second one", sorted(others), False)
    ]


def roboflow_splits(root: Path) -> dict[str, Path]:
    """The annotation file of each split of a Roboflow export."""
    folders = split_folders(root)
    return {split: folder / ROBOFLOW_FILE for split, folder in folders.items() if (folder / ROBOFLOW_FILE).is_file()}


FORMAT = Format(
    name="coco",
    title="COCO",
    tree="annotations/instances_SPLIT.json (or _SPLIT2017.json) with images/SPLIT/, images/ or SPLIT2017/ (COCO)",
    present=lambda root: bool(_files(root)),
    splits=splits,
    owns=lambda path: path.suffix == ".json" and path.name not in (ROBOFLOW_FILE, "*.json"),
    image_dir=image_dir,
    read=read,
    write=write,
    findings=findings,
)
ROBOFLOW = Format(
    name="roboflow",
    title="Roboflow's COCO",
    tree=f"SPLIT/{ROBOFLOW_FILE} beside the images (Roboflow's COCO)",
    present=lambda root: bool(roboflow_splits(root)),
    splits=roboflow_splits,
    owns=lambda path: path.name == ROBOFLOW_FILE,
    image_dir=lambda path: path.parent,
    read=read,
)
