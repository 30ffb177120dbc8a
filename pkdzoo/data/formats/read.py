"""Reads annotations of any format from one path.

    anything.json              COCO
    ImageSets/Main/SPLIT.txt   Pascal VOC: the list of a split's images
    data.yaml/SPLIT            YOLO: a split of the data set's description

All annotations become the content of a COCO file in memory; nothing is written to disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pkdzoo.data.formats import voc, yolo
from pkdzoo.data.formats.coco import SECTIONS, Columns, columns_of, read_columns
from pkdzoo.data.formats.json_stream import JsonStream

FORMATS = ("coco", "voc", "yolo")


def format_of(annotations: str | Path) -> str:
    """The format, one of ``FORMATS``, of an annotation path."""
    path = Path(annotations)
    if path.suffix == ".txt" and path.parent.name == "Main":
        return "voc"
    return "yolo" if path.parent.suffix in (".yaml", ".yml") and path.parent.is_file() else "coco"


def find_format(folder: str | Path) -> str | None:
    """The format, one of ``FORMATS``, of a folder; None where no format is recognized.

    COCO has precedence: in a folder that was converted in place, the converted annotations are used.

    Raises:
        ValueError: the folder is both VOC and YOLO.
    """
    root = Path(folder)
    if next((root / "annotations").glob("instances_*.json"), None) is not None:
        return "coco"
    formats = [name for name, exists in (("voc", voc.is_voc(root)), ("yolo", yolo.is_yolo(root))) if exists]
    if len(formats) > 1:
        raise ValueError(
            f"{root} holds both VOC and YOLO annotations: choose one, "
            f"{voc.split_file(root, 'SPLIT')} or {yolo.find_yaml(root)}/SPLIT"
        )
    return formats[0] if formats else None


def splits_of(folder: str | Path) -> list[str]:
    """Splits of a data set, out of train, val and test (and VOC's trainval where it has none of these)."""
    root, kind = Path(folder), find_format(folder)
    if kind == "yolo":
        file = yolo.find_yaml(root)
        assert file is not None
        return list(yolo.describe(file).splits)
    if kind == "voc":
        splits = [split for split in ("train", "val", "test", "trainval") if voc.split_file(root, split).is_file()]
        return splits[:-1] if len(splits) > 1 and splits[-1] == "trainval" else splits
    names = {file.stem.removeprefix("instances_") for file in (root / "annotations").glob("instances_*.json")}
    return [split for split in ("train", "val", "test") if names & {split, f"{split}2017"}]


def read_annotations(annotations: str | Path, segmentations: bool = False, need_sizes: bool = True) -> Columns:
    """Read annotations of any format into flat columns.

    A VOC or YOLO image whose size cannot be read gets the size 1 x 1: none of its boxes is used, and loading it fails.

    Args:
        annotations: see the top of this file.
        segmentations: keep polygons and run lengths. VOC has none.
        need_sizes: raise an error for a COCO image without height or width.

    Raises:
        ValueError: invalid annotations; the message names the file and the record.
        FileNotFoundError: there is no such file.
    """
    kind = format_of(annotations)
    if kind == "coco":
        return read_columns(annotations, segmentations=segmentations, need_sizes=need_sizes)
    return columns_of(read_coco(annotations, strict=False), annotations, segmentations)


def read_coco(annotations: str | Path, strict: bool = True) -> dict[str, Any]:
    """Read annotations of any format as the content of a COCO file.

    COCO's own segmentations are replaced by True: they are nine tenths of the file, which is in memory here.

    Args:
        annotations: see the top of this file.
        strict: raise an error for images whose size is needed and cannot be read.

    Raises:
        ValueError: invalid annotations.
    """
    path, kind = Path(annotations), format_of(annotations)
    if kind == "voc":
        return voc.to_coco(voc.root_of(path), path.stem, strict)
    if kind == "yolo":
        return yolo.to_coco(path, strict)
    read_columns(path)  # raises an error for an invalid COCO file
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
