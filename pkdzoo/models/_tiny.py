"""Arguments of the tiny detectors, which train in minutes without a GPU: for the demo, the tests and shipped weights.

Four one-block stages from width 16 with group norm, nothing frozen, pyramid and head 64 channels wide.
"""

from __future__ import annotations

from typing import Any

TINY_BODY: dict[str, Any] = {"backbone": "r10w16", "norm": "gn", "frozen_stages": 0, "width": 64}
# A detector of another backbone with this pyramid can teach one of these.
TINY_DENSE: dict[str, Any] = {**TINY_BODY, "depth": 2, "head_norm": "gn"}

# How recipes/experiments/bccd.py trains them; a student's teacher is trained before it.
BCCD_LAUNCH = "python recipes/experiments/run.py recipes/experiments/bccd.py --data DIR"
BCCD_OPTIONS = "--cpu --threads 1 --mixed-precision bf16 --channels-last"
