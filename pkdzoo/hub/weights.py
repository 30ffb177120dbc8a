"""A row of the zoo: one set of weights, where it can be had, its published numbers, and who taught it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Weights:
    """One published or shipped set of weights, and the only place where its numbers stand.

    Attributes:
        tag: what stands behind the dot of a name.
        url: direct link to a file, or to a page when ``direct`` is False.
        hub_id: repository on the Hub.
        file: name inside the package's ``weights`` folder, for embedded weights.
        sha256: start of the file's hash, as many digits as are known.
        metrics: ``AP`` and its kin on the data set's validation split, in percent; ``per_class`` by name, if known.
        source: where the metrics were printed, or the command that measured them.
        license: of the weights.
        labels: names of the classes: a known set ("coco") or the names themselves.
        recipe: file below ``recipes/`` that trains them.
        launch: the line that trains them, where naming the recipe is not enough.
        direct: False when the link has to be opened by hand.
        note: what a reader should know, e.g. where sources disagree.
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

    @property
    def has_source(self) -> bool:
        """Whether there is anything to load."""
        return bool(self.url or self.hub_id or self.file)


@dataclass(frozen=True)
class Distilled:
    """Who learned from whom, and the three numbers of its source.

    Attributes:
        student: name of the student's architecture.
        teacher: name of the teacher, with tag where its weights are published.
        methods: names of the distillation methods.
        triple: AP of teacher, plain student and distilled student, as one source printed them.
        source: of the triple.
        note: what a reader should know.
    """

    student: str
    teacher: str
    methods: tuple[str, ...]
    triple: tuple[float, float, float] | None = None
    source: str = ""
    note: str = ""

    @property
    def gap_closed(self) -> float | None:
        """Share of the gap from plain student to teacher that was closed; above 1 the student passed its teacher.

        None without the three numbers, and for a teacher that is no better than the plain student.
        """
        if self.triple is None:
            return None
        teacher, plain, distilled = self.triple
        return (distilled - plain) / (teacher - plain) if teacher > plain else None
