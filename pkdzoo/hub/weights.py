"""The rows of the zoo: sets of weights with their sources and published numbers, and pairs of student and teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pkdzoo.utils.text import counted


@dataclass(frozen=True)
class Weights:
    """One published or packaged set of weights; its numbers are stored here only.

    Attributes:
        tag: the part of a name after the dot.
        url: link of a file, or of a web page if ``direct`` is False.
        hub_id: repository on the Hub.
        file: file name in the package's ``weights`` folder, for packaged weights.
        sha256: the known first digits of the file's hash; all 64 where a source publishes them.
        metrics: ``AP``, ``AP50`` etc. on the validation split, in percent, and ``per_class`` by class name, if known.
        source: where the metrics are published, or the command that measured them.
        license: license of the weights.
        labels: class names, or the name of a known set of classes, e.g. "coco".
        recipe: file below ``recipes/`` that trains them.
        launch: the training command, if the recipe alone does not determine it.
        direct: False if the link can only be opened in a browser.
        note: a remark, e.g. where sources disagree.
        curves: AP by epoch of some trainings, by their names; ``epoch`` holds the epochs.
        speed: time per image and the hardware, as text.
        image: file of the repository that shows detections, from its top folder.
        resize: (short, long) side in pixels that images are scaled to; None means those of the architecture.

    Example:
        >>> import pkdzoo
        >>> weights = pkdzoo.get_weights("retina_r50.coco_2x")
        >>> weights.metrics["AP"], weights.license
        (37.4, 'Apache-2.0')
    """

    tag: str
    url: str | None = None
    hub_id: str | None = None
    file: str | None = None
    sha256: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    license: str = "unknown"
    labels: str | tuple[str, ...] = "coco"
    recipe: str | None = None
    launch: str = ""
    direct: bool = True
    note: str = ""
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    speed: str = ""
    image: str = ""
    resize: tuple[int, int] | None = None

    @property
    def has_source(self) -> bool:
        """Whether the weights can be loaded from somewhere."""
        return bool(self.url or self.hub_id or self.file)

    @property
    def hash_digits(self) -> str:
        """How much of the SHA-256 of the file is known, in words: fewer than 64 digits detect damage but no forgery."""
        known = len(self.sha256)
        return "no digits" if not known else counted(known, "digit") if known < 64 else "all 64 digits"


@dataclass(frozen=True)
class InitialWeights:
    """Weights that the training of a detector, or of its backbone, started from, and whose license it inherits.

    Attributes:
        name: repository on the Hub, or ``arch.tag``, or the name of a file or folder.
        license: of the weights; ``unknown`` if their source states none.
        revision: commit of the repository.
        sha256: of the file.
        interpolation: with which images were resized when these weights were trained; empty if it is unknown.
    """

    name: str
    license: str
    revision: str = ""
    sha256: str = ""
    interpolation: str = ""

    @property
    def resize_note(self) -> str:
        """A half sentence where images are resized otherwise than by detectors here, which do it bilinearly."""
        if self.interpolation in ("", "bilinear"):
            return ""
        return f"trained on images that were resized by {self.interpolation} interpolation; detectors resize bilinearly"


@dataclass(frozen=True)
class Distilled:
    """A pair of student and teacher, with their published APs.

    Attributes:
        student: architecture of the student.
        teacher: name of the teacher, with a tag if its weights are published.
        methods: names of the distillation methods.
        triple: AP of teacher, plain student and distilled student, from one source.
        source: where the triple is published.
        note: a remark.
        gain_shown: False where the gain over the plain student may be chance; then no share of the gap is given.
    """

    student: str
    teacher: str
    methods: tuple[str, ...]
    triple: tuple[float, float, float] | None = None
    source: str = ""
    note: str = ""
    gain_shown: bool = True

    @property
    def gap_closed(self) -> float | None:
        """Share of the gap from plain student to teacher that distillation closes.

        Above 1 if the student is better than its teacher. None without a triple, for a gain that may be chance, and
        for a teacher that is not better than the plain student.
        """
        if self.triple is None or not self.gain_shown:
            return None
        teacher, plain, distilled = self.triple
        return (distilled - plain) / (teacher - plain) if teacher > plain else None
