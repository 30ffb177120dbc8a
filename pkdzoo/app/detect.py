"""What the demo computes: detections of several detectors in one image, as drawings and rows, with their latency."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pkdzoo.distill.adapters import is_of_other_library
from pkdzoo.inference.result import Result
from pkdzoo.models._factory import create_detector
from pkdzoo.models._registry import folder_of
from pkdzoo.models.detector import Detector
from pkdzoo.utils.files import read_json
from pkdzoo.utils.text import counted

COLUMNS = ("detector", "class", "score", "x1", "y1", "x2", "y2")
LOWEST = 0.01  # detections that are kept for the slider
PLAIN, DISTILLED = "plain", "distilled"  # folders of students in a run of pkdzoo distill
PLAN = "distill.json"


@dataclass(frozen=True)
class Named:
    """A detector with the title of its column."""

    title: str
    model: Detector


def open_all(names: Sequence[str]) -> list[Named]:
    """Open the detectors of the demo.

    Args:
        names: registered names, folders of detectors or runs, ``hf-hub:org/name``; the folder of a run of
            ``pkdzoo distill`` stands for its teacher and its students.

    Raises:
        ValueError: as :func:`pkdzoo.create_detector`.
    """
    found: list[Named] = []
    for name in names:
        folder = folder_of(name)
        if folder is not None and (folder / PLAN).is_file():
            found += _of_a_run(folder)
        else:
            found.append(Named(name.removeprefix("hf-hub:"), create_detector(name, pretrained=True)))
    return found


def _of_a_run(folder: Path) -> list[Named]:
    content = read_json(folder / PLAN)
    try:
        teacher = str(content["recipes"][DISTILLED]["distill"]["teacher"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / PLAN} is not as pkdzoo distill wrote it: {error}") from error
    # a teacher of another library gives maps alone
    found = [] if is_of_other_library(teacher) else [Named("teacher", create_detector(teacher, pretrained=True))]
    for name in (PLAIN, DISTILLED):
        if (folder / name / "recipe.json").is_file():
            found.append(Named(name, create_detector(f"local-dir:{folder / name}")))
    return found


@dataclass(frozen=True)
class Found:
    """Detections of one detector.

    Attributes:
        title: of the detector.
        result: with scores from ``LOWEST`` on.
        milliseconds: that the prediction took.
    """

    title: str
    result: Result
    milliseconds: float


def detect(detectors: Sequence[Named], image: Any) -> list[Found]:
    """Detections of each detector in an image (H, W, 3) uint8 RGB."""
    found = []
    for named in detectors:
        begin = time.perf_counter()
        result = named.model.predict(np.array(image), threshold=LOWEST)
        assert isinstance(result, Result)
        found.append(Found(named.title, result, 1000 * (time.perf_counter() - begin)))
    return found


def show(found: Sequence[Found], threshold: float) -> tuple[list[Any], list[str], list[list[Any]]]:
    """Drawings, captions and rows of the detections above a threshold.

    Args:
        found: of each detector.
        threshold: lowest score, 0..1.

    Returns:
        An RGB array for each detector; a caption with the number of objects and the latency; rows as in ``COLUMNS``.
    """
    drawings, captions, rows = [], [], []
    for one in found:
        drawings.append(np.asarray(one.result.plot(threshold)))
        kept = [detection for detection in zip_detections(one.result) if detection[1] > threshold]
        captions.append(f"{one.title}: {counted(len(kept), 'object')}, {one.milliseconds:.0f} ms")
        rows += [[one.title, name, round(score, 3), *(round(v, 1) for v in box)] for name, score, box in kept]
    return drawings, captions, rows


def zip_detections(result: Result) -> list[tuple[str, float, list[float]]]:
    """Class, score and corners of each detection."""
    return list(zip(result.names, result.scores.tolist(), result.boxes.tolist()))
