"""Docstrings as the site shows them: references become links, examples become sections.

Docstrings name other objects in the form of Sphinx, ``:func:`pkdzoo.losses.pearson```. The site links a public name to
its place in the reference, and shows any other name as code.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec

# Modules with a page in the reference.
PUBLIC_MODULES = (
    "pkdzoo",
    "pkdzoo.distill",
    "pkdzoo.losses",
    "pkdzoo.training",
    "pkdzoo.data",
    "pkdzoo.inference",
    "pkdzoo.evaluation",
    "pkdzoo.export",
    "pkdzoo.figures",
)
# What public functions are given or return, and no public module names, by the page that shows it.
RETURNED = {
    "pkdzoo": (
        "pkdzoo.hub.weights.Weights",
        "pkdzoo.models.feature_extractor.FeatureExtractor",
        "pkdzoo.structures.PostProcess",
        "pkdzoo.structures.PixelNorm",
        "pkdzoo.structures.Letterbox",
        "pkdzoo.training.own_data.result.Run",
    ),
    "pkdzoo.distill": (
        "pkdzoo.models.trace.Trace",
        "pkdzoo.models.trace.HeadTrace",
        "pkdzoo.models.trace.LossTrace",
        "pkdzoo.distill.pairing.MapPair",
        "pkdzoo.distill.student_base.ModuleStudent",
    ),
    "pkdzoo.export": ("pkdzoo.export.graphs.Graph",),
}
CALLED = {"pkdzoo.distill": "pkdzoo.training.own_data.api.distill"}  # a package that can be called, and its function
ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?([\w.]+)`")
LITERAL = re.compile(r"``([^`\n]+)``")


@cache
def public_names() -> Mapping[str, str]:
    """The place in the reference of everything public, by its full name; methods of classes are not listed."""
    members = {f"{name}.{member}": place_of(name, member) for name in PUBLIC_MODULES for member in public_members(name)}
    return {**members, **{name: name for names in RETURNED.values() for name in names}, **CALLED}


def place_of(module: str, name: str) -> str:
    """The name by which mkdocstrings finds a member; a file of the same name would be found first.

    Example:
        >>> from pkdzoo.maintain.site.docstrings import place_of
        >>> place_of("pkdzoo.losses", "pearson"), place_of("pkdzoo.distill", "inherit")
        ('pkdzoo.losses.pearson', 'pkdzoo.distill.inherit.inherit')
    """
    member = getattr(importlib.import_module(module), name)
    is_file = find_spec(f"{module}.{name}") is not None
    return f"{member.__module__}.{member.__qualname__}" if is_file else f"{module}.{name}"


def public_members(module: str) -> list[str]:
    """The public functions and classes of a module, in alphabetical order."""
    names: list[str] = importlib.import_module(module).__all__
    return sorted((name for name in names if not name.startswith("__")), key=str.lower)


def with_links(docstring: str, public: Mapping[str, str], module: str = "") -> str:
    """A docstring with references as the site's links.

    Args:
        docstring: the text.
        public: places in the reference by full name.
        module: of the object, in which short names are looked up.
    """

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        for full in (name, f"{module}.{name}", *(f"{package}.{name}" for package in PUBLIC_MODULES)):
            if full in public:
                return f"[`{name}`][{public[full]}]"
        return f"`{name}`"

    return LITERAL.sub(r"`\1`", ROLE.sub(replace, docstring))


def with_example_section(docstring: str) -> str:
    """A docstring whose ``Example:`` is the section ``Examples:``, which is shown as code."""
    return re.sub(r"^( *)Example:$", r"\1Examples:", docstring, flags=re.MULTILINE)


def argument_texts(docstring: str) -> dict[str, str]:
    """What the section ``Args`` of a docstring says about each argument."""
    section = docstring.partition("\nArgs:\n")[2]
    texts: dict[str, str] = {}
    name = ""
    for line in section.split("\n"):
        if line and not line.startswith(" "):
            break
        head = re.match(r" {4}(\w+): (.*)", line)
        if head:
            name = head[1]
            texts[name] = head[2]
        elif name and line.strip():
            texts[name] += f" {line.strip()}"
    return texts
