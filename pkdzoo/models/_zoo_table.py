"""The zoo as a table: every set of weights with its size, cost and AP, generated from the registry's rows.

Sizes and costs stand in ``_model_sizes.py``, which ``python -m pkdzoo.maintain sizes`` generates by building every
architecture without memory and counting.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pkdzoo.models._counting import count_costs
from pkdzoo.models._factory import create_detector
from pkdzoo.models._model_sizes import COSTS
from pkdzoo.models._registry import Entry, find, list_detectors

SIZE = (800, 1333)  # (height, width) of the image that costs are counted for, padded to 32
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class Line:
    """One set of weights.

    Attributes:
        name: ``arch.tag``.
        params: millions of parameters.
        gflops: billions of multiply-adds of one image of 1333 x 800, up to the raw outputs of the head (two-stage:
            1000 regions, 100 masks); the unit that detector papers call GFLOPs.
        AP: of boxes on the data set's validation split, in percent, like the next five; None where nobody printed it.
        source: where the APs were printed, or the command that measured them.
        license: of the weights.
        teacher: name of the teacher.
        teacher_AP: as the source of the triple printed it, like the next two.
        baseline: AP of the same student without a teacher.
        distilled: AP with the teacher.
        gap_closed: share of the gap from baseline to teacher that was closed.
        triple_source: where these three were printed.
        note: where sources disagree.
    """

    name: str
    params: float
    gflops: float
    AP: float | None = None
    AP50: float | None = None
    AP75: float | None = None
    APs: float | None = None
    APm: float | None = None
    APl: float | None = None
    source: str = ""
    license: str = ""
    teacher: str | None = None
    teacher_AP: float | None = None
    baseline: float | None = None
    distilled: float | None = None
    gap_closed: float | None = None
    triple_source: str = ""
    note: str = ""


class Results(Sequence[Line]):
    """Lines of the table; write ``results().to_markdown()``, ``.to_csv()`` or loop over it."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = list(lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __getitem__(self, index: Any) -> Any:
        return self.lines[index]

    def __repr__(self) -> str:
        return self.to_markdown()

    def to_markdown(self) -> str:
        """A table for people: distilled detectors show whom they learned from and how far they came."""
        head = ["name", "params (M)", "GFLOPs", *METRICS, "teacher", "teacher AP", "baseline", "gap closed", "source"]
        rows = [head, ["---", *["---:"] * 8, "---", *["---:"] * 3, "---"]]
        for line in self.lines:
            numbers = [shown(getattr(line, key)) for key in METRICS]
            learned = [line.teacher or "", shown(line.teacher_AP), shown(line.baseline)]
            gap = "" if line.gap_closed is None else f"{line.gap_closed:.0%}"
            rows.append([line.name, shown(line.params), shown(line.gflops), *numbers, *learned, gap, line.source])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"

    def to_csv(self) -> str:
        """All fields, one line a set of weights; an empty field is an unknown number."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(Line.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(line) for line in self.lines)
        return text.getvalue()


def results(filter: str | Sequence[str] = "", family: str = "") -> Results:
    """The table of all weights.

    Args:
        filter: wildcard(s), as :func:`pkdzoo.list_detectors` takes them.
        family: only this family.

    Example:
        >>> import pkdzoo
        >>> line = pkdzoo.results("retina_r50_pkd_swin")[0]
        >>> line.name, line.AP, line.teacher, line.baseline, f"{line.gap_closed:.0%}"
        ('retina_r50_pkd_swin.coco_2x', 41.5, 'mask_rcnn_swin_s.coco_3x', 37.4, '38%')
    """
    return Results([line_of(name) for name in list_detectors(filter, pretrained=True, family=family)])


def line_of(name: str) -> Line:
    """The line of ``arch.tag``."""
    entry, row = find(name)
    assert row is not None
    params, gflops = cost_of(entry)
    line: dict[str, Any] = {key: row.metrics[key] for key in METRICS if key in row.metrics}
    notes = [row.note]
    if entry.distilled is not None:
        pair = entry.distilled
        notes.append(pair.note)
        line |= {"teacher": pair.teacher, "gap_closed": pair.gap_closed, "triple_source": pair.source}
        if pair.triple is not None:
            line |= dict(zip(("teacher_AP", "baseline", "distilled"), pair.triple))
    note = "; ".join(text for text in dict.fromkeys(notes) if text)
    return Line(name, params, gflops, source=row.source, license=row.license, note=note, **line)


def cost_of(entry: Entry) -> tuple[float, float]:
    """Millions of parameters and billions of multiply-adds; a student that was taught costs what others of it cost."""
    if entry.name in COSTS:
        return COSTS[entry.name]
    student = entry.distilled.student if entry.distilled is not None else ""
    if student in COSTS and find(student)[0].args == entry.args:
        return COSTS[student]
    return measure(entry.name)


def shown(number: float | None) -> str:
    """A number of the table, or nothing."""
    return "" if number is None else f"{number:.1f}"


# -- counting --------------------------------------------------------------------------------------------------------


def measure(name: str) -> tuple[float, float]:
    """Millions of parameters of an architecture, and billions of multiply-adds, counted without computing anything."""
    with torch.device("meta"):
        model = create_detector(name)
    params, gflops = count_costs(model, SIZE)
    return params, round(gflops, 2)
