"""Pascal VOC's XML files without VOC's lists of splits, as labelImg and Roboflow write them, read as COCO.

``folders.py`` finds the files. Corners are those of VOC (see ``voc_xml.py``), ``difficult`` has VOC's meaning. Images
without an XML file are left out. Where TensorFlow's csv lies beside the XML files it was made from, the XML files are
read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pkdzoo.data.formats import folders, voc_xml
from pkdzoo.data.formats.base import Format
from pkdzoo.data.formats.common import class_order, list_images


def splits(root: Path) -> dict[str, Path]:
    """The annotations of each split; empty for a folder without such files."""
    return folders.find_splits(root, ".xml", voc_xml.is_annotation)


def to_coco(pattern: Path, strict: bool = True) -> dict[str, Any]:
    """Read a split as the content of a COCO annotation file, with images in the order of their names.

    Args:
        pattern: ``FOLDER/*.xml``.
        strict: raise an error for unreadable images whose annotation has no size.

    Raises:
        ValueError: a file is invalid, or there are no images.
    """
    roots, patterns = folders.data_set_of(pattern, splits)
    images = folders.image_dir(pattern)
    files = [path for each in patterns for _, path in folders.annotation_files(each)]
    classes = class_order(roots, lambda: voc_xml.class_names_in(files))
    return voc_xml.to_content(folders.annotation_files(pattern), list_images(images), images, classes, strict)


FORMAT = Format(
    name="xml",
    title="XML",
    tree="annotations/NAME.xml with images/NAME.jpg, or NAME.xml beside NAME.jpg, also in SPLIT/ (labelImg, Roboflow)",
    present=lambda root: bool(splits(root)),
    splits=splits,
    owns=lambda path: path.name == "*.xml",
    image_dir=folders.image_dir,
    read=to_coco,
)
