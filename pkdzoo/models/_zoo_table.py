"""The zoo as a table: every set of weights with its size, cost and AP, from the registry and the index."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pkdzoo.data.labels import label_names
from pkdzoo.models._registry import Entry, find, known_costs, list_detectors

SIZE = (800, 1333)  # (height, width) in pixels of the image that costs are counted for
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class Line:
    """One set of weights.

    Attributes:
        name: ``arch.tag``.
        params: millions of parameters.
        gflops: billions of multiply-adds of one image of 1333 x 800, up to the raw outputs of the head (two-stage:
            1000 regions, 100 masks). timm calls this unit GMACs, detector papers GFLOPs.
        AP: box AP on the validation split of the data set, in percent, like the next five; None if it is unknown.
        source: where the APs are published, or the command that measured them.
        license: license of the weights.
        teacher: name of the teacher.
        teacher_AP: as published by ``triple_source``, like the next two.
        baseline: AP of the same student without a teacher.
        distilled: AP with the teacher.
        gap_closed: share of the gap from baseline to teacher that distillation closes.
        triple_source: where these three are published.
        note: e.g. where sources disagree.
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
    """The lines of the table, a sequence with ``to_markdown()`` and ``to_csv()``."""

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
        """The main columns as a Markdown table; distilled detectors have their teacher and the gap they close."""
        head = ["name", "params (M)", "GMACs", *METRICS, "teacher", "teacher AP", "baseline", "gap closed", "source"]
        rows = [head, ["---", *["---:"] * 8, "---", *["---:"] * 3, "---"]]
        for line in self.lines:
            numbers = [format_number(getattr(line, key)) for key in METRICS]
            pair = [line.teacher or "", format_number(line.teacher_AP), format_number(line.baseline)]
            gap = "" if line.gap_closed is None else f"{line.gap_closed:.0%}"
            costs = [format_number(line.params), format_number(line.gflops)]
            rows.append([line.name, *costs, *numbers, *pair, gap, line.source])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"

    def to_csv(self) -> str:
        """All fields as CSV, one line per set of weights; unknown numbers are empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(Line.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(line) for line in self.lines)
        return text.getvalue()


def results(filter: str | Sequence[str] = "", family: str = "") -> Results:
    """The table of all weights.

    Args:
        filter: one or more wildcards, see :func:`pkdzoo.list_detectors`.
        family: this family only.

    Returns:
        A sequence with ``to_markdown()`` and ``to_csv()``. Each line has the fields ``name``, ``params`` (millions),
        ``gflops``, ``AP`` and the other APs in percent, ``source``, ``license``, ``note`` and, for a distilled
        detector, ``teacher``, ``teacher_AP``, ``baseline``, ``distilled``, ``gap_closed`` and ``triple_source``.

    Raises:
        ValueError: for an unknown family, with the closest names.

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
    """Millions of parameters and billions of multiply-adds; counted here for entries that the index lacks."""
    return known_costs(entry) or measure(entry.name)


def measure(name: str) -> tuple[float, float]:
    """Count parameters and multiply-adds of an architecture, without allocating or computing anything.

    It has the classes of its default weights, if it has any, and else those that are registered.

    Returns:
        Millions of parameters, and billions of multiply-adds of one image of 1333 x 800, padded to multiples of 32.
    """
    import torch  # here, because the table itself needs none of these

    from pkdzoo.models._counting import count_costs
    from pkdzoo.models._factory import create_detector

    row = find(name)[0].default
    classes = len(label_names(row.labels)) if row is not None else None
    with torch.device("meta"):
        model = create_detector(name, num_classes=classes)
    params, gflops = count_costs(model, SIZE)
    return params, round(gflops, 2)


def format_number(number: float | None) -> str:
    """A number with one decimal; empty if it is unknown."""
    return "" if number is None else f"{number:.1f}"
