"""Labels a folder of images with a detector: its detections become a COCO annotation file, as if people had drawn them.

Nobody has looked at these boxes. ``info`` in the file says so, and names the detector and the threshold.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pkdzoo.data.unlabeled import image_files_in
from pkdzoo.inference.coco_writer import CocoWriter
from pkdzoo.inference.options import LABEL_THRESHOLD
from pkdzoo.inference.result import Result
from pkdzoo.models.detector import Detector
from pkdzoo.utils.files import atomic_path, check_target
from pkdzoo.utils.text import ESCAPED, counted
from pkdzoo.version import __version__

LEAST_SIDE = 1.0  # pixels; training leaves out thinner boxes


@dataclass(frozen=True)
class LabelReport:
    """What was written.

    Attributes:
        output: the annotation file.
        images: labeled images; ``empty`` of them have no box.
        boxes: by class name.
        unreadable: why images could not be read; they are not in the file.
    """

    output: str
    images: int
    empty: int
    boxes: dict[str, int]
    unreadable: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.boxes.items())
        empty = f", {self.empty} of them without a box" if self.empty else ""
        failed = f"; left out, because they could not be read: {len(self.unreadable)}" if self.unreadable else ""
        boxes, images = counted(sum(self.boxes.values()), "box"), counted(self.images, "image")
        return f"{self.output}: {boxes} ({counts}) in {images}{empty}{failed}"


def label(
    folder: str | Path,
    model: Detector,
    output: str | Path,
    threshold: float = LABEL_THRESHOLD,
    name: str = "",
    classes: str | Sequence[str] | None = None,
    batch_size: int = 1,
    progress: bool = False,
) -> LabelReport:
    """Write the detections in all images of a folder as a COCO annotation file, whole or not at all.

    Args:
        folder: of the images, subfolders included; file names in the annotations are relative to it.
        model: any detector, in eval mode.
        output: the file; ``annotations/instances_train.json`` beside ``images/`` makes a data set of it.
        threshold: lowest score of a box, 0..1.
        name: of the detector, for ``info``; empty means ``model.name``.
        classes: names of the only classes to label, or one of them; they are the categories of the file. None means
            all.
        batch_size: images per forward pass.
        progress: show a progress bar on a terminal.

    Returns:
        What was written.

    Raises:
        ValueError: for a folder without images, a file that exists already, an unknown class, and when nothing is
            detected at all.

    Example:
        >>> import tempfile, pkdzoo
        >>> from pathlib import Path
        >>> from pkdzoo.data import make_shapes
        >>> from pkdzoo.dataset_tools.label import label
        >>> root = make_shapes(tempfile.mkdtemp(), train=2, val=1, size=(64, 96))
        >>> model = pkdzoo.create_detector("fcos_r18w24", pretrained=True)
        >>> report = label(root / "train2017", model, root / "labels.json", threshold=0.2)
        >>> report.images, sum(report.boxes.values()) > 0
        (2, True)
        >>> list(label(root / "train2017", model, root / "stars.json", threshold=0.05, classes="star").boxes)
        ['star']
    """
    folder, output = Path(folder), Path(output)
    classes = [classes] if isinstance(classes, str) else classes
    check_output(output)
    names, _ = image_files_in(folder)
    results: Iterable[Result] = model.predict_stream(
        [str(folder / each) for each in names], threshold=threshold, classes=classes, batch_size=batch_size, workers=1
    )
    counts, empty, failed = dict.fromkeys(classes or model.label_names, 0), 0, []
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(output) as temporary, temporary.open("w", encoding="utf-8", errors=ESCAPED) as file:
        writer = CocoWriter(file, model.label_names, folder, about(model, name, threshold), LEAST_SIDE, classes)
        for result in tqdm(results, total=len(names), unit="image", disable=None if progress else True):
            before = writer.annotations
            writer.add(result)
            if result.error is not None:
                failed.append(result.error)
                continue
            empty += writer.annotations == before
            for box, found in zip(result.boxes.tolist(), result.labels.tolist()):
                counts[model.label_names[found]] += min(box[2] - box[0], box[3] - box[1]) >= LEAST_SIDE
        writer.finish()
        if not writer.annotations:
            raise ValueError(
                f"nothing is detected in {writer.images} images with a score of {threshold:g} or more: lower "
                "--threshold, or take a detector of these classes"
            )
    return LabelReport(str(output), writer.images, empty, counts, failed)


def check_output(output: Path) -> None:
    """Check that an annotation file can be written there.

    Raises:
        ValueError: if there is something already, the name is no JSON file's, or nothing can be written there.
    """
    if output.exists() or output.is_symlink():
        raise ValueError(f"{output} exists already and is not overwritten: choose another --output, or move it away")
    if output.suffix != ".json":
        raise ValueError(f"--output {output}: write a name that ends in .json")
    check_target(output)


def about(model: Detector, name: str, threshold: float) -> dict[str, Any]:
    """COCO's ``info`` of such a file."""
    return {
        "description": "boxes of a detector, which nobody has looked at",
        "model": name or model.name,
        "architecture": model.name,
        "threshold": threshold,
        "contributor": f"pkdzoo {__version__}",
        "date_created": time.strftime("%Y-%m-%d", time.gmtime()),
    }
