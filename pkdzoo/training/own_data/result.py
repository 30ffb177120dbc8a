"""What :func:`pkdzoo.distill` returns: the detectors, the numbers and the report of a finished run."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from pkdzoo.distill.adapters import is_of_other_library
from pkdzoo.models.detector import Detector
from pkdzoo.training.build import build_teacher
from pkdzoo.training.evaluate import open_detector
from pkdzoo.training.own_data.budget import DISTILLED, PLAIN
from pkdzoo.training.own_data.plan import Plan
from pkdzoo.training.provenance import read_json_object
from pkdzoo.training.report.page import write_report


class Run:
    """A finished run of ``pkdzoo distill``.

    Args:
        folder: of the run, e.g. ``runs/rtmdet_tiny-photos``.

    Raises:
        ValueError: for a folder without such a run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.plan = Plan.read(self.folder)

    @cached_property
    def student(self) -> Detector:
        """The distilled student of the best epoch, in eval mode."""
        return open_detector(self.folder / DISTILLED)

    @cached_property
    def plain(self) -> Detector | None:
        """The student without a teacher; None without ``baseline``."""
        return open_detector(self.folder / PLAIN) if PLAIN in self.plan.recipes else None

    @cached_property
    def teacher(self) -> Detector:
        """The teacher; of one that is not a detector of this package only the feature maps are of use."""
        distill = self.plan.distill
        if is_of_other_library(distill.teacher):
            return build_teacher(distill, self.plan.data.classes)
        return open_detector(distill.teacher)

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics of the distilled student after its last epoch, in percent."""
        return read_json_object(self.folder / DISTILLED / "metrics.json")

    def report(self, target: str | Path | None = None, pictures: bool = True) -> Path:
        """Write the report again, as :func:`pkdzoo.training.report.page.write_report`, and return its file."""
        return write_report([self.folder], target, pictures)

    def __repr__(self) -> str:
        ap = self.metrics.get("AP")
        return f"Run({str(self.folder)!r}, AP={'-' if ap is None else format(ap, '.1f')})"
