"""Metrics on disk, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pkdzoo.utils.files import write_text


def write_metrics(path: str | Path, metrics: dict[str, Any], **about: Any) -> Path:
    """Write ``metrics`` and what they are about as one JSON object.

    A reader never sees half a file: it is written beside its place, forced to the disk, and renamed.

    Args:
        path: the file; its folder is made.
        metrics: as ``CocoEvaluator.compute`` returns them.
        about: further keys, e.g. ``model``, ``data``, ``command``; not one that the metrics have.

    Raises:
        ValueError: a key stands in both, or a number is NaN or infinite, which JSON cannot say.

    Example:
        >>> import json, tempfile
        >>> from pkdzoo.evaluation import write_metrics
        >>> path = write_metrics(f"{tempfile.mkdtemp()}/metrics.json", {"AP": 41.5}, detector="retina_r50_pkd_swin")
        >>> json.loads(path.read_text())["AP"]
        41.5
    """
    both = sorted(set(metrics) & set(about))
    if both:
        raise ValueError(f"{', '.join(map(repr, both))} stands in the metrics already: choose another name for it")
    path = Path(path)
    try:
        text = json.dumps({**about, **metrics}, indent=2, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"metrics for {path} cannot be written: {error}; write None for what is not known") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text + "\n")
    return path
