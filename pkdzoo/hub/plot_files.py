"""A check of plots that are published: SVG files could also hold scripts, links and images of other servers.

A plot of a folder that was published before is taken as it is, and the folder may be a stranger's.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

MAX_CHARACTERS = 1 << 20
NAMESPACE = "{http://www.w3.org/2000/svg}"
# What pkdzoo's plots are drawn with.
ELEMENTS = ("svg", "style", "g", "title", "line", "polyline", "path", "circle", "rect", "text")
ATTRIBUTES = (
    "width", "height", "viewBox", "role", "aria-label", "class", "data-class", "x", "y", "x1", "x2", "y1", "y2", "cx",
    "cy", "r", "d", "points", "transform", "text-anchor",
)  # fmt: skip


def check_svg(name: str, text: str) -> None:
    """Check that an SVG file holds lines, shapes and text alone.

    Args:
        name: of the file, for the message.
        text: its content.

    Raises:
        ValueError: for everything else, e.g. a script, a link, an entity or a comment.
    """
    reason = reason_against(text)
    if reason:
        raise ValueError(
            f"{name} is no plot as pkdzoo draws it, because it {reason}: remove the file, or publish the run, whose "
            "plots are drawn anew"
        )


def reason_against(text: str) -> str:
    """Why a file is no plot of pkdzoo; empty for a plot."""
    if len(text) > MAX_CHARACTERS:
        return f"has more than {MAX_CHARACTERS} characters"
    if "<!" in text or "<?" in text:
        return "has a comment, an entity or an instruction"
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return "is not XML"
    for part in root.iter():
        tag = part.tag.removeprefix(NAMESPACE)
        if tag not in ELEMENTS:
            return f"has the element {tag[:50]!r}"
        unknown = [key for key in part.attrib if key not in ATTRIBUTES]
        if unknown:
            return f"has the attribute {unknown[0][:50]!r}"
        if tag == "style" and re.search(r"url|import|expression|\\", part.text or "", re.IGNORECASE):
            return "has a style that loads something"
    return ""
