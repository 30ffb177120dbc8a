"""Text for messages, terminals and Markdown documents; names in it may come from strangers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

# File names need not be valid UTF-8; in texts other bytes are written as \udcXX, as in JSON.
ESCAPED = "backslashreplace"


def quote_some(values: Iterable[Any], limit: int = 8) -> str:
    """The first values of a list for an error message, and how many more there are.

    Example:
        >>> from pkdzoo.utils.text import quote_some
        >>> quote_some(["cat", "dog", "cow"], limit=2)
        "'cat', 'dog' and 1 more"
    """
    listed = list(values)
    shown = ", ".join(repr(value) for value in listed[:limit])
    return shown + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def counted(count: int, one: str, more: str = "") -> str:
    """A number and what it counts, in the singular or the plural.

    Args:
        count: any number from 0 up.
        one: the word, or the beginning of a sentence, for 1.
        more: the same for other numbers; empty where English adds "s", or "es" after s, x, tch and sh.

    Example:
        >>> from pkdzoo.utils.text import counted
        >>> counted(1, "epoch"), counted(2, "epoch"), counted(0, "box"), counted(2, "image has", "images have")
        ('1 epoch', '2 epochs', '0 boxes', '2 images have')
    """
    return f"{count} {one if count == 1 else more or one + ('es' if one.endswith(('s', 'x', 'tch', 'sh')) else 's')}"


def printable(text: str, keep: str = "") -> str:
    r"""Text for a terminal: every character that does not show itself is written as ``\uXXXX``, as in JSON.

    Names of classes, files and pickled objects come from strangers. Their escape sequences would move the cursor and
    change colors or the title of a terminal, and marks of writing direction would reorder what is read.

    Args:
        text: of any origin.
        keep: control characters that stay, e.g. ``"\n"`` for text of several lines.

    Returns:
        Text without control characters (C0, C1, DEL), direction marks, other invisible characters of Unicode's
        categories Cc, Cf, Zl and Zp, and lone surrogates. JSON text stays valid and keeps its meaning.

    Example:
        >>> from pkdzoo.utils.text import printable
        >>> print(printable("red\x1b[31m fox"))
        red\u001b[31m fox
    """
    return NOT_ASCII.sub(
        lambda match: _as_json_escape(match[0]) if _is_invisible(match[0]) and match[0] not in keep else match[0], text
    )


NOT_ASCII = re.compile(r"[^ -~]")
JOINERS = "\u200c\u200d"  # spelling of some languages, and of emoji, needs them


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in JOINERS


def _as_json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[k]:02x}{units[k + 1]:02x}" for k in range(0, len(units), 2))


# Code, emphasis, links, HTML, tables, strike-through, math, entities, mentions; underscores inside words are harmless.
MARKUP = re.compile(r"[\\`*\[\]<>|~$&@]|(?<!\w)_|_(?!\w)")
LINK = re.compile(r"(?i)\b(https?|ftp|mailto|www)(?=[:.])")  # bare addresses become links, too
LINE_MARK = re.compile(r"^(\d{1,9}(?=[.)](?:\s|$))|(?=[#+=-]))")  # headings, lists, rules


def escape_markdown(text: object, links: bool = False) -> str:
    r"""Text for a Markdown document, on one line, that shows as it was written: no markup, HTML, link or table.

    Args:
        text: of any origin.
        links: an address in the text may become a link that shows this address.

    Example:
        >>> from pkdzoo.utils.text import escape_markdown
        >>> print(escape_markdown("cup | <b>glass</b>"))
        cup \| \<b\>glass\</b\>
    """
    line = printable(" ".join(str(text).split()))
    line = MARKUP.sub(lambda match: f"\\{match[0]}", line)
    line = line if links else LINK.sub(lambda match: f"{match[0]}\\", line)
    return LINE_MARK.sub(lambda match: f"{match[0]}\\", line)


def markdown_code(text: object) -> str:
    """Text as code in a line of Markdown, between as many backticks as it needs.

    Example:
        >>> from pkdzoo.utils.text import markdown_code
        >>> markdown_code("retina_r50")
        '`retina_r50`'
        >>> markdown_code("a`b")
        '`` a`b ``'
    """
    line = printable(" ".join(str(text).split()))
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{line}{space}{fence}"


def install_line(extra: str = "") -> str:
    """How to install pkdzoo, with an extra or without.

    pkdzoo is in no package index yet, where its name could be a stranger's.

    Example:
        >>> from pkdzoo.utils.text import install_line
        >>> install_line("export")
        '`pip install -e ".[export]"` in the folder of a clone of pkdzoo'
    """
    target = f'".[{extra}]"' if extra else "."
    return f"`pip install -e {target}` in the folder of a clone of pkdzoo"
