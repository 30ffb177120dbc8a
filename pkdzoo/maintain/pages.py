"""The generated parts of README.md, of docs/ and of the benchmark's page.

A part stands between two comments, ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``; everything outside them is
written by hand. ``python -m pkdzoo.maintain pages`` writes all parts anew.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pkdzoo.distill.registry import METHODS, list_methods
from pkdzoo.maintain.recipes_page import EQUAL_METHODS, experiments, reference_detectors
from pkdzoo.models._registry import find, list_detectors
from pkdzoo.models._zoo_index import INDEX
from pkdzoo.models._zoo_table import Line, format_number, results
from pkdzoo.utils.files import write_json, write_text

# The rows of README.md: one student for each of five families.
CHOSEN = (
    "retina_r50_pkd_swin",
    "faster_rcnn_r50_pkd_r101",
    "reppoints_r50_pkd_x101",
    "retina_r50_pkd_fcos_x101",
    "gfl_r101_ld_r101_dcn",
)
NUMBERS = ("params (M)", "GMACs", "AP", "ms", "teacher AP", "baseline", "gap closed")  # columns of the zoo
LATENCY = "pkdzoo/models/_latency.json"  # for `pkdzoo list`, which has no recipes beside it
# Data set by the beginning of a tag. An AP on one data set says nothing about an AP on another.
DATA_SETS = {"coco": "COCO", "bccd": "BCCD", "deeppcb": "DeepPCB", "shapes": "generated shapes"}
PACKAGED = ["*.bccd", "*.deeppcb", "*.shapes"]  # data sets of the weights inside the package


def chosen_table(root: Path) -> str:
    """Five distilled students of COCO, with the three numbers that their sources print."""
    rows = [["student", "teacher", "teacher AP", "plain student", "distilled", "source"]]
    rows.append(["---", "---", "---:", "---:", "---:", "---"])
    for line in results(CHOSEN):
        numbers = [format_number(line.teacher_AP), format_number(line.baseline), f"**{format_number(line.distilled)}**"]
        rows.append([f"`{line.name}`", f"`{line.teacher}`", *numbers, line.triple_source])
    return markdown(rows)


def coco_table(root: Path) -> str:
    """All weights for COCO."""
    return zoo_table(results("*.coco*"))


def package_table(root: Path) -> str:
    """The weights inside the package."""
    return zoo_table(results(PACKAGED))


def notes_list(root: Path) -> str:
    """What a reader should know about single rows, for example where two sources disagree."""
    return "".join(f"- `{line.name}`: {line.note}.\n" for line in results() if line.note)


def experiments_table(root: Path) -> str:
    """The short table of the experiments' page."""
    return experiments(root / "recipes")


def methods_table(root: Path) -> str:
    """All distillation methods: the idea with its source, how far the teacher runs, and what equals the original."""
    rows = [["method", "idea and source", "teacher runs up to", "equal to its original"], ["---"] * 4]
    for name in list_methods():
        method = METHODS[name]
        idea = " ".join((sys.modules[method.__module__].__doc__ or "").partition("\n\n")[0].split())
        depth = getattr(method, "teacher_depth", "features")
        link = f"[{name}](methods/{name}.md)"
        equal = EQUAL_METHODS.get(name, "")
        rows.append([link, idea, depth, "losses" if equal == name else equal])
    return markdown(rows)


def of_benchmarks(file: str, function: str) -> Callable[[Path], str]:
    """A table that a file of recipes/benchmarks makes; ``recipes`` lies in the clone and not in the package."""

    def table(root: Path) -> str:
        text: str = getattr(importlib.import_module(f"recipes.benchmarks.{file}"), function)()
        return text

    return table


def every_seed(experiment: str) -> Callable[[Path], str]:
    """The table that recipes/experiments/every_seed.py makes of an experiment."""

    def table(root: Path) -> str:
        text: str = importlib.import_module("recipes.experiments.every_seed").table(experiment)
        return text

    return table


def references(root: Path) -> str:
    """How many detectors have a reference file of the original program, and which have none."""
    equal = reference_detectors(root)
    pairs = {name: find(name)[0].distilled for name in INDEX}
    plain = {name if pair is None else pair.student for name, pair in pairs.items()}
    tiny = {name for name in plain if re.search(r"_r\d+w\d+$", name)}
    missing = ", ".join(f"`{name}`" for name in sorted(plain - tiny - equal))
    return (
        f"{len(plain & equal)} architectures have a reference file. Without one are {missing},\n"
        f"and the {len(tiny)} tiny detectors for tests and demos,\n"
        "whose names end in the width. They consist of parts that the others have.\n"
    )


PAGES: Mapping[str, Mapping[str, Callable[[Path], str]]] = {
    "README.md": {"results": chosen_table, "latency": of_benchmarks("deploy_page", "short_table")},
    "docs/deploy.md": {"latency": of_benchmarks("deploy_page", "table")},
    "docs/methods.md": {"methods": methods_table},
    "docs/zoo.md": {"coco": coco_table, "package": package_table, "notes": notes_list},
    "docs/measured.md": {
        "experiments": experiments_table,
        "blood cells": every_seed("rtmdet_bccd"),
        "blood cells, GFL": every_seed("gfl_bccd"),
        "blood cells, GFL, 120 epochs": every_seed("gfl_bccd_120"),
        "circuit boards": every_seed("rtmdet_deeppcb"),
        "circuit boards, GFL": every_seed("gfl_deeppcb"),
        "references": references,
    },
    "recipes/benchmark_results/README.md": {
        "speed": of_benchmarks("table", "recorded"),
        "versions": of_benchmarks("versions", "recorded"),
        "parity": of_benchmarks("deploy_page", "parity"),
    },
}


def zoo_table(lines: Sequence[Line], ms: Mapping[str, float] | None = None) -> str:
    """One row for each set of weights, with links to its card and its teacher's.

    Args:
        lines: of the table.
        ms: measured milliseconds by architecture; None for a table without this column.
    """
    timed = [] if ms is None else ["ms"]
    pair = ["teacher", "teacher AP", "baseline", "gap closed"]
    head = ["name", "data", "params (M)", "GMACs", "input", "AP", *timed, *pair, "license", "download", "source"]
    rows = [head, ["---:" if name in NUMBERS else "---" for name in head]]
    for line in lines:
        architecture = line.name.partition(".")[0]
        short, long = INDEX[architecture].resize
        sizes = [format_number(line.params), format_number(line.gflops), f"{long} x {short}", format_number(line.AP)]
        times = [format_number((ms or {}).get(architecture))] if timed else []
        gap = "" if line.gap_closed is None else f"{line.gap_closed:.0%}"
        pair = [linked(line.teacher), format_number(line.teacher_AP), format_number(line.baseline), gap]
        origin = [line.license, download(line.name), line.source]
        rows.append([linked(line.name), data_set(line.name), *sizes, *times, *pair, *origin])
    return markdown(rows)


def linked(name: str | None) -> str:
    """A set of weights with a link to its card; teachers whose weights are unpublished have none."""
    if not name:
        return ""
    entry, row = find(name)
    row = row or entry.default
    card = "" if row is None else f"{entry.name}.{row.tag}"
    return f"[{name}](../hub_cards/{card}.md)" if card in list_detectors(pretrained=True) else f"`{name}`"


def download(name: str) -> str:
    """How ``arch.tag`` is loaded: by itself, after it was saved in a browser, or from the package."""
    _, row = find(name)
    if row is None or row.file:
        return "in the package"
    return "automatic" if row.direct else "in a browser"


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
    write_json(root / LATENCY, importlib.import_module("recipes.benchmarks.deploy_page").latencies())
