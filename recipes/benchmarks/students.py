"""Prediction of small students at 640 x 640, compared with the detector that most of the literature distills.

Both are detectors of pkdzoo with random weights, so boxes and candidates are not those of trained detectors: only the
network and the steps that do not depend on scores are compared fairly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pkdzoo
from recipes.benchmarks.measure import Row, Settings, in_turns, ratios
from recipes.benchmarks.predict import ours
from recipes.benchmarks.step import batch_of

TITLES = {"rtmdet_tiny_yolo": "RTMDet-tiny", "rtmdet_s_yolo": "RTMDet-s", "gfl_r18": "GFL-R18"}
AGAINST = "RetinaNet-R50 of pkdzoo"


def rows(settings: Settings) -> Iterator[Row]:
    """Each student in turns with RetinaNet-R50, on one image."""
    side = 96 if settings.quick else 640
    batch = batch_of((side, side), 1, settings.device)
    names = {"retina_r50": AGAINST, **TITLES}
    runs: dict[str, Any] = {}
    for name in names:
        model = pkdzoo.create_detector(name).to(settings.device).eval().optimize()
        runs[name] = ours(model, batch)
    times = in_turns(runs, settings)
    for name, title in TITLES.items():
        yield Row(3, f"prediction of {title}, 1 x {side} x {side}", AGAINST, **ratios(times, name, "retina_r50"))
