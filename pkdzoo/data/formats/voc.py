"""Pascal VOC folders, read as COCO and written from COCO.

    Annotations/NAME.xml            one file per image
    ImageSets/Main/SPLIT.txt        one NAME per line
    JPEGImages/ or images/          the images
    classes.txt or labelmap.txt     the order of the classes; without it, alphabetical over all annotations

VOC counts pixels from 1, and its corners are part of the object: ``x = xmin - 1`` and ``w = xmax - xmin + 1``. The
arithmetic is decimal, so numbers that are written and read again are the same to their last digit.

``difficult`` becomes COCO's ``ignore``: such objects are left out of training, as in mmdetection's converter, but
COCO's evaluator, which has no such flag, counts them. ``truncated``, ``occluded`` and ``pose`` are kept as keys of the
annotation. A crowd region is written as a difficult object with ``<iscrowd>1</iscrowd>``, which only this package
reads.

VOC cannot store COCO's ids, areas, segmentations and super-categories. COCO cannot store VOC's parts of persons (heads,
hands, feet), owners and sources.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn

from pkdzoo.data.formats.common import (
    Object,
    class_names,
    int_if_whole,
    list_images,
    make_annotation,
    make_content,
    objects_by_image,
    read_lines,
    read_sizes,
)
from pkdzoo.utils.text import quote_some

CORNERS = ("xmin", "ymin", "xmax", "ymax")
LARGEST = 10**9  # pixels; 1e999999999 is a Decimal, too, and fills the memory as a whole number
NO, YES = ("0", "", "false", "no", "unspecified"), ("1", "true", "yes")


def is_voc(folder: str | Path) -> bool:
    """Whether a folder has the layout of Pascal VOC."""
    root = Path(folder)
    return (root / "ImageSets" / "Main").is_dir() or next((root / "Annotations").glob("*.xml"), None) is not None


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


class _NoDoctype(ET.TreeBuilder):
    """Rejects a DOCTYPE, which can refer to other files and define entities of unlimited size."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise ValueError("it declares a DOCTYPE, which annotations do not need and which can define harmful entities")


def parse(path: Path) -> ET.Element:
    """Parse an annotation file to its root element.

    Raises:
        ValueError: the file is missing, not XML, not an annotation, or has a DOCTYPE.
    """
    try:
        root = ET.fromstring(path.read_bytes(), ET.XMLParser(target=_NoDoctype()))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file, though a split lists it") from None
    except (ET.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if root.tag != "annotation":
        raise ValueError(f"{path} is not a VOC annotation: its root is <{root.tag}>, not <annotation>")
    return root


def classes_of(folder: str | Path) -> list[str]:
    """Names of all classes of a data set, in the order of their labels."""
    root = Path(folder)
    if (root / "classes.txt").is_file():
        return read_lines(root / "classes.txt")
    if (root / "labelmap.txt").is_file():  # CVAT's: name:color:parts:actions
        names = [line.split(":")[0].strip() for line in read_lines(root / "labelmap.txt") if not line.startswith("#")]
        return [name for name in names if name != "background"]
    files = sorted((root / "Annotations").rglob("*.xml"))
    return sorted({_text(item, "name") for file in files for item in parse(file).findall("object")} - {""})


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
    classes = classes_of(root)
    ids = {name: number for number, name in enumerate(classes, 1)}
    stored: dict[str, list[str]] = {}
    for file in list_images(images):
        stored.setdefault(_stem(file), []).append(file)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, name in enumerate(names, 1):
        path = root / "Annotations" / f"{name}.xml"
        tree = parse(path)
        records.append(_image(tree, number, _image_of(name, _text(tree, "filename"), stored), path))
        for position, element in enumerate(tree.findall("object"), 1):
            class_name, box, flags = _object(element, f"{path}: object {position}")
            if class_name not in ids:
                raise ValueError(
                    f"{path}: the class {class_name!r} is not among {quote_some(classes, 20)}; add it to the list"
                )
            annotations.append(make_annotation(len(annotations) + 1, number, ids[class_name], box, **flags))
    _fill_sizes(records, images, strict)
    return make_content(records, annotations, classes)


def _stem(file: str) -> str:
    return file[: -len(Path(file).suffix)]


def _image_of(name: str, filename: str, stored: Mapping[str, list[str]]) -> str:
    """The image file of an annotation, by the annotation's name: ``<filename>`` may be an older name of the image."""
    suffix = Path(filename).suffix or ".jpg"
    files = stored.get(name, [])
    if files:
        return next((file for file in files if file.lower().endswith(suffix.lower())), files[0])
    return filename if filename in stored.get(_stem(filename), []) else name + suffix


def _image(tree: ET.Element, number: int, file: str, path: Path) -> dict[str, Any]:
    size = tree.find("size")
    width, height, depth = (
        int(_number(size, key, f"{path}: size")) if size is not None and size.find(key) is not None else 0
        for key in ("width", "height", "depth")
    )
    record = {"id": number, "file_name": file, "width": width, "height": height}
    if depth not in (0, 3):
        record["depth"] = depth
    return {**record, "segmented": 1} if _flag(tree, "segmented", str(path)) else record


def _fill_sizes(records: list[dict[str, Any]], images: Path, strict: bool) -> None:
    """Read the sizes of images whose annotation has none; some tools write 0."""
    without_size = [record for record in records if record["width"] < 1 or record["height"] < 1]
    if without_size:
        sizes = read_sizes([images / record["file_name"] for record in without_size], strict)
        for record, (height, width) in zip(without_size, sizes):
            record.update(width=width, height=height)


def _object(element: ET.Element, where: str) -> tuple[str, list[int | float], dict[str, Any]]:
    """Class name, box and further keys of an object element."""
    name, box = _text(element, "name"), element.find("bndbox")  # not iter(): parts have their own boxes
    if not name or box is None:
        raise ValueError(f"{where} has no <{'name' if not name else 'bndbox'}>")
    left, top, right, bottom = (_number(box, key, where) for key in CORNERS)
    x, y = left - 1, top - 1
    sides = [int_if_whole(float(v)) for v in (x, y, right - x, bottom - y)]
    flags: dict[str, Any] = {}
    if _flag(element, "iscrowd", where):
        flags["iscrowd"] = 1
    elif _flag(element, "difficult", where):
        flags["ignore"] = 1
    flags.update({key: 1 for key in ("truncated", "occluded") if _flag(element, key, where)})
    pose = _text(element, "pose")
    return name, sides, {**flags, "pose": pose} if pose.lower() not in NO else flags


def _text(element: ET.Element, key: str) -> str:
    return (element.findtext(key) or "").strip()


def _number(element: ET.Element, key: str, where: str) -> Decimal:
    try:
        value = Decimal(_text(element, key))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite():
        raise ValueError(f"{where} has <{key}> = {element.findtext(key)!r}, which is not a number")
    if not -LARGEST <= value <= LARGEST:  # abs() of a Decimal may overflow
        raise ValueError(f"{where} has <{key}> = {element.findtext(key)!r}, which is too large for a number of pixels")
    return value


def _flag(element: ET.Element, key: str, where: str) -> bool:
    value = _text(element, key).lower()
    if value in (*NO, *YES):
        return value in YES
    try:
        return float(value) != 0  # some converted data sets have a share of the object here
    except ValueError:
        raise ValueError(f"{where} has <{key}> = {value!r}; it is 0 or 1") from None


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
