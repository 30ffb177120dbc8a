"""The report of ``check``: counts and findings, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from pkdzoo.utils.text import counted

EXAMPLES = 5  # examples kept per finding
CLASSES_SHOWN = 30  # rows of the class table


@dataclass
class Finding:
    """A kind of problem that was found: an error, or a warning.

    Attributes:
        what: description.
        count: number of cases.
        error: True where training or evaluation would fail or be wrong; False for a warning.
        examples: the first cases.
    """

    what: str
    count: int
    error: bool
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        more = ["..."] if self.count > len(self.examples) else []
        return "\n           ".join(
            [f"  {'ERROR' if self.error else 'check'}  {self.what}: {self.count}", *self.examples, *more]
        )


def make_finding(what: str, examples: Iterable[str], error: bool) -> Finding:
    """A finding that counts all examples and keeps the first of them."""
    cases = list(examples)
    return Finding(what, len(cases), error, cases[:EXAMPLES])


@dataclass
class SplitReport:
    """Counts of one split.

    Attributes:
        split: name of the split.
        annotations, image_dir: paths.
        images, boxes: number of records.
        empty: number of images without a box.
        classes: boxes and images of each class, in the order of the labels.
        image_sides: smallest and largest (width, height) in pixels.
        boxes_per_image: mean and largest number.
        box_sides: 1st, 50th and 99th percentile of the square root of the box area, in pixels.
        areas: boxes below 32 x 32 pixels, in between, and from 96 x 96 on, as in COCO's evaluation.
        overlaps: boxes that overlap another one of their class by more than 0.5, 0.7 and 0.9 (IoU). NMS at such a
            threshold removes objects even of a perfect detector.
        findings: problems and warnings.
    """

    split: str
    annotations: str
    image_dir: str
    images: int = 0
    boxes: int = 0
    empty: int = 0
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    image_sides: dict[str, tuple[int, int]] = field(default_factory=dict)
    boxes_per_image: dict[str, float] = field(default_factory=dict)
    box_sides: dict[str, float] = field(default_factory=dict)
    areas: dict[str, int] = field(default_factory=dict)
    overlaps: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def add(self, *findings: Finding) -> None:
        """Add the findings that have at least one case."""
        self.findings += [f for f in findings if f.count]

    def __str__(self) -> str:
        counts = [counted(self.images, "image"), counted(self.boxes, "box"), counted(len(self.classes), "class")]
        lines = [f"{self.split}: {', '.join(counts)}"]
        if self.boxes:
            low, high = (" x ".join(map(str, self.image_sides[key])) for key in ("smallest", "largest"))
            per = self.boxes_per_image
            side, area = self.box_sides, self.areas
            lines += [
                f"  image size      {low}" + (f" to {high} pixels" if high != low else " pixels"),
                f"  boxes per image {per['mean']:.1f} on average, {per['largest']:.0f} at most, {self.empty} without",
                f"  box side        {side['1%']:.0f} / {side['50%']:.0f} / {side['99%']:.0f} pixels (1%, median, 99%)",
                f"  box area        {area['small']} below 32 x 32, {area['medium']} to 96 x 96, {area['large']} above",
                "  overlap         " + ", ".join(f"{n} over {at}" for at, n in self.overlaps.items()) + " (same class)",
                *self._class_lines(),
            ]
        return "\n".join(lines + [str(f) for f in self.findings])

    def _class_lines(self) -> list[str]:
        """Table of the classes by number of boxes; classes without any are a finding instead."""
        ranked = sorted((item for item in self.classes.items() if item[1]["boxes"]), key=lambda item: -item[1]["boxes"])
        width = max([5, *(len(name) for name, _ in ranked)])
        rows = [f"  {name:<{width}}  {n['boxes']:>8}  {n['images']:>8}" for name, n in ranked]
        if len(rows) > CLASSES_SHOWN:
            rows = [*rows[:20], f"  ({len(rows) - CLASSES_SHOWN} more)", *rows[20 - CLASSES_SHOWN :]]
        return [f"  {'class':<{width}}  {'boxes':>8}  {'images':>8}", *rows]


@dataclass
class CheckReport:
    """Result of ``check``: ``print(report)`` shows it as text, ``report.to_dict()`` gives JSON.

    Attributes:
        folder: the data set.
        format: a key of ``pkdzoo.data.formats.read.TABLE``, e.g. ``coco``.
        splits: one report per split.
        findings: findings about the data set as a whole, e.g. images that two splits share.
    """

    folder: str
    format: str
    splits: list[SplitReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, *findings: Finding) -> None:
        """Add the findings that have at least one case."""
        self.findings += [f for f in findings if f.count]

    @property
    def errors(self) -> int:
        """Number of problems with which training or evaluation would fail or be wrong."""
        findings = [*self.findings, *(f for split in self.splits for f in split.findings)]
        return sum(f.count for f in findings if f.error)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, ready for ``json.dump``."""
        return {**asdict(self), "errors": self.errors}

    def __str__(self) -> str:
        parts = [f"{self.folder} ({self.format})", *map(str, self.splits)]
        if self.findings:
            parts.append("\n".join(["all splits", *map(str, self.findings)]))
        parts.append(f"errors: {self.errors}")
        return "\n\n".join(parts)
