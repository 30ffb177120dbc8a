"""Suggestions for a mistyped name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN, SHORTEST_PART = 5, 3


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence with the closest known names (5 at most), or with all of them (40 at most) where none is close.

    Where none is close as a whole, a name is if the word is a part of it.

    Example:
        >>> from pkdzoo.utils.suggest import did_you_mean
        >>> did_you_mean("retina_50", ["retina_r50", "gfl_r50"])
        'Did you mean retina_r50?'
        >>> did_you_mean("swin", ["retina_r50", "mask_rcnn_swin_s"])
        'Did you mean mask_rcnn_swin_s?'
        >>> did_you_mean("x", {"gfl_r50", "atss_r50"})
        'Known names: atss_r50, gfl_r50'
    """
    names = list(known)
    close = difflib.get_close_matches(word, names, n=SHOWN, cutoff=0.5)
    if not close and len(word) >= SHORTEST_PART:
        close = [name for name in names if word.lower() in name.lower()][:SHOWN]
    if close:
        return f"Did you mean {', '.join(close)}?"
    return f"Known names: {', '.join(sorted(names)[:40])}"
