"""Writes ``pkdzoo/models/_model_sizes.py``: parameters and multiply-adds of every architecture."""

from __future__ import annotations

import pprint
from pathlib import Path

from pkdzoo import models
from pkdzoo.models._registry import find, list_detectors
from pkdzoo.models._zoo_table import measure

TARGET = Path(models.__file__).parent / "_model_sizes.py"


def write_model_sizes(path: Path = TARGET) -> None:
    """Count every architecture; a distilled student that is built like its plain one shares that one's row."""
    entries = [find(name)[0] for name in list_detectors()]
    plain = [e.name for e in entries if e.distilled is None or find(e.distilled.student)[0].args != e.args]
    sizes = {name: measure(name) for name in plain}
    path.write_text(
        '"""Millions of parameters and billions of multiply-adds at 1333 x 800. Written by `python -m '
        'pkdzoo.maintain sizes`."""\n\nfrom __future__ import annotations\n\nCOSTS: dict[str, tuple[float, float]] = '
        f"{pprint.pformat(sizes, width=100).replace(chr(39), chr(34))}\n"
    )
