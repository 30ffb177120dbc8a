"""Writes detections as a COCO annotation file, image by image, without a list of them in memory."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from pycocotools import mask as coco_mask

from pkdzoo.data.labels import coco_ids
from pkdzoo.inference.result import Result
from pkdzoo.utils.text import ESCAPED


class CocoWriter:
    """Writes a complete COCO annotation file with scores, which can be loaded as a data set.

    Annotations are written at once; the records of images are kept in a temporary file until :meth:`finish`. A frame
    of a video is called ``VIDEO#NUMBER`` and has the further fields ``frame`` and ``time``. Image ids are counted here,
    so every annotation has the name of its image as well, by which ``pkdzoo eval`` finds it in a data set.

    Args:
        file: to write to.
        label_names: the detector's classes.
        root: folder that file names are relative to; None writes the paths as they are.
        info: COCO's section ``info``, JSON values; None writes none.
        least_side: boxes with a shorter side, in pixels, are left out.
        classes: names of the classes that the file has as categories; None means all. Others must not be detected.

    Attributes:
        images, annotations: numbers of what was written.
    """

    def __init__(
        self,
        file: TextIO,
        label_names: tuple[str, ...],
        root: Path | None = None,
        info: Mapping[str, Any] | None = None,
        least_side: float = 0.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.file, self.label_names = file, label_names
        self.root, self.info, self.least_side = root, info, least_side
        self.classes = frozenset(label_names if classes is None else classes)
        self.ids = coco_ids(label_names) or {label: label + 1 for label in range(len(label_names))}
        self.image_records = tempfile.TemporaryFile("w+", encoding="utf-8", errors=ESCAPED)  # noqa: SIM115 - closed by finish()
        self.images = self.annotations = 0
        file.write('{"annotations": [')

    def add(self, result: Result) -> None:
        """Write the detections of an image; unreadable images have no size and are left out."""
        if result.error is not None:
            return
        self.images += 1
        height, width = result.size
        path = result.path if self.root is None else Path(str(result.path)).relative_to(self.root).as_posix()
        record: dict[str, Any] = {"id": self.images, "file_name": path, "height": height, "width": width}
        if result.frame is not None:
            record |= {"file_name": f"{result.path}#{result.frame}", "frame": result.frame, "time": result.time}
        self.image_records.write((",\n" if self.images > 1 else "\n") + json.dumps(record, ensure_ascii=False))
        for row in result.to_coco(self.images, self.ids):
            if min(row["bbox"][2:]) < self.least_side:
                continue
            self.annotations += 1
            mask = row.get("segmentation")
            area = row["bbox"][2] * row["bbox"][3] if mask is None else float(coco_mask.area(mask))
            name = record["file_name"]
            text = json.dumps(
                {"id": self.annotations, **row, "area": area, "iscrowd": 0, "file_name": name}, ensure_ascii=False
            )
            self.file.write(("\n" if self.annotations == 1 else ",\n") + text)

    def finish(self) -> None:
        """Write the images, the classes and ``info``."""
        named = [(label, name) for label, name in enumerate(self.label_names) if name in self.classes]
        categories = [{"id": self.ids[label], "name": name} for label, name in named]
        self.file.write(f'\n], "categories": {json.dumps(categories, ensure_ascii=False)}, "images": [')
        self.image_records.seek(0)
        shutil.copyfileobj(self.image_records, self.file)
        end = "" if self.info is None else f', "info": {json.dumps(dict(self.info), ensure_ascii=False)}'
        self.file.write(f"\n]{end}}}\n")
        self.image_records.close()
