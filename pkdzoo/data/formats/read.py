"""Reading annotations, whatever their format, from one path.

    anything.json              COCO
    ImageSets/Main/SPLIT.txt   Pascal VOC: the list of a split's images
    data.yaml/SPLIT            YOLO: a split of the description

Everything becomes what a COCO file would say; nothing is written to disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pkdzoo.data.formats import voc, yolo
from pkdzoo.data.formats.coco import SECTIONS, Columns, columns_of, read_columns
from pkdzoo.data.formats.json_stream import JsonStream

FORMATS = ("coco", "voc", "yolo")


def format_of(annotations: str | Path) -> str:
    """Which of ``FORMATS`` an annotation path is in."""
    path = Path(annotations)
    if path.suffix == ".txt" and path.parent.name == "Main":
        return "voc"
    return "yolo" if path.parent.suffix in (".yaml", ".yml") and path.parent.is_file() else "coco"


def find_format(folder: str | Path) -> str | None:
    """Which of ``FORMATS`` a folder is in; None where nothing is recognised.

    COCO's files go before the others: who converted a folder in place means the converted one.

    Raises:
        ValueError: the folder is both VOC and YOLO.
    """
    root = Path(folder)
    if next((root / "annotations").glob("instances_*.json"), None) is not None:
        return "coco"
    found = [name for name, there in (("voc", voc.is_voc(root)), ("yolo", yolo.is_yolo(root))) if there]
    if len(found) > 1:
        raise ValueError(
            f"{root} holds both VOC and YOLO annotations: give the one you mean, "
            f"{voc.split_file(root, 'SPLIT')} or {yolo.find_yaml(root)}/SPLIT"
        )
    return found[0] if found else None


def splits_of(folder: str | Path) -> list[str]:
    """Splits that a data set has, out of train, val and test (and VOC's trainval, where it has none of these)."""
    root, kind = Path(folder), find_format(folder)
    if kind == "yolo":
        file = yolo.find_yaml(root)
        assert file is not None
        return list(yolo.describe(file).splits)
    if kind == "voc":
        there = [split for split in ("train", "val", "test", "trainval") if voc.split_file(root, split).is_file()]
        return there[:-1] if len(there) > 1 and there[-1] == "trainval" else there
    names = {file.stem.removeprefix("instances_") for file in (root / "annotations").glob("instances_*.json")}
    return [split for split in ("train", "val", "test") if names & {split, f"{split}2017"}]


def read_annotations(annotations: str | Path, segmentations: bool = False) -> Columns:
    """Annotations of any format as flat columns.

    A VOC or YOLO image whose size cannot be read is 1 x 1: no box of it is used, and loading it fails.

    Args:
        annotations: see the top of this file.
        segmentations: keep polygons and run lengths. VOC has none.

    Raises:
        ValueError: broken annotations; the message names the file and the place.
        FileNotFoundError: there is no such file.
    """
    kind = format_of(annotations)
    if kind == "coco":
        return read_columns(annotations, segmentations=segmentations)
    return columns_of(read_coco(annotations, strict=False), annotations, segmentations)


def read_coco(annotations: str | Path, strict: bool = True) -> dict[str, Any]:
    """Annotations of any format as the content of a COCO file.

    COCO's own segmentations are not kept: they are nine tenths of a file that is held in memory here. True stands
    where there was one.

    Args:
        annotations: see the top of this file.
        strict: refuse images whose size has to be read and cannot be.

    Raises:
        ValueError: broken annotations.
    """
    path, kind = Path(annotations), format_of(annotations)
    if kind == "voc":
        return voc.to_coco(voc.root_of(path), path.stem, strict)
    if kind == "yolo":
        return yolo.to_coco(path, strict)
    read_columns(path)  # refuses what is no COCO file, and says why
    content: dict[str, Any] = {}
    with path.open("rb") as file:
        stream = JsonStream(file, str(path))
        for key in stream.members():
            if key in SECTIONS:
                content[key] = [_without_segmentation(record) for record in stream.elements()]
            else:
                stream.skip()
    return content


def _without_segmentation(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "segmentation": True} if record.pop("segmentation", None) else record
