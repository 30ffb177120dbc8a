"""Write BCCD or DeepPCB, as their authors publish them, in the form in which the experiments read them: COCO's.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python recipes/experiments/prepare_data.py BCCD_Dataset --output bccd
    git clone https://github.com/tangsanli5201/DeepPCB
    python recipes/experiments/prepare_data.py DeepPCB --output deeppcb

The annotation files are the same, byte for byte, as those of the published results, so that runs of both can be put
into one table. The script says so, or which file differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the folder that holds recipes/

from pkdzoo.data.formats.voc_xml import parse, text_of
from pkdzoo.data.image_files import read_size
from pkdzoo.training.errors import describe_error

Box = tuple[int, int, int, int, int]  # class, counted from 1, and x, y, width, height in pixels
Image = tuple[Path, list[Box]]
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Source:
    """A published data set.

    Attributes:
        name: of the data set.
        commit: of its repository, of which the published results are.
        license: as its repository states it.
        convention: how its boxes became COCO's, for the annotation file.
        classes: names, in the order of their numbers.
        sha256: of the annotation file of each split.
    """

    name: str
    commit: str
    license: str
    convention: str
    classes: tuple[str, ...]
    sha256: dict[str, str]


CONTINUOUS = "bbox = [x, y, w, h] in continuous pixels, image spans [0,W]x[0,H]. "
BCCD = Source(
    "bccd",
    "github.com/Shenggan/BCCD_Dataset@d272fb14cdff6e473fafeeeba32aba5f560e9e43",
    "MIT (c) 2017 shenggan)",
    f"{CONTINUOUS}From VOC/labelImg corners (1-based, inclusive): x=xmin-1, y=ymin-1, w=xmax-xmin+1, h=ymax-ymin+1 "
    "(detectron2 convention; inverse is exact). All values are integers.",
    ("RBC", "WBC", "Platelets"),
    {
        "train": "ed1f339d5ea7c5afc49978b06e8944255cbdbe794a55cfee215546d34703ea1d",
        "val": "7b8c73a27290632bd03308753b11fc47dfb9006d5d693846e1b84d20a2a84d36",
        "test": "0be335aec7b8a2d40bec5fad40438add6c1e6049f1dc1aa7d3a4eadf6140c74b",
    },
)
DEEPPCB = Source(
    "deeppcb",
    "github.com/tangsanli5201/DeepPCB@08e98c4db5922613fb97176eb3d6497d48260cb1",
    'MIT file (c) 2018 tangsanli5201; README adds "research purpose" only',
    f"{CONTINUOUS[:-2]}; x=x1, y=y1, w=x2-x1, h=y2-y1, no +-1 shift.",
    ("open", "short", "mousebite", "spur", "copper", "pin-hole"),
    {
        "train": "acd4ad3ae7c32d1298ca8bb8c1afee368ddea6798d53f07aab16ab4e670d677f",
        "val": "2637fa1dfa3c90a91841a59620567c9880a7156ec6005c483f7a0b9a6dec463d",
    },
)


def bccd_images(clone: Path, split: str) -> Iterator[Image]:
    """Image files and boxes of a split of BCCD; objects of width 0 are left out, as in the published results."""
    folder = clone / "BCCD"
    for name in sorted((folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split()):
        boxes = []
        for item in parse(folder / "Annotations" / f"{name}.xml").iter("object"):
            corners = item.find("bndbox")
            if corners is None:
                raise ValueError(f"{name}.xml: an object has no bndbox")
            x1, y1, x2, y2 = (int(text_of(corners, corner)) for corner in CORNERS)
            if x2 > x1 and y2 > y1:
                number = BCCD.classes.index(text_of(item, "name")) + 1
                boxes.append((number, x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1))
        yield folder / "JPEGImages" / f"{name}.jpg", boxes


def deeppcb_images(clone: Path, split: str) -> Iterator[Image]:
    """Image files and boxes of a split of DeepPCB, whose lines are ``x1 y1 x2 y2 class``."""
    folder = clone / "PCBData"
    for line in (folder / {"train": "trainval.txt", "val": "test.txt"}[split]).read_text().splitlines():
        if not line.strip():
            continue
        image, annotations = line.split()
        rows = (folder / annotations).read_text().replace(",", " ").splitlines()
        numbers = [tuple(map(int, row.split())) for row in rows if row.strip()]
        boxes = [(number, x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2, number in numbers]
        yield (folder / image).with_name(f"{Path(image).stem}_test.jpg"), boxes


READERS = {"BCCD/ImageSets": (BCCD, bccd_images), "PCBData/trainval.txt": (DEEPPCB, deeppcb_images)}


def prepare(clone: Path, output: Path) -> dict[str, bool]:
    """Write all splits; whether each annotation file is the one of the published results.

    Raises:
        ValueError: the folder is neither data set, or a file of it is not as published.
        OSError: a file is missing, or the output folder exists.
    """
    places = [place for place in READERS if (clone / place).exists()]
    if not places:
        raise ValueError(f"{clone} is no clone of BCCD_Dataset or DeepPCB: it has neither of {', '.join(READERS)}")
    source, images_of = READERS[places[0]]
    (output / "annotations").mkdir(parents=True)
    (output / "images").mkdir()
    same, image_id, box_id = {}, 1, 1
    for split, expected in source.sha256.items():
        content = heading(source, split)
        for file, boxes in images_of(clone, split):
            height, width = read_size(file)
            entry = {"id": image_id, "file_name": file.name, "width": width, "height": height, "license": 1}
            content["images"].append(entry)
            for number, *box in boxes:
                content["annotations"].append(annotation(box_id, image_id, number, box))
                box_id += 1
            image_id += 1
            shutil.copyfile(file, output / "images" / file.name)
        written = json.dumps(content, separators=(",", ":")).encode()
        (output / "annotations" / f"instances_{split}.json").write_bytes(written)
        same[split] = hashlib.sha256(written).hexdigest() == expected
    return same


def heading(source: Source, split: str) -> dict[str, Any]:
    """An annotation file without images."""
    stated = {"source": source.commit, "license": source.license, "box_convention": source.convention}
    return {
        "info": {"description": f"{source.name}: {split}", **stated},
        "licenses": [{"id": 1, "name": source.license, "url": "https://opensource.org/license/mit"}],
        "categories": [
            {"id": number, "name": name, "supercategory": source.name}
            for number, name in enumerate(source.classes, start=1)
        ],
        "images": [],
        "annotations": [],
    }


def annotation(box_id: int, image_id: int, number: int, box: list[int]) -> dict[str, Any]:
    """An object as COCO writes it."""
    ids = {"id": box_id, "image_id": image_id, "category_id": number}
    return {**ids, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "segmentation": []}


def main(argv: list[str] | None = None) -> None:
    """Write a data set, and say whether it is that of the published results.

    Raises:
        SystemExit: with a message when it cannot be written, or differs.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, help="clone of the data set's repository")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new folder of the data set")
    args = parser.parse_args(argv)
    try:
        same = prepare(args.clone, args.output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {describe_error(error)}")
    differing = [split for split, equal in same.items() if not equal]
    if differing:
        sys.exit(
            f"error: {', '.join(differing)} of {args.output} differ from the data of the published results; clone the "
            f"commit that recipes/experiments/prepare_data.py names"
        )
    print(f"wrote {args.output}: {', '.join(same)}, the data of the published results")


if __name__ == "__main__":
    main()
