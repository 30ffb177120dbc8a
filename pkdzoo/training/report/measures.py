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
from pkdzoo.training.report.contenders import PLAIN, TEACHER, Contender
from pkdzoo.training.report.pairs import Pair, pair_students
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
        pair: distilled and plain student; None without a distilled one.
    """

    truth: AnnotationFile
    objects: dict[str, Any]
    images: Path
    rows: list[tuple[Contender, Matches]]
    left_out: list[str]
    pair: Pair | None

    def row(self, contender: Contender | None) -> tuple[Contender, Matches] | None:
        """A contender with its matches; None where it cannot be compared."""
        return next((row for row in self.rows if row[0] is contender), None)

    @property
    def distilled(self) -> tuple[Contender, Matches] | None:
        """The distilled student of the pair."""
        return self.row(self.pair.distilled) if self.pair else None

    @property
    def plain(self) -> tuple[Contender, Matches] | None:
        """The plain student of the pair."""
        return self.row(self.pair.plain) if self.pair else None

    @property
    def main(self) -> tuple[Contender, Matches]:
        """The contender that the report is about: the distilled student, else the last one."""
        return self.distilled or self.rows[-1]


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
    return Measured(truth, objects, first.images, rows, left_out, pair_students(contenders))


def _exists(annotations: Path) -> bool:
    return annotations.exists() or annotations.parent.exists()  # of YOLO, data.yaml/SPLIT is no file


def best_f1(measured: Measured, matches: Matches) -> Mapping[str, Any] | None:
    """Threshold, precision, recall and F1 where F1 over all classes is highest; None if nothing is right."""
    truth = measured.truth
    found = best_thresholds(measured.objects, matches.found, truth.label_names, truth.label_to_coco_id)
    best: Mapping[str, Any] | None = found["all"]
    return best


def difference(measured: Measured) -> Difference | None:
    """AP of the distilled minus that of its plain student; None without one."""
    plain, distilled = measured.plain, measured.distilled
    return None if plain is None or distilled is None else paired_difference(distilled[1], plain[1])


def verdict(contenders: Sequence[Contender], found: Difference | None, images: int) -> str:
    """The result in a few sentences, with what they do not show."""
    evaluated = [contender for contender in contenders if contender.metrics.get("AP") is not None]
    if not evaluated:
        return "No evaluation yet: the numbers follow with the first one."
    pair = pair_students(contenders)
    if pair is None:
        last = evaluated[-1]
        return f"The {last.role}{' detector' if last.role == PLAIN else ''} reaches AP {last.metrics['AP']:.1f}."
    text = f"The distilled student reaches AP {pair.ap:.1f}"
    if pair.plain_ap is None or found is None:
        unknown = f" Whether the teacher helped is not known: {pair.reason}." if pair.reason else ""
        return f"{text}.{unknown}"
    text += f", the plain one {pair.plain_ap:.1f}: {found.value:+.1f} (95 % interval {found.low:+.1f} to "
    text += f"{found.high:+.1f}, bootstrap over {counted(images, 'image')}), so that "
    if found.shows:
        text += f"distillation {'helped' if found.value > 0 else 'hurt'} on these images. "
    else:
        text += "these images show no difference. "
    text += _about_gap(pair)
    text += "".join(f"But {doubt}. " for doubt in pair.doubts)
    seeds = {c.recipe.get("seed") for c in contenders if c.role != TEACHER}
    if len(seeds) == 1:
        text += "The interval is about the images alone: runs with another seed may differ by as much."
    return text.strip()


def _about_gap(pair: Pair) -> str:
    """A sentence on the gap from plain student to teacher; empty if the teacher's AP is not known."""
    if pair.teacher_ap is None:
        return ""
    closed, teacher = pair.gap_closed, f"teacher (AP {pair.teacher_ap:.1f})"
    if closed is None:
        return f"The teacher has AP {pair.teacher_ap:.1f} and is not better than the plain student. "
    if closed > 1:
        return f"It passes the {teacher}. "
    return f"It closes {f'{closed:.0%}' if closed > 0 else 'nothing'} of the gap to the {teacher}. "


def precision_curve(matches: Matches, label: int | None = None) -> list[tuple[float, float]]:
    """Recall and precision in percent at IoU 0.5, of one class or the mean over classes."""
    precision = matches.precision[0]
    known = ~np.isnan(precision).all(axis=0)
    if label is not None:
        values = precision[:, label]
    else:
        values = precision[:, known].mean(axis=1) if known.any() else np.full(len(precision), np.nan)
    return [(float(k), 100 * float(v)) for k, v in enumerate(values) if not np.isnan(v)]
