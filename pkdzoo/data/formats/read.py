"""Reads annotations of any format from one path.

    anything.json              COCO
    ImageSets/Main/SPLIT.txt   Pascal VOC: the list of a split's images
    data.yaml/SPLIT            YOLO: a split of the data set's description
    FOLDER/*.xml               VOC's XML files without lists
    FOLDER/*.json              labelme
    anything.csv               one box per line

All annotations become the content of a COCO file in memory; nothing is written to disk. ``TABLE`` lists the formats:
a new one is one file with a ``Format``, and one row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pkdzoo.data.formats import coco_folders, csv_boxes, labelme, voc, xml_files, yolo
from pkdzoo.data.formats.base import Finding, Format
from pkdzoo.data.formats.coco import Columns, columns_of, read_columns

# In the order of precedence. In a folder that was converted in place, the converted COCO annotations are used, and a
# csv that lies beside other annotations was mostly made from them. The others have no order: two of them are an error.
TABLE: dict[str, Format] = {
    row.name: row
    for row in (
        coco_folders.FORMAT,
        coco_folders.ROBOFLOW,
        voc.FORMAT,
        yolo.FORMAT,
        xml_files.FORMAT,
        labelme.FORMAT,
        csv_boxes.FORMAT,
    )
}
FORMATS = tuple(name for name, row in TABLE.items() if row.write)  # those that can be written
_FIRST, _LAST = ("coco", "roboflow"), ("csv",)


def format_of(annotations: str | Path) -> str:
    """The format, a key of ``TABLE``, of an annotation path."""
    path = Path(annotations)
    return next((name for name, row in TABLE.items() if name != "coco" and row.owns(path)), "coco")


def find_format(folder: str | Path) -> str | None:
    """The format, a key of ``TABLE``, of a folder; None where no format is recognized.

    The path of a ``data.yaml`` or of a csv, and a pattern such as ``FOLDER/*.xml``, also stand for a data set.

    Raises:
        ValueError: the folder holds annotations of two formats that are made by hand, e.g. VOC and YOLO.
    """
    root = Path(folder)
    if not root.is_dir():
        named = format_of(root) if root.is_file() or root.name.startswith("*.") else "coco"
        return "yolo" if yolo.find_yaml(root) else None if named == "coco" else named
    for name in _FIRST:
        if TABLE[name].present(root):
            return name
    found = [name for name, row in TABLE.items() if name not in (*_FIRST, *_LAST) and row.present(root)]
    if "voc" in found and "xml" in found:  # VOC's XML files are found twice; without lists they are read one by one
        found.remove("xml" if TABLE["voc"].splits(root) else "voc")
    if len(found) > 1:
        titles = [TABLE[name].title for name in found]
        examples = [str(next(iter(TABLE[name].splits(root).values()), "")) for name in found]
        raise ValueError(
            f"{root} holds both {' and '.join(titles)} annotations: choose one, "
            f"{' or '.join(text for text in examples if text) or 'and move the others away'}"
        )
    return next(iter(found or [name for name in _LAST if TABLE[name].present(root)]), None)


def annotations_of(folder: str | Path) -> dict[str, Path]:
    """The annotations of each split of a data set, by the split's name; see ``base.split_of``."""
    root, kind = Path(folder), find_format(folder)
    if kind is None:
        return {}
    if not root.is_dir() and kind != "yolo":
        return {"train": root}
    return TABLE[kind].splits(root)


def splits_of(folder: str | Path) -> list[str]:
    """Splits of a data set, out of train, val and test (and VOC's trainval where it has neither train nor val)."""
    found = annotations_of(folder)
    names = ("train", "val", "test") if {"train", "val"} & set(found) else ("trainval", "test")
    return [split for split in names if split in found]


def accepted_trees() -> str:
    """The accepted folders, as a clause of a message."""
    trees = " | ".join(row.tree for row in TABLE.values())
    return f"accepted, with train, val (valid, validation, dev) or test for SPLIT, are: {trees}"


def read_annotations(annotations: str | Path, segmentations: bool = False, need_sizes: bool = True) -> Columns:
    """Read annotations of any format into flat columns.

    An image whose size must be read from the file and cannot gets the size 1 x 1: none of its boxes is used, and
    loading it fails.

    Args:
        annotations: see the top of this file.
        segmentations: keep polygons and run lengths. VOC has none.
        need_sizes: raise an error for a COCO image without height or width.

    Raises:
        ValueError: invalid annotations; the message names the file and the record.
        FileNotFoundError: there is no such file.
    """
    row = TABLE[format_of(annotations)]
    if row.read is coco_folders.read:
        return read_columns(annotations, segmentations=segmentations, need_sizes=need_sizes)
    return columns_of(row.read(Path(annotations), False), annotations, segmentations)


def read_image_names(annotations: str | Path) -> Columns:
    """Read which images a split has, and no objects: those of a test split are often unknown.

    Args:
        annotations: see the top of this file.

    Raises:
        ValueError: invalid annotations; the message names the file and the record.
    """
    row = TABLE[format_of(annotations)]
    if row.read is coco_folders.read:
        return read_columns(annotations, need_sizes=False, needed=("images",))
    if row.names is None:
        return read_annotations(annotations)
    files = enumerate(row.names(Path(annotations)), 1)
    images = [{"id": number, "file_name": name, "width": 1, "height": 1} for number, name in files]
    return columns_of({"images": images, "annotations": [], "categories": []}, annotations)


def read_coco(annotations: str | Path, strict: bool = True) -> dict[str, Any]:
    """Read annotations of any format as the content of a COCO file.

    COCO's own segmentations are replaced by True: they are nine tenths of the file, which is in memory here.

    Args:
        annotations: see the top of this file.
        strict: raise an error for images whose size is needed and cannot be read.

    Raises:
        ValueError: invalid annotations.
    """
    return TABLE[format_of(annotations)].read(Path(annotations), strict)


def findings_of(annotations: str | Path) -> list[Finding]:
    """Facts for ``data check`` that the content of a COCO file cannot show, e.g. label files that no image uses."""
    return TABLE[format_of(annotations)].findings(Path(annotations))
