"""The results of a benchmark run as Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "benchmark_results"
HEAD = "| measured | compared with | ratio | target | difference |\n|---|---|---:|---:|---:|"
TIMED = "| measured | compared with | ours | theirs | ratio | target | difference |\n|---|---|---:|---:|---:|---:|---:|"

# Growth up to which a step counts as linear. This is a choice: the last two points of a curve are 1.5 to 2 times
# apart, so the slope is off by 0.1 when one of the times is off by 4 to 7 %, as a median of three rounds can be.
LINEAR = 1.1
CHECK_HEAD = "| check (pytest -m gpu) | figures |\n|---|---|"
PROFILE_HEAD = (
    "| training step | time | convolutions | norms | rest of the network | assignment and losses, 20 boxes | 500 boxes "
    "| update |\n|---|---:|---:|---:|---:|---:|---:|---:|"
)
GROWTH_HEAD = "| step, varied quantity | from | to | growth of time | growth of memory |\n|---|---:|---:|---:|---:|"


def markdown(found: Mapping[str, Any]) -> str:
    """One run: a sentence about the machine, a table with notes, and how the cost of a training step grows."""
    text = [describe(found["about"])]
    kinds = ("rows", "curves", "profiles")
    rows, curves, profiles = ([x for part in found["parts"].values() for x in part.get(key, [])] for key in kinds)
    notes = list(dict.fromkeys(row["note"] for row in rows if row["note"] and row["ratio"] is not None))
    timed = bool(found["about"].get("gpu"))  # absolute times of one CPU tell little about another CPU
    if rows:
        text += ["", TIMED if timed else HEAD, *(line(row, notes, timed) for row in rows)]
        text += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))] if notes else []
    if curves:
        text += ["", GROWTH_HEAD, *map(growth_line, curves)]
    if profiles:
        text += ["", PROFILE_HEAD, *map(profile_line, profiles)]
    if checks := found.get("checks"):
        text += ["", CHECK_HEAD, *map(check_line, checks)]
    return "\n".join(text) + "\n"


def describe(about: Mapping[str, Any]) -> str:
    """Hardware and versions in one sentence."""
    threads = about.get("threads")
    where = about.get("gpu") or f"{threads} thread{'s' * (threads != 1)} of {about['machine']} ({about['vectors']})"
    versions = ", ".join(f"{name} {about[name]}" for name in ("torch", "torchvision") if about.get(name))
    return f"{where}, {versions}, Python {about['python']}."


def line(row: Mapping[str, Any], notes: Sequence[str] = (), timed: bool = False) -> str:
    """One row of the table.

    Args:
        row: a :class:`~recipes.benchmarks.measure.Row` as a dictionary.
        notes: the notes below the table; the row refers to its own by number.
        timed: show both amounts, too.
    """
    ratio = "unmeasured"
    if row["ratio"] is not None:
        missed = row["want"] is not None and row["ratio"] < row["want"]
        spread = "" if row["low"] is None else f" ({row['low']:.2f}-{row['high']:.2f})"
        digits = 3 if missed and round(row["ratio"], 2) >= row["want"] else 2  # 1.396 is not 1.4
        ratio = f"{row['ratio']:.{digits}f}{spread}"
        if row["want"] is not None:
            ratio = f"{ratio}, missed" if missed else f"**{ratio}**"
    target = "" if row["want"] is None else f"{row['want']:g}"
    same = f"{max(row['differences'].values()):.0e}" if row["differences"] else ""
    note = f" ({notes.index(row['note']) + 1})" if row["note"] in notes else ""
    sides = [amount(row[side], row["unit"]) for side in ("ours", "theirs")] if timed else []
    return f"| {' | '.join([row['name'] + note, row['against'], *sides, ratio, target, same])} |"


def growth_line(curve: Mapping[str, Any]) -> str:
    """One row of the growth table: slopes on logarithmic axes, where 1 is linear growth."""
    slopes = [slope(curve[f"growth of {what}"]) for what in ("time", "memory")]
    return f"| {curve['name']} | {curve['x'][0]:,.0f} | {curve['x'][-1]:,.0f} | {' | '.join(slopes)} |"


def profile_line(profile: Mapping[str, Any]) -> str:
    """One row of the table of profiles: the time of a step and the shares of its parts, in percent."""
    keys = ("convolutions", "norms", "network", "losses", "many", "update")
    shares = [f"{100 * profile[key]:.1f} %" for key in keys]
    return f"| {' | '.join([profile['name'], amount(profile['seconds'], 's'), *shares])} |"


def check_line(check: Mapping[str, Any]) -> str:
    """One row of the table of checks: the test and the figures that it wrote down."""
    figures = (f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in check.items())
    return f"| {check['check']} | {', '.join(list(figures)[1:])} |"


def slope(value: float | None) -> str:
    """The growth, marked as missed where it exceeds ``LINEAR``."""
    if value is None:
        return ""
    return f"{value:.2f}" if value <= LINEAR else f"{value:.2f}, missed"


def amount(value: float | None, unit: str) -> str:
    """A number with its unit, to three significant digits."""
    if value is None:
        return ""
    if unit == "s" and value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} {unit}"


def recorded() -> str:
    """Every run in ``recipes/benchmark_results``, for the page in that folder."""
    return recorded_in(RESULTS, markdown)


def recorded_in(folder: Path, render: Callable[[Mapping[str, Any]], str]) -> str:
    """Every run in a folder, each with the text and the link to the figure that lie beside it."""
    parts = []
    for path in sorted(folder.glob("*.json")):
        parts.append(render(json.loads(path.read_text())))
        if path.with_suffix(".md").is_file():  # why a target was missed, and what was tried
            parts.append(path.with_suffix(".md").read_text())
        if path.with_suffix(".png").is_file():
            parts.append(f"[The curves of this run]({path.stem}.png)\n")
    return "\n".join(parts) or "No run is recorded yet.\n"
