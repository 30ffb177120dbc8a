"""Metrics files, written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pkdzoo.utils.files import write_text


def write_metrics(path: str | Path, metrics: dict[str, Any], **about: Any) -> Path:
    """Write ``metrics`` and their description as one JSON object, atomically.

    Args:
        path: the file; its folder is made if missing.
        metrics: as ``CocoEvaluator.compute`` returns them.
        about: further keys, e.g. ``model``, ``data``, ``command``; none that the metrics have.

    Returns:
        The path.

    Raises:
        ValueError: a key occurs in both, or a number is NaN or infinite, which JSON does not have.

    Example:
        >>> import json, tempfile
        >>> from pkdzoo.evaluation import write_metrics
        >>> path = write_metrics(f"{tempfile.mkdtemp()}/metrics.json", {"AP": 41.5}, detector="retina_r50_pkd_swin")
        >>> json.loads(path.read_text())["AP"]
        41.5
    """
    both = sorted(set(metrics) & set(about))
    if both:
        raise ValueError(f"{', '.join(map(repr, both))} is already in the metrics: choose another name")
    path = Path(path)
    try:
        text = json.dumps({**about, **metrics}, indent=2, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"metrics for {path} cannot be written: {error}; write None for an unknown value") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text + "\n")
    return path
