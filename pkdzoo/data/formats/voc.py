"""Pascal VOC folders, read as COCO and written from COCO.

    Annotations/NAME.xml            one file per image
    ImageSets/Main/SPLIT.txt        one NAME per line
    JPEGImages/ or images/          the images
    classes.txt or labelmap.txt     the order of the classes; without it, alphabetical over all annotations

``voc_xml.py`` reads the XML files. ``difficult`` becomes COCO's ``ignore``: such objects are left out of training, as
in mmdetection's converter, and ignored in evaluation, as VOC does: they are not missed, and a detection of one is no
mistake. pycocotools does not know the flag and counts them. ``truncated``, ``occluded`` and ``pose`` are kept as keys
of the annotation. A crowd region is written as a difficult object with ``<iscrowd>1</iscrowd>``, which only this
package reads.

VOC cannot store COCO's ids, areas, segmentations and super-categories. COCO cannot store VOC's parts of persons (heads,
hands, feet), owners and sources.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from pkdzoo.data.formats.base import Format, by_split, read_lines, walk_files
from pkdzoo.data.formats.common import Object, class_names, class_order, list_images, objects_by_image
from pkdzoo.data.formats.voc_xml import CORNERS, class_names_in, parse, to_content
from pkdzoo.utils.text import quote_some

__all__ = ["FORMAT", "from_coco", "image_dir", "parse", "root_of", "split_file", "to_coco"]


def split_file(folder: str | Path, split: str) -> Path:
    """The list of a split's images."""
    return Path(folder) / "ImageSets" / "Main" / f"{split}.txt"


def root_of(list_file: str | Path) -> Path:
    """The data set's folder, from the list of one of its splits."""
    return Path(list_file).parent.parent.parent


def image_dir(folder: str | Path) -> Path:
    """The folder of the images.

    Raises:
        ValueError: there is no such folder.
    """
    folders = [Path(folder) / name for name in ("JPEGImages", "images")]
    existing = next((f for f in folders if f.is_dir()), None)
    if existing is None:
        raise ValueError(f"{folder} has Annotations/ but no images: looked for JPEGImages/ and images/")
    return existing


# -- reading -----------------------------------------------------------------------------------------------------


def splits(folder: Path) -> dict[str, Path]:
    """The list of each split."""
    return by_split((file.stem, file) for file in sorted((folder / "ImageSets" / "Main").glob("*.txt")))


def classes_of(folder: str | Path) -> list[str]:
    """Names of all classes of a data set, in the order of their labels; see :func:`common.class_order`."""
    files = Path(folder) / "Annotations"
    return class_order([Path(folder)], lambda: class_names_in(files / name for name in _xml_files(files)))


def _xml_files(folder: Path) -> list[str]:
    return [name for name in walk_files(folder) if name.lower().endswith(".xml")]


def to_coco(folder: str | Path, split: str, strict: bool = True) -> dict[str, Any]:
    """Read a split as the content of a COCO annotation file, with images in the order of the split's list.

    Args:
        folder: the data set.
        split: name of a list in ``ImageSets/Main``, e.g. ``train``.
        strict: raise an error for unreadable images whose annotation has no size; otherwise their size is 1 x 1, none
            of their boxes is used, and loading them fails.

    Raises:
        ValueError: a file is missing or invalid, an image is listed twice, or an object's class is not in
            ``classes.txt`` or ``labelmap.txt``.
    """
    root, images = Path(folder), image_dir(folder)
    list_file = split_file(root, split)
    names = read_lines(list_file)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{list_file} lists {quote_some(twice)} more than once; delete the second line")
    files = [(name, root / "Annotations" / f"{name}.xml") for name in names]
    return to_content(files, list_images(images), images, classes_of(root), strict)


def image_names(list_file: Path) -> list[str]:
    """The image files that a list names, with or without annotations, relative to :func:`image_dir`."""
    listed, stored = set(read_lines(list_file)), list_images(image_dir(root_of(list_file)))
    return [name for name in stored if {Path(name).stem, str(Path(name).with_suffix(""))} & listed]


# -- writing -----------------------------------------------------------------------------------------------------


def from_coco(coco: Mapping[str, Any], folder: str | Path, split: str) -> Counter[str]:
    """Write the annotations and the list of a split; other splits of the folder are kept, images are not written.

    Args:
        coco: content of a COCO annotation file.
        folder: the data set.
        split: name of the list.

    Returns:
        Counts of what VOC cannot store.

    Raises:
        ValueError: two images need one annotation file, or another split has other classes.
    """
    root, dropped = Path(folder), Counter[str]()
    _write_classes(root / "classes.txt", class_names(coco))
    names: dict[str, None] = {}  # an ordered set
    for image, path, objects in objects_by_image(coco, dropped):
        name = path.with_suffix("").as_posix()
        file = root / "Annotations" / f"{name}.xml"
        text = _document(image, path.as_posix(), objects)
        if file.exists() and (name in names or file.read_bytes() != text):
            raise ValueError(f"two images need {file.relative_to(root)}: rename one of them ({path})")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text)
        names[name] = None
        dropped["segmentations"] += sum(item.segmented for item in objects)
    list_file = split_file(root, split)
    list_file.parent.mkdir(parents=True, exist_ok=True)
    list_file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return +dropped


def _write_classes(path: Path, names: list[str]) -> None:
    if path.exists() and read_lines(path) != names:
        raise ValueError(f"the splits have different classes: {quote_some(read_lines(path))} and {quote_some(names)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _document(image: Mapping[str, Any], file: str, objects: list[Object]) -> bytes:
    tree = ET.Element("annotation")
    ET.SubElement(tree, "filename").text = file
    size = ET.SubElement(tree, "size")
    for key in ("width", "height", "depth"):
        ET.SubElement(size, key).text = str(image.get(key, 3))
    ET.SubElement(tree, "segmented").text = str(int(bool(image.get("segmented"))))
    for item in objects:
        _write_object(ET.SubElement(tree, "object"), item)
    ET.indent(tree)
    text: bytes = ET.tostring(tree, encoding="utf-8")
    return text


def _write_object(element: ET.Element, item: Object) -> None:
    """Write an object with all keys that the evaluation of VOC's development kit reads."""
    record = item.record
    ET.SubElement(element, "name").text = item.name
    ET.SubElement(element, "pose").text = str(record.get("pose", "Unspecified"))
    ET.SubElement(element, "truncated").text = str(int(bool(record.get("truncated"))))
    if record.get("occluded"):
        ET.SubElement(element, "occluded").text = "1"
    ET.SubElement(element, "difficult").text = str(int(item.ignored or item.crowd))
    if item.crowd:
        ET.SubElement(element, "iscrowd").text = "1"
    x, y, w, h = (Decimal(repr(v)) for v in item.box)
    box = ET.SubElement(element, "bndbox")
    for key, value in zip(CORNERS, (x + 1, y + 1, x + w, y + h)):
        ET.SubElement(box, key).text = f"{value.normalize():f}"


FORMAT = Format(
    name="voc",
    title="VOC",
    tree="ImageSets/Main/SPLIT.txt, Annotations/NAME.xml, JPEGImages/ or images/ (Pascal VOC)",
    present=lambda root: (root / "ImageSets" / "Main").is_dir(),
    splits=splits,
    owns=lambda path: path.suffix == ".txt" and path.parent.name == "Main",
    image_dir=lambda path: image_dir(root_of(path)),
    read=lambda path, strict: to_coco(root_of(path), path.stem, strict),
    names=image_names,
    write=from_coco,
)
