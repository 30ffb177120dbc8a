"""Files that detections go into while they are found: JSON lines, COCO's format, annotated images and videos.

None of them holds a list in memory: what COCO's format wants at the end waits on the disk.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from pycocotools import mask as coco_mask

from pkdzoo.cli.common import ESCAPED
from pkdzoo.data.labels import coco_ids
from pkdzoo.inference.result import Result
from pkdzoo.inference.video import VideoWriter, frame_rate, is_video, writing_video
from pkdzoo.inference.web import is_link, path_in
from pkdzoo.utils.files import atomic_path

DRAWN_AS = (".jpg", ".jpeg", ".png", ".webp")  # other images are drawn as PNG

# -- detections --------------------------------------------------------------------------------------------------


class Lines:
    """One JSON object an image, one image a line."""

    def __init__(self, file: TextIO, label_names: tuple[str, ...]) -> None:
        self.file = file

    def add(self, result: Result) -> None:
        """Write an image's line."""
        self.file.write(json.dumps(result.to_json(), ensure_ascii=False) + "\n")
        self.file.flush()

    def end(self) -> None:
        """Nothing more to write."""


class Coco:
    """A whole COCO file whose annotations have scores; it loads as a data set, and its annotations are results.

    Annotations are written as they come; records of images wait in a temporary file until the end. A frame of a
    video is ``VIDEO#NUMBER``, with ``frame`` and ``time`` beside it.
    """

    def __init__(self, file: TextIO, label_names: tuple[str, ...]) -> None:
        self.file, self.label_names = file, label_names
        self.ids = coco_ids(label_names) or {label: label + 1 for label in range(len(label_names))}
        self.waiting = tempfile.TemporaryFile("w+", encoding="utf-8", errors=ESCAPED)  # noqa: SIM115 - lives until end()
        self.images = self.rows = 0
        file.write('{"annotations": [')

    def add(self, result: Result) -> None:
        """Write an image's detections; one that could not be read has no size and is left out."""
        if result.error is not None:
            return
        self.images += 1
        height, width = result.size
        record: dict[str, Any] = {"id": self.images, "file_name": result.path, "height": height, "width": width}
        if result.frame is not None:
            record |= {"file_name": f"{result.path}#{result.frame}", "frame": result.frame, "time": result.time}
        self.waiting.write((",\n" if self.images > 1 else "\n") + json.dumps(record, ensure_ascii=False))
        for row in result.to_coco(self.images, self.ids):
            self.rows += 1
            runs = row.get("segmentation")
            area = row["bbox"][2] * row["bbox"][3] if runs is None else float(coco_mask.area(runs))
            text = json.dumps({"id": self.rows, **row, "area": area, "iscrowd": 0})
            self.file.write(("\n" if self.rows == 1 else ",\n") + text)

    def end(self) -> None:
        """Write images and classes."""
        categories = [{"id": self.ids[label], "name": name} for label, name in enumerate(self.label_names)]
        self.file.write(f'\n], "categories": {json.dumps(categories, ensure_ascii=False)}, "images": [')
        self.waiting.seek(0)
        shutil.copyfileobj(self.waiting, self.file)
        self.file.write("\n]}\n")
        self.waiting.close()


@contextmanager
def writing(path: Path, label_names: tuple[str, ...]) -> Iterator[Lines | Coco]:
    """The writer of a file of detections. Lines stand in their file at once; a COCO file appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8", errors=ESCAPED) as file:
            yield Lines(file, label_names)
        return
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors=ESCAPED) as file:
        writer = Coco(file, label_names)
        yield writer
        writer.end()


# -- annotated images ------------------------------------------------------------------------------------------


def drawing_places(paths: list[str], folder: Path) -> dict[str, Path]:
    """Where the annotated image or video of each path goes; the folder is made.

    Raises:
        ValueError: an annotated image would replace an image that is read.
    """
    sources = {Path(path).resolve() for path in paths if not is_link(path)}
    places: dict[str, Path] = {}
    taken: set[str] = set()
    for path in paths:
        told = Path(path_in(path) if is_link(path) else path)
        stem, suffix = told.stem or "image", told.suffix
        suffix = suffix if suffix.lower() in DRAWN_AS else ".mp4" if is_video(path) and not is_link(path) else ".png"
        name, again = f"{stem}{suffix}", 2
        while name.lower() in taken:  # some file systems take A and a for one
            name, again = f"{stem}_{again}{suffix}", again + 1
        taken.add(name.lower())
        places[path] = folder / name
        if places[path].resolve() in sources:
            raise ValueError(f"--output {folder} would overwrite {path}: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    return places


class Drawings(ExitStack):
    """Annotated images, and annotated videos frame by frame: one at a time is open.

    Args:
        places: as :func:`drawing_places` gives them.
        every: of a video, only each so many-th frame comes; it plays as fast as the original.
    """

    def __init__(self, places: dict[str, Path], every: int = 1) -> None:
        super().__init__()
        self.places, self.every = places, every
        self.open: str | None = None
        self.video: VideoWriter | None = None

    def add(self, result: Result) -> None:
        """Draw what was found; the threshold has been applied."""
        assert result.path is not None
        if result.frame is None:
            return result.save(self.places[result.path], threshold=0.0)
        if self.open != result.path:
            self.close()
            place, rate = self.places[result.path], frame_rate(result.path) / self.every
            self.video = self.enter_context(writing_video(place, rate))
            self.open = result.path
        assert self.video is not None
        self.video.add(result.plot(threshold=0.0))
