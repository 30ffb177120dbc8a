"""Suggestions for a mistyped name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence with the closest known names, or with all of them (40 at most) where none is close.

    Example:
        >>> from pkdzoo.utils.suggest import did_you_mean
        >>> did_you_mean("retina_50", ["retina_r50", "gfl_r50"])
        'Did you mean retina_r50?'
        >>> did_you_mean("x", {"gfl_r50", "atss_r50"})
        'Known names: atss_r50, gfl_r50'
    """
    names = list(known)
    close = difflib.get_close_matches(word, names, n=5, cutoff=0.5)
    if close:
        return f"Did you mean {', '.join(close)}?"
    return f"Known names: {', '.join(sorted(names)[:40])}"
