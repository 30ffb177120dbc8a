"""How long it takes to create a detector."""

from __future__ import annotations

from collections.abc import Iterator

from torchvision.models.detection import retinanet_resnet50_fpn

import pkdzoo
from pkdzoo.models._builder import build
from pkdzoo.models._registry import find
from recipes.benchmarks.measure import Row, Settings, in_turns, ratios

AGAINST = "torchvision's retinanet_resnet50_fpn, no weights"


def rows(settings: Settings) -> Iterator[Row]:
    """With random weights, and without drawing the random weights that a file would overwrite."""
    entry, _ = find("retina_r50")
    runs = {
        "theirs": lambda: retinanet_resnet50_fpn(weights=None, weights_backbone=None),
        "ours": lambda: pkdzoo.create_detector("retina_r50"),
        "empty": lambda: build(entry, {}, 80, loaded=80),
    }
    times = in_turns(runs, settings)
    yield Row(7, 'create_detector("retina_r50")', AGAINST, want=1.0, **ratios(times))
    yield Row(7, "the same when weights follow", AGAINST, want=2.0, **ratios(times, ours="empty"))
