"""The metrics of a card: their names, and checks of what callers state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pkdzoo.hub.card import Card
from pkdzoo.utils.suggest import did_you_mean

# The evaluator's names of metrics, and those that the Hub shows.
HUB_METRICS = {
    "AP": "map", "AP50": "map_50", "AP75": "map_75", "APs": "map_small", "APm": "map_medium", "APl": "map_large",
    "AR1": "mar_1", "AR10": "mar_10", "AR100": "mar_100", "ARs": "mar_small", "ARm": "mar_medium", "ARl": "mar_large",
}  # fmt: skip
WEIGHTS = "weights_sha256"  # key of a metrics file: hash of the weights that were evaluated
# Keys of a metrics file that describe how the metrics were obtained.
MEASURED = ("pkdzoo", "torch", "processes", "hardware", "date", "epoch", "step", "images", "annotations_sha256")
OTHERS = (
    "mask_AP", "per_class", "best_f1", "ms_per_image", "command", "detector", "weights", "annotations", "detections",
    "source", WEIGHTS,
)  # fmt: skip


def check_numbers(card: Card) -> None:
    """Check the metrics of a card.

    Raises:
        ValueError: for a metric that is neither a number from 0 to 100 nor None, and for ``per_class`` without class
            names.
    """
    classes = card.metrics.get("per_class") or {}
    if not isinstance(classes, Mapping):
        raise ValueError(
            f"{card.name}: per_class is a {type(classes).__name__} in its metrics and should be a mapping from class "
            "to AP: evaluate again"
        )
    values = {key: card.metrics.get(key) for key in (*HUB_METRICS, "mask_AP")} | {
        f"per_class {key}": classes[key] for key in classes
    }
    for key, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not number:
            raise ValueError(
                f"{card.name}: {key} is {value!r} in its metrics and should be a number or null: evaluate again"
            )
        if value is not None and not 0 <= value <= 100:
            raise ValueError(
                f"{card.name}: {key} is {value!r} in its metrics and should be in percent, from 0 to 100, or null: "
                "evaluate again"
            )


def check_stated(metrics: Mapping[str, Any]) -> None:
    """Check the names and the unit of metrics that a caller states.

    Raises:
        ValueError: for an unknown name, and for shares from 0 to 1 in place of percent.
    """
    known = (*HUB_METRICS, *MEASURED, *OTHERS)
    unknown = next((key for key in metrics if key not in known), None)
    if unknown is not None:
        raise ValueError(
            f"metrics has {unknown!r}: write the names of pkdzoo eval. {did_you_mean(str(unknown), known)}"
        )
    values = [metrics[key] for key in (*HUB_METRICS, "mask_AP") if isinstance(metrics.get(key), (int, float))]
    if any(values) and all(abs(value) <= 1 for value in values):
        raise ValueError(
            f"metrics has no number above 1, and they are in percent: write 100 times as much, e.g. "
            f"{100 * max(values):g} for {max(values):g}; leave metrics out for a detector that finds nothing"
        )


def check_weights(card: Card, sha256: str) -> None:
    """Check that metrics which name their weights belong to these.

    Args:
        card: whose metrics may have the hash of the weights that were evaluated.
        sha256: of the tensors that are published.

    Raises:
        ValueError: for metrics of other weights.
    """
    measured = card.metrics.get(WEIGHTS)
    if measured not in (None, sha256):
        raise ValueError(
            f"{card.name}: its metrics were measured with other weights, whose {WEIGHTS} is {str(measured)[:12]}..., "
            f"and these have {sha256[:12]}...: evaluate these"
        )
