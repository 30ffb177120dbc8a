"""One small data set in every layout that is read: the same images and boxes, whatever the files around them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = {"train": ("p1", "p2", "p3"), "val": ("p101", "p102")}
BOXES = {"red": (10, 12, 40, 32), "green": (50, 30, 70, 46)}  # edges x1, y1, x2, y2, the same in each image
WIDTH, HEIGHT = 96, 64


def image(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(int(name[1:])).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.png")


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def xml(path: Path, name: str) -> None:
    objects = "".join(
        f"<object><name>{c}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for c, (x1, y1, x2, y2) in BOXES.items()
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    text(path, f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>")


def labelme_json(path: Path, name: str) -> None:
    shapes = [
        {"label": c, "points": [[x2, y1], [x1, y2]], "shape_type": "rectangle"} for c, (x1, y1, x2, y2) in BOXES.items()
    ]
    content = {"shapes": shapes, "imagePath": f"{name}.png", "imageHeight": HEIGHT, "imageWidth": WIDTH}
    text(path, json.dumps(content))


def coco_content(names: tuple[str, ...]) -> dict[str, Any]:
    images = [{"id": k, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for k, n in enumerate(names)]
    categories = [{"id": 2, "name": "red"}, {"id": 1, "name": "green"}]
    rows = [
        {"image_id": k, "category_id": c["id"], "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for k in range(len(names))
        for c in categories
        for x1, y1, x2, y2 in [BOXES[str(c["name"])]]
    ]
    rows = [{"id": k, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0, **r} for k, r in enumerate(rows)]
    return {"images": images, "annotations": rows, "categories": categories}


def csv_of(names: tuple[str, ...]) -> str:
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    lines += [f"{n}.png,{WIDTH},{HEIGHT},{c},{','.join(map(str, box))}" for n in names for c, box in BOXES.items()]
    return "\n".join(lines) + "\n"


def coco(root: Path, val: str = "val") -> None:
    for split, names in NAMES.items():
        name = val if split == "val" else split
        text(root / f"annotations/instances_{name}.json", json.dumps(coco_content(names)))
        for each in names:
            image(root / "images" / name, each)


def labelme_apart(root: Path) -> None:
    per_image(root, labelme_json, ".json", "images/{split}", "annotations/{split}", "val")


def roboflow(root: Path) -> None:
    for split, names in {"train": NAMES["train"], "valid": NAMES["val"]}.items():
        text(root / split / "_annotations.coco.json", json.dumps(coco_content(names)))
        for each in names:
            image(root / split, each)


def per_image(root: Path, writer: Callable[[Path, str], None], suffix: str, images: str, files: str, val: str) -> None:
    for split, names in NAMES.items():
        for each in names:
            folder = val if split == "val" else split
            image(root / images.format(split=folder), each)
            writer(root / files.format(split=folder) / f"{each}{suffix}", each)


def voc(root: Path, val: str = "val") -> None:
    per_image(root, xml, ".xml", "JPEGImages", "Annotations", "val")
    for split, names in NAMES.items():
        text(root / f"ImageSets/Main/{val if split == 'val' else split}.txt", "\n".join(names))


def yolo(root: Path) -> None:
    lines = [
        f"{k} {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} {(x2 - x1) / WIDTH} {(y2 - y1) / HEIGHT}"
        for k, (x1, y1, x2, y2) in enumerate(BOXES[name] for name in ("green", "red"))
    ]
    per_image(root, lambda p, _: text(p, "\n".join(lines)), ".txt", "images/{split}", "labels/{split}", "val")
    text(root / "data.yaml", "train: images/train\nvalid: images/val\nnames: [green, red]\n")


def tensorflow(root: Path, with_xml: bool) -> None:
    per_image(root, xml if with_xml else lambda p, n: None, ".xml", "images/{split}", "images/{split}", "val")
    for split, names in NAMES.items():
        text(root / f"images/{split}_labels.csv" if with_xml else root / f"{split}_labels.csv", csv_of(names))


def csv_beside(root: Path) -> None:
    for split, names in {"train": NAMES["train"], "valid": NAMES["val"]}.items():
        text(root / split / "_annotations.csv", csv_of(names))
        for each in names:
            image(root / split, each)


TREES: dict[str, tuple[str, Callable[[Path], None]]] = {  # format, and a function that writes the data set
    "coco": ("coco", coco),
    "coco_valid": ("coco", lambda root: coco(root, "valid")),
    "coco_dev": ("coco", lambda root: coco(root, "dev")),
    "roboflow": ("roboflow", roboflow),
    "voc": ("voc", voc),
    "voc_validation": ("voc", lambda root: voc(root, "validation")),
    "yolo": ("yolo", yolo),
    "xml_apart": ("xml", lambda r: per_image(r, xml, ".xml", "images/{split}", "annotations/{split}", "validation")),
    "xml_beside": ("xml", lambda r: per_image(r, xml, ".xml", "{split}", "{split}", "valid")),
    "xml_in_splits": ("xml", lambda r: per_image(r, xml, ".xml", "{split}/images", "{split}/annotations", "valid")),
    "xml_with_csv": ("xml", lambda root: tensorflow(root, True)),
    "labelme": ("labelme", lambda r: per_image(r, labelme_json, ".json", "{split}", "{split}", "dev")),
    "labelme_apart": ("labelme", labelme_apart),
    "csv": ("csv", lambda root: tensorflow(root, False)),
    "csv_beside": ("csv", csv_beside),
}  # fmt: skip


def write(name: str, root: Path) -> Path:
    """Write the data set in a layout; returns its folder."""
    TREES[name][1](root)
    return root
