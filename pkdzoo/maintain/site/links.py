"""Pages of the repository as pages of the site: where each goes, and how its links change.

A page links to files of the repository, as GitHub shows them. On the site a page has its own place (``SitePages``), an
image is copied, and a source file becomes a page that shows it. A link to anything that does not exist is an error.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

LINK = re.compile(r"(?P<head>!?\[(?:[^\[\]]|!?\[[^\[\]]*\](?:\([^()]*\))?)*\]\()(?P<target>[^()\s]+)(?P<tail>\))")
EXTERNAL = re.compile(r"[a-z][a-z+.-]*:")
IMAGES = (".png", ".jpg", ".svg", ".gif")
LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".sbatch": "bash", ".sh": "bash", ".cff": "yaml"}
FENCE = re.compile(r"^ *(```+|~~~+)")
ITEM = re.compile(r"^ {0,3}(?:[-*+]|\d+\.) ")
MARKER = re.compile(r"^<!-- \w+:(?:begin|end) -->$")


@dataclass
class SitePages:
    """Where files of the repository are on the site.

    Attributes:
        root: folder of the clone.
        pages: site path of each page by its path in the repository, both with slashes.
        copies: images and other files to be copied, site path by repository path; grows while links are rewritten.
        sources: source files to be shown, likewise.
    """

    root: Path
    pages: Mapping[str, str]
    copies: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def place(self, path: str) -> str:
        """The site path of a file or folder of the repository.

        Raises:
            ValueError: for a path that does not exist.
        """
        for candidate in (path, posixpath.join(path, "README.md")):
            if candidate in self.pages:
                return self.pages[candidate]
        file = self.root / path
        if file.is_dir():
            return self.place(posixpath.dirname(path) or "README.md")
        if not file.is_file():
            raise ValueError(f"{path} does not exist")
        if file.suffix in (*IMAGES, ".ipynb"):
            return self.copies.setdefault(path, f"files/{path}")
        shown = "/".join(part.removeprefix(".") for part in path.split("/"))  # hidden folders are not built
        return self.sources.setdefault(path, f"source/{shown}.md")


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    """A page whose parts outside of fenced code blocks are changed."""
    groups = groupby(fenced_lines(text), key=itemgetter(1))
    parts = [(fenced, "\n".join(line for line, _ in lines)) for fenced, lines in groups]
    return "\n".join(part if fenced else change(part) for fenced, part in parts)


def fenced_lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line of a page, and whether it belongs to a fenced code block."""
    closing = ""
    for line in text.split("\n"):
        fence = FENCE.match(line)
        if closing:
            yield line, True
            closing = "" if fence and line.strip() == closing else closing
        else:
            closing = fence[1] if fence else ""
            yield line, bool(fence)


def with_site_links(text: str, source: str, target: str, site: SitePages) -> str:
    """A page with the site's links instead of the repository's.

    Args:
        text: Markdown.
        source: path of the page in the repository, from which its relative links start.
        target: path of the page on the site.
        site: where everything is.

    Raises:
        ValueError: for a link to a file that does not exist; the message names the page.
    """

    def replace(match: re.Match[str]) -> str:
        link = match["target"]
        if EXTERNAL.match(link) or link.startswith("#"):
            return match[0]
        path, hash_sign, anchor = link.partition("#")
        whole = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        try:
            place = site.place(whole)
        except ValueError as error:
            raise ValueError(f"{source} links to {link}, and {error}") from None
        return match["head"] + posixpath.relpath(place, posixpath.dirname(target)) + hash_sign + anchor + match["tail"]

    return outside_fences(text, lambda part: LINK.sub(replace, part))


def as_python_markdown(text: str) -> str:
    """A page as Python-Markdown reads it: lists and tables have an empty line before them, markers are left out.

    GitHub's Markdown begins a list or a table right below a line of text, Python-Markdown does not.
    """
    lines: list[str] = []
    for line, fenced in fenced_lines(text):
        if not fenced and MARKER.match(line):
            continue
        before = lines[-1] if lines else ""
        item, row = bool(ITEM.match(line)) and not fenced, line.startswith("|") and not fenced
        if before and ((item and not was_item(lines)) or (row and not before.startswith("|"))):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def was_item(lines: list[str]) -> bool:
    """Whether the last paragraph of a page is an item of a list."""
    for line in reversed(lines):
        if not line:
            return False
        if ITEM.match(line):
            return True
    return False


def source_page(path: str, text: str) -> str:
    """A page that shows a source file."""
    fence = "````"
    language = LANGUAGES.get(Path(path).suffix, "text")
    return f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"
