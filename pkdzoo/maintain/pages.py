"""The generated parts of README.md, of docs/ and of the benchmark's page.

A part stands between two comments, ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``; everything outside them is
written by hand. ``python -m pkdzoo.maintain pages`` writes all parts anew.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pkdzoo.maintain.recipes_page import experiments
from pkdzoo.models._zoo_table import METRICS, Line, results
from pkdzoo.utils.files import write_text

# The rows of README.md: one student for each of five families.
CHOSEN = (
    "retina_r50_pkd_swin",
    "faster_rcnn_r50_pkd_r101",
    "reppoints_r50_pkd_x101",
    "atss_r50_crosskd_r101",
    "fcos_r50_caffe_crosskd_pkd_r101",
)
# Data set by the beginning of a tag. An AP on one data set says nothing about an AP on another.
DATA_SETS = {"coco": "COCO", "bccd": "BCCD", "shapes": "generated shapes"}


def chosen_table(root: Path) -> str:
    """Five distilled students of COCO, with the three numbers that their sources print."""
    rows = [["student", "teacher", "teacher AP", "plain student", "distilled", "source"]]
    rows.append(["---", "---", "---:", "---:", "---:", "---"])
    for line in results(CHOSEN):
        numbers = [number(line.teacher_AP), number(line.baseline), f"**{number(line.distilled)}**"]
        rows.append([f"`{line.name}`", f"`{line.teacher}`", *numbers, line.triple_source])
    return markdown(rows)


def coco_table(root: Path) -> str:
    """All weights for COCO."""
    return zoo_table(results("*.coco*"))


def package_table(root: Path) -> str:
    """The weights inside the package."""
    return zoo_table(results(["*.bccd", "*.shapes"]))


def notes_list(root: Path) -> str:
    """What a reader should know about single rows, for example where two sources disagree."""
    return "".join(f"- `{line.name}`: {line.note}.\n" for line in results() if line.note)


def experiments_table(root: Path) -> str:
    """The short table of the experiments' page."""
    return experiments(root / "recipes")


def speed_tables(root: Path) -> str:
    """Every recorded run of the benchmark; ``recipes`` lies in the clone and not in the package."""
    text: str = importlib.import_module("recipes.benchmarks.table").recorded()
    return text


PAGES: Mapping[str, Mapping[str, Callable[[Path], str]]] = {
    "README.md": {"results": chosen_table},
    "docs/zoo.md": {"coco": coco_table, "package": package_table, "notes": notes_list},
    "docs/measured.md": {"experiments": experiments_table},
    "recipes/benchmark_results/README.md": {"speed": speed_tables},
}


def zoo_table(lines: Sequence[Line]) -> str:
    """One row for each set of weights, with its data set, size, cost, APs and teacher."""
    pair = ["teacher", "teacher AP", "baseline", "gap closed"]
    rows = [["name", "data", "params (M)", "GFLOPs", *METRICS, *pair, "source"]]
    rows.append(["---", "---", *["---:"] * 8, "---", *["---:"] * 3, "---"])
    for line in lines:
        sizes = [number(value) for value in (line.params, line.gflops)]
        metrics = [number(getattr(line, key)) for key in METRICS]
        pair = [line.teacher or "", number(line.teacher_AP), number(line.baseline)]
        gap = "" if line.gap_closed is None else f"{line.gap_closed:.0%}"
        rows.append([line.name, data_set(line.name), *sizes, *metrics, *pair, gap, line.source])
    return markdown(rows)


def data_set(name: str) -> str:
    """The data set of ``arch.tag``.

    Raises:
        ValueError: for a tag of a data set that ``DATA_SETS`` does not hold yet.
    """
    tag = name.partition(".")[2]
    key = tag.partition("_")[0]
    if key not in DATA_SETS:
        raise ValueError(f"{name}: add the data set of tag {tag!r} to DATA_SETS in pkdzoo/maintain/pages.py")
    return DATA_SETS[key]


def number(value: float | None) -> str:
    """A number with one digit after the point; nothing for an unknown one."""
    return "" if value is None else f"{value:.1f}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; the second one holds the alignments."""
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_parts(text: str, parts: Mapping[str, str]) -> str:
    """A page with the given content between its markers.

    Raises:
        ValueError: for a part whose markers the page does not have.
    """
    for name, content in parts.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        head, opened, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not opened or not closed:
            raise ValueError(f"the page has no markers {begin.strip()} and {end}")
        text = head + begin + content + end + tail
    return text


def page(path: str, root: Path) -> str:
    """The text of one of ``PAGES`` with its generated parts as they should be."""
    text = (root / path).read_text(encoding="utf-8")
    return with_parts(text, {name: make(root) for name, make in PAGES[path].items()})


def write_pages(root: Path = Path()) -> None:
    """Write the generated parts of all pages below a clone's folder."""
    for path in PAGES:
        write_text(root / path, page(path, root))
