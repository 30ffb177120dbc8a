"""The reference: a page for each public module, filled from docstrings by mkdocstrings, and the command line's help."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from unittest import mock

from pkdzoo.cli import build_parser
from pkdzoo.maintain.site.docstrings import CALLED, PUBLIC_MODULES, RETURNED, place_of, public_members
from pkdzoo.training import schedules

WIDTH = 100  # columns of help texts


def reference_pages() -> dict[str, str]:
    """All pages by their path on the site."""
    pages = {f"reference/{name}.md": module_page(name) for name in PUBLIC_MODULES}
    pages["reference/cli.md"] = cli_page()
    pages["reference/index.md"] = index_page()
    return pages


def module_page(module: str) -> str:
    """The members of a module, each to be filled from its docstring."""
    about = (importlib.import_module(module).__doc__ or "").partition("\n\n")[0]
    parts = [f"# {module}\n", f"{' '.join(about.split())}\n"]
    if module == "pkdzoo":
        parts += [entry(place, f"{name}(...)") for name, place in CALLED.items()]
    parts += [entry(place_of(module, name)) for name in public_members(module)]
    parts += [entry(place) for place in RETURNED.get(module, ())]
    if module == "pkdzoo.training":
        parts.append(schedules_section())
    return "\n".join(parts)


def entry(place: str, heading: str = "") -> str:
    """What mkdocstrings replaces by the docstring of an object, under its full name or another heading."""
    options = f"    options:\n      heading: {heading}\n      toc_label: {heading}\n" if heading else ""
    return f"::: {place}\n{options}"


def schedules_section() -> str:
    """The published schedules, of which recipes take their fields."""
    about = (schedules.__doc__ or "").partition("\n\n")[2].strip()
    table = ["| name | fields |", "| --- | --- |"]
    for name, chosen in vars(schedules).items():
        if name.isupper() and isinstance(chosen, dict):
            shown = ", ".join(f"{key}={short_repr(value)}" for key, value in chosen.items())
            table.append(f"| `{name}` | `{shown}` |")
    lead = "Fields of a recipe: `from pkdzoo.training.schedules import ONE_X`, and `Recipe(NAME, MODEL, **ONE_X)`."
    return "\n".join(
        ["## Published schedules\n", f"{lead} {about}\n", *table, "", entry(f"{schedules.__name__}.published")]
    )


def short_repr(value: object) -> str:
    """The ``repr`` of a value, of a dataclass only with the fields that are not its defaults.

    Example:
        >>> from pkdzoo.maintain.site.reference import short_repr
        >>> from pkdzoo.training import Optim
        >>> short_repr(Optim(lr=0.02))
        'Optim(lr=0.02)'
    """
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    changed = [f.name for f in fields(value) if getattr(value, f.name) != f.default]
    return f"{type(value).__name__}({', '.join(f'{name}={short_repr(getattr(value, name))}' for name in changed)})"


def index_page() -> str:
    """A list of everything that is public."""
    lines = ["# Reference\n", "Everything public, from its docstrings. Other names may move between versions.\n"]
    for module in PUBLIC_MODULES:
        places = [(name, place_of(module, name)) for name in public_members(module)]
        places += [(place.rpartition(".")[2], place) for place in RETURNED.get(module, ())]
        if module == "pkdzoo":
            places = [(f"{name}(...)", place) for name, place in CALLED.items()] + places
        lines.append(f"- [{module}]({module}.md): " + ", ".join(f"[`{name}`][{place}]" for name, place in places))
    verbs = ", ".join(
        f"[`{parser.prog}`](cli.md#{parser.prog.replace(' ', '-')})" for parser in parsers(build_parser())
    )
    lines.append(f"- [The command line](cli.md): {verbs}")
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """The help of every verb."""
    with mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH), "NO_COLOR": "1"}):
        helps = [(parser.prog, parser.format_help().rstrip()) for parser in parsers(build_parser())]
    parts = [f"## {name}\n\n```text\n{text}\n```\n" for name, text in helps]
    head = "# The command line\n\nWhat `pkdzoo VERB --help` prints. Programs read the output with `--json`.\n"
    return "\n".join([head, *parts])


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its verbs."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)
