"""What a report says about detections: the verdict with its uncertainty, precision and recall, errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pkdzoo.evaluation.ground_truth import AnnotationFile
from pkdzoo.evaluation.matches import Difference, Matches, paired_difference
from pkdzoo.evaluation.saved_detections import SavedDetections
from pkdzoo.evaluation.thresholds import best_thresholds
from pkdzoo.training.report.contenders import DISTILLED, PLAIN, TEACHER, Contender
from pkdzoo.utils.text import counted


@dataclass
class Measured:
    """Contenders whose detections are of the same images, beside their objects.

    Attributes:
        truth: the annotations.
        objects: columns of all objects.
        images: folder of the images.
        rows: contenders with their matches.
        left_out: sentences on contenders that cannot be compared.
    """

    truth: AnnotationFile
    objects: dict[str, Any]
    images: Path
    rows: list[tuple[Contender, Matches]]
    left_out: list[str]

    def first(self, role: str) -> tuple[Contender, Matches] | None:
        """The first contender of a role."""
        return next((row for row in self.rows if row[0].role == role), None)

    @property
    def main(self) -> tuple[Contender, Matches]:
        """The contender that the report is about: the distilled student, else the last one."""
        return self.first(DISTILLED) or self.rows[-1]


def measure(contenders: Sequence[Contender]) -> Measured | None:
    """Match the detections of all contenders with the objects of their validation set; None where there are none.

    The annotations are read where the evaluation read them. If they are gone, the report has no curves and no gallery.
    """
    with_detections = [(c, c.detections) for c in contenders if c.detections is not None]
    readable = [(c, d) for c, d in with_detections if _exists(d.annotations)]
    if not readable:
        return None
    first: SavedDetections = readable[-1][1]
    truth = AnnotationFile(first.annotations)
    objects = truth.ground_truth()
    ids = set(np.asarray(truth.image_ids).tolist())
    rows, left_out = [], []
    for contender, detections in with_detections:
        other = set(detections.state["image_ids"].tolist()) - ids
        if other or detections.annotations != first.annotations:
            left_out.append(f"{contender.title} was evaluated on {detections.annotations}, and is not compared")
            continue
        rows.append((contender, detections.matches(truth, objects)))
    return Measured(truth, objects, first.images, rows, left_out)


def _exists(annotations: Path) -> bool:
    return annotations.exists() or annotations.parent.exists()  # of YOLO, data.yaml/SPLIT is no file


def best_f1(measured: Measured, matches: Matches) -> Mapping[str, Any] | None:
    """Threshold, precision, recall and F1 where F1 over all classes is highest; None if nothing is right."""
    truth = measured.truth
    found = best_thresholds(measured.objects, matches.found, truth.label_names, truth.label_to_coco_id)
    best: Mapping[str, Any] | None = found["all"]
    return best


def difference(measured: Measured) -> Difference | None:
    """AP of the distilled minus that of the plain student."""
    plain, distilled = measured.first(PLAIN), measured.first(DISTILLED)
    return None if plain is None or distilled is None else paired_difference(distilled[1], plain[1])


def gap_closed(contenders: Sequence[Contender]) -> float | None:
    """Share of the gap from plain student to teacher that distillation closes; None without a gap."""
    aps = {c.role: c.metrics.get("AP") for c in reversed(contenders)}
    teacher, plain, distilled = (aps.get(role) for role in (TEACHER, PLAIN, DISTILLED))
    if teacher is None or plain is None or distilled is None or teacher <= plain:
        return None
    return float((distilled - plain) / (teacher - plain))


def verdict(contenders: Sequence[Contender], found: Difference | None, images: int) -> str:
    """The result in a few sentences, with what they do not show."""
    aps: dict[str, float] = {}
    for contender in contenders:
        if contender.metrics.get("AP") is not None:
            aps.setdefault(contender.role, float(contender.metrics["AP"]))
    if not aps:
        return "No evaluation yet: the numbers follow with the first one."
    if DISTILLED not in aps or PLAIN not in aps or found is None:
        name = DISTILLED if DISTILLED in aps else next(reversed(aps))
        text = f"The {name} {'student ' if name == DISTILLED else 'detector ' if name == PLAIN else ''}reaches AP "
        text += f"{aps[name]:.1f}."
        if DISTILLED in aps and PLAIN not in aps:
            text += " Whether the teacher helped is not known: train the plain student as well, with --baseline."
        return text
    text = f"The distilled student reaches AP {aps[DISTILLED]:.1f}, the plain one {aps[PLAIN]:.1f}: "
    interval = (
        f"{found.value:+.1f} (95 % interval {found.low:+.1f} to {found.high:+.1f}, bootstrap over "
        f"{counted(images, 'image')})"
    )
    if found.shows:
        text += f"{interval}, so that distillation {'helped' if found.value > 0 else 'hurt'} on these images. "
    else:
        text += f"{interval}, so that these images show no difference. "
    closed = gap_closed(contenders)
    if closed is not None and closed > 1:
        text += f"It passes the teacher (AP {aps[TEACHER]:.1f}). "
    elif closed is not None and closed <= 0:
        text += f"It closes nothing of the gap to the teacher (AP {aps[TEACHER]:.1f}). "
    elif closed is not None:
        text += f"It closes {closed:.0%} of the gap to the teacher (AP {aps[TEACHER]:.1f}). "
    elif TEACHER in aps:
        text += f"The teacher has AP {aps[TEACHER]:.1f} and is not better than the plain student. "
    seeds = {c.recipe.get("seed") for c in contenders if c.role != TEACHER}
    if len(seeds) == 1:
        text += "The interval is about the images alone: runs with another seed may differ by as much."
    return text.strip()


def precision_curve(matches: Matches, label: int | None = None) -> list[tuple[float, float]]:
    """Recall and precision in percent at IoU 0.5, of one class or the mean over classes."""
    precision = matches.precision[0]
    known = ~np.isnan(precision).all(axis=0)
    if label is not None:
        values = precision[:, label]
    else:
        values = precision[:, known].mean(axis=1) if known.any() else np.full(len(precision), np.nan)
    return [(float(k), 100 * float(v)) for k, v in enumerate(values) if not np.isnan(v)]
