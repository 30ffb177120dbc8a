"""Writers of detections: JSON lines, COCO's format, annotated images and videos.

They write image by image and keep no list in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TextIO

from pkdzoo.inference.coco_writer import CocoWriter
from pkdzoo.inference.result import Result
from pkdzoo.inference.video import VideoWriter, frame_rate, is_video, writing_video
from pkdzoo.inference.web import is_link, path_in
from pkdzoo.utils.files import atomic_path, check_target
from pkdzoo.utils.text import ESCAPED

DRAWING_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # drawings of other images are PNG

# -- detections --------------------------------------------------------------------------------------------------


class DetectionWriter(Protocol):
    """Writes the detections of one image after another."""

    def add(self, result: Result) -> None:
        """Write the detections of one image."""
        ...


class JsonLinesWriter:
    """Writes one JSON object per image, each on its own line."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def add(self, result: Result) -> None:
        """Write the line of an image."""
        self.file.write(json.dumps(result.to_json(), ensure_ascii=False) + "\n")
        self.file.flush()


@contextmanager
def open_detection_writer(path: Path, label_names: tuple[str, ...]) -> Iterator[DetectionWriter]:
    """Open the writer of a ``.jsonl`` or COCO ``.json`` file.

    JSON lines can be read while they are written; a COCO file is created atomically at the end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8", errors=ESCAPED) as file:
            yield JsonLinesWriter(file)
        return
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors=ESCAPED) as file:
        writer = CocoWriter(file, label_names)
        yield writer
        writer.finish()


# -- annotated images ------------------------------------------------------------------------------------------


def drawing_paths(paths: list[str], folder: Path) -> dict[str, Path]:
    """Choose the file of the annotated image or video of each path.

    Raises:
        ValueError: if an annotated image would overwrite an input, or the folder cannot be written to.
    """
    check_target(folder, folder=True)
    sources = {Path(path).resolve() for path in paths if not is_link(path)}
    outputs: dict[str, Path] = {}
    taken: set[str] = set()
    for path in paths:
        source = Path(path_in(path) if is_link(path) else path)
        stem, suffix = source.stem or "image", source.suffix
        suffix = (
            suffix if suffix.lower() in DRAWING_SUFFIXES else ".mp4" if is_video(path) and not is_link(path) else ".png"
        )
        name, number = f"{stem}{suffix}", 2
        while name.lower() in taken:  # some file systems ignore case
            name, number = f"{stem}_{number}{suffix}", number + 1
        taken.add(name.lower())
        outputs[path] = folder / name
        if outputs[path].resolve() in sources:
            raise ValueError(f"--output {folder} would overwrite {path}: choose another folder")
    return outputs


class DrawingWriter(ExitStack):
    """Writes annotated images, and annotated videos frame by frame; one video at a time is open. Creates the folder.

    Args:
        paths: output by input, from :func:`drawing_paths`.
        every: the results are of every so many-th frame of a video; its frame rate is divided by this.
    """

    def __init__(self, paths: dict[str, Path], every: int = 1) -> None:
        super().__init__()
        self.paths, self.every = paths, every
        for folder in {path.parent for path in paths.values()}:
            folder.mkdir(parents=True, exist_ok=True)
        self.open: str | None = None
        self.video: VideoWriter | None = None

    def add(self, result: Result) -> None:
        """Draw the detections, all of them: the threshold has been applied before."""
        assert result.path is not None
        if result.frame is None:
            return result.save(self.paths[result.path], threshold=0.0)
        if self.open != result.path:
            self.close()
            path, rate = self.paths[result.path], frame_rate(result.path) / self.every
            self.video = self.enter_context(writing_video(path, rate))
            self.open = result.path
        assert self.video is not None
        self.video.add(result.plot(threshold=0.0), result.time)
