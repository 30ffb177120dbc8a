"""Small folders in YOLO's layout."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from pkdzoo.data.formats import yolo

PLAIN = "train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n"


def write_yolo(root: Path, labels: dict[str, str | None], text: str = PLAIN, folder: str = "images/train") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(text)
    for name, lines in labels.items():
        image = root / folder / f"{name}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 40)).save(image)
        if lines is not None:
            file = yolo.label_file(image)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(lines)
    return root


def read(root: Path, split: str = "train") -> dict:
    return yolo.to_coco(root / "data.yaml" / split)
