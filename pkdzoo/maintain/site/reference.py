"""The reference: a page for each public module, filled from docstrings by mkdocstrings, and the command line's help."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Iterator
from unittest import mock

from pkdzoo.cli import build_parser
from pkdzoo.maintain.site.docstrings import PUBLIC_MODULES, TRACES, place_of, public_members

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
    names = [place_of(module, name) for name in public_members(module)]
    if module == "pkdzoo.distill":
        names += TRACES
    return f"# {module}\n\n{' '.join(about.split())}\n\n" + "\n".join(f"::: {name}\n" for name in names)


def index_page() -> str:
    """A list of everything that is public."""
    lines = ["# Reference\n", "Everything public, from its docstrings. Other names may move between versions.\n"]
    for module in PUBLIC_MODULES:
        names = ", ".join(f"[`{name}`][{place_of(module, name)}]" for name in public_members(module))
        lines.append(f"- [{module}]({module}.md): {names}")
    lines.append("- [The command line](cli.md): every verb of `pkdzoo` with its options")
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
