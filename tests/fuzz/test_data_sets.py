"""Fuzzing of data sets: VOC's XML, YOLO's labels and descriptions, labelme's JSON, csv, and image files."""

from __future__ import annotations

import io
import random
import re
import tempfile
from functools import cache
from pathlib import Path

import pytest
from fuzz.fuzzing import fuzz, mutate_bytes
from PIL import Image

from pkdzoo.data.filter import select
from pkdzoo.data.formats import csv_boxes, labelme, voc_xml, yolo
from pkdzoo.data.formats.coco import columns_of
from pkdzoo.data.image_files import UnreadableImage, check_whole, open_image, read_size
from pkdzoo.data.labels import match_labels
from pkdzoo.data.load_report import LoadReport

XML = b"""<?xml version="1.0"?><annotation><folder>a</folder><filename>a.png</filename>
<size><width>96</width><height>64</height><depth>3</depth></size><segmented>0</segmented>
<object><name>red</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>11</xmin><ymin>13.5</ymin><xmax>40</xmax><ymax>32</ymax></bndbox></object>
<object><name>green</name><difficult>1</difficult>
<bndbox><xmin>51</xmin><ymin>31</ymin><xmax>70</xmax><ymax>46</ymax></bndbox></object></annotation>"""
YAML = (
    b"path: .\ntrain: images\nval: [images, 'images']\nkpt_shape: [2, 3]\nnc: 2\nnames: {0: red, 1: &a green}\nb: *a\n"
)
LABELS = b"0 0.26 0.34 0.31 0.31\n1 0.1 0.1 0.9 0.1 0.5 0.8\n0 0.5 0.5 0.25 1e-3\n"
LABELME = b"""{"version": "5.0", "flags": {}, "imagePath": "a.png", "imageHeight": 64, "imageWidth": 96,
"imageData": null, "shapes": [
{"label": "red", "points": [[40, 32], [10.5, 12]], "shape_type": "rectangle", "flags": {}},
{"label": "green", "points": [[1, 2], [30, 4], [20, 40]], "shape_type": "polygon", "group_id": null},
{"label": "green", "points": [[30, 30], [30, 40]], "shape_type": "circle"},
{"label": "dot", "points": [[3, 3]], "shape_type": "point"}]}"""
CSV = b"""filename,width,height,class,xmin,ymin,xmax,ymax
a.png,96,64,red,10,12,40,32
a.png,96,64,green,50,30,70,46
b.png,,,,,,,
"""


@cache
def folder() -> Path:
    """A data set whose annotations the targets replace."""
    root = Path(tempfile.mkdtemp(prefix="fuzzed-"))
    for name in ("images", "labels"):
        (root / name).mkdir()
    Image.new("RGB", (96, 64)).save(root / "images" / "a.png")
    return root


def use(content: dict) -> None:
    """Do what training does with the content of a COCO file."""
    columns = columns_of(content, "fuzzed")
    names, label_of = match_labels(columns.categories, None, False, Path("fuzzed"))
    select(columns, label_of, names, LoadReport("fuzzed"))


def read_xml(path: Path) -> None:
    """An annotation file of VOC."""
    classes = sorted(set(voc_xml.class_names_in([path])))
    use(voc_xml.to_content([("a", path)], ["a.png"], folder() / "images", classes, strict=False))


def read_yolo(path: Path) -> None:
    """A ``data.yaml`` or a label file, in a data set that is otherwise valid."""
    content = path.read_bytes()
    (folder() / "data.yaml").write_bytes(content if path.suffix == ".yaml" else b"train: images\nnames: [red, green]\n")
    (folder() / "labels" / "a.txt").write_bytes(content if path.suffix == ".txt" else b"0 0.5 0.5 0.2 0.2\n")
    yolo.findings(folder() / "data.yaml" / "train")
    use(yolo.to_coco(folder() / "data.yaml" / "train", strict=False))


def read_labelme(path: Path) -> None:
    """A file of labelme."""
    (folder() / "images" / "a.json").write_bytes(path.read_bytes())
    use(labelme.to_coco(folder() / "images" / "*.json", strict=False))
    labelme.findings(folder() / "images" / "*.json")


def read_csv(path: Path) -> None:
    """A csv of boxes."""
    (folder() / "images" / "boxes.csv").write_bytes(path.read_bytes())
    csv_boxes.has_boxes(folder() / "images" / "boxes.csv")
    use(csv_boxes.to_coco(folder() / "images" / "boxes.csv", strict=False))


def read_image(path: Path) -> None:
    """An image file: its header, its end and its pixels. UnreadableImage is the refusal, unless memory was short."""
    for reader in (read_size, check_whole, open_image):
        try:
            reader(path)
        except UnreadableImage as error:
            if isinstance(error.__cause__, (MemoryError, RecursionError)):
                raise


def images() -> dict[str, bytes]:
    """One small file of each format, some with EXIF and XMP metadata."""
    exif = Image.Exif()
    exif[0x0112] = 6
    found = {}
    image = Image.radial_gradient("L").resize((24, 16)).convert("RGB")
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    for name, options in {
        "a.jpg": {"exif": exif, "xmp": xmp},
        "b.jpg": {"progressive": True},
        "a.png": {"exif": exif},
        "a.webp": {"exif": exif, "xmp": xmp},
        "a.tif": {"exif": exif, "compression": "tiff_lzw"},
        "b.tif": {},
        "a.gif": {},
        "a.bmp": {},
        "a.ppm": {},
        "a.jp2": {},
        "a.avif": {},
    }.items():
        buffer = io.BytesIO()
        buffer.name = name
        image.save(buffer, **options)
        found[name] = buffer.getvalue()
    buffer = io.BytesIO()
    image.quantize(16).save(buffer, "PNG", transparency=bytes(range(16)))
    return {**found, "palette.png": buffer.getvalue()}


def change_a_text(rng: random.Random, content: bytes) -> bytes:
    """Mutate what stands between two tags, and keep the file valid XML."""
    match = rng.choice(list(re.finditer(rb">([^<>]*)</", content)))
    text = mutate_bytes(rng, match[1] or b"1", [b"0", b"1e5", b"Infinity", b"true", b"0.5"])
    allowed = re.sub(rb"[^\t\n\r -~]", b"", text).replace(b"&", b"&amp;").replace(b"<", b"&lt;")
    return content[: match.start(1)] + allowed + content[match.end(1) :]


@pytest.mark.slow
def test_voc_annotations() -> None:
    report = fuzz(read_xml, {"a.xml": XML}, mutate=change_a_text)
    assert report.cases > 100 and report.read > 0
    assert not report.findings, report


@pytest.mark.slow
def test_yolo_labels_and_descriptions() -> None:
    plain = YAML.replace(b"kpt_shape: [2, 3]\n", b"")
    report = fuzz(read_yolo, {"data.yaml": plain, "pose.yaml": YAML, "a.txt": LABELS})
    assert report.cases > 100 and report.read > 0
    assert not report.findings, report


@pytest.mark.slow
@pytest.mark.parametrize(("target", "name", "content"), [(read_labelme, "a.json", LABELME), (read_csv, "a.csv", CSV)])
def test_labelme_and_csv(target, name, content) -> None:
    report = fuzz(target, {name: content})
    assert report.cases > 100 and report.read > 0
    assert not report.findings, report


@pytest.mark.slow
def test_image_files() -> None:
    """PIL refuses images of more than 179 million pixels; one below may take three bytes per pixel, and a copy."""
    report = fuzz(read_image, images(), memory=2 << 30, hang=60.0)
    assert report.cases > 100 and report.read > 0
    assert not report.findings, report
