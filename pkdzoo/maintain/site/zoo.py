"""The zoo on the site: tables that can be filtered and sorted, and one page for each set of weights, from its card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pkdzoo.maintain.cards import zoo_cards
from pkdzoo.maintain.pages import PACKAGED, PAGES, linked, with_parts, zoo_table
from pkdzoo.models._registry import find
from pkdzoo.models._zoo_table import Line, results

LATENCY = "pkdzoo/models/_latency.json"


def zoo_page(root: Path) -> str:
    """``docs/zoo.md`` with the site's tables instead of the repository's: with measured times, filters and sorting."""
    text = (root / "docs" / "zoo.md").read_text(encoding="utf-8")
    parts = {name: make(root) for name, make in PAGES["docs/zoo.md"].items()}
    times = latencies(root)
    parts["coco"] = site_table(results("*.coco*"), times)
    parts["package"] = site_table(results(PACKAGED), times)
    return with_parts(text, parts)


def latencies(root: Path) -> Mapping[str, Any]:
    """Measured milliseconds by architecture (``ms``), and how they were measured (``about``); empty without a file."""
    path = root / LATENCY
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def site_table(lines: Sequence[Line], times: Mapping[str, Any]) -> str:
    """One row for each set of weights, which is linked, in a box that the script of the page can filter.

    Args:
        lines: of the table.
        times: see :func:`latencies`; the column is left out where none of the lines has a time.
    """
    ms = times.get("ms", {})
    timed = any(line.name.partition(".")[0] in ms for line in lines)
    about = f"\n**ms**: {times.get('about', '')}\n" if timed else ""
    return f'<div class="zoo" markdown>\n\n{zoo_table(lines, ms if timed else None)}\n</div>\n{about}'


def weights_pages(root: Path) -> dict[str, str]:
    """The page of every set of weights by the path of its card: the card, and what belongs to it on the site."""
    pages = {}
    for file, card in zoo_cards(root / "recipes").items():
        text = card.partition("\n---\n")[2].lstrip() if card.startswith("---\n") else card
        pages[f"hub_cards/{file}"] = f"{text.rstrip()}\n\n## On this site\n\n{belonging(file.removesuffix('.md'))}"
    return pages


def belonging(name: str) -> str:
    """Links from a set of weights to its methods, its teacher, and the whole table."""
    entry, _ = find(name)
    lines = ["- [The zoo](../docs/zoo.md): all weights in one table."]
    if entry.distilled is not None:
        lines += [f"- [{method}](../docs/methods/{method}.md): the method." for method in entry.distilled.methods]
        lines += [f"- {linked(entry.distilled.teacher)}: the teacher."]
        plain, _ = find(entry.distilled.student)
        lines += [f"- {linked(plain.name)}: the student without a teacher."] if plain.default else []
    lines += ["- [Detect objects](../docs/detect.md) and [export](../docs/detect.md#export): how to use it."]
    return "\n".join(lines) + "\n"
