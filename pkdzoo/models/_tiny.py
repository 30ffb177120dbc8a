"""Arguments of the tiny detectors, which train in minutes on a CPU: for the demo, the tests and the packaged weights.

Four stages of one block each, width 16, group norm, no frozen stages, 64 channels in pyramid and head.
"""

from __future__ import annotations

from typing import Any

TINY_ARGS: dict[str, Any] = {"backbone": "r10w16", "norm": "gn", "frozen_stages": 0, "width": 64}
# A teacher for these has the same pyramid and any backbone.
TINY_DENSE: dict[str, Any] = {**TINY_ARGS, "depth": 2, "head_norm": "gn"}
