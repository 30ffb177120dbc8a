"""Libraries of extras, which a minimal environment does not have."""

from __future__ import annotations

import pytest

from pkdzoo.models._registry import find
from pkdzoo.models.backbones.timm import is_timm


def skip_without_library(name: str) -> None:
    """Skip a test of a registered detector whose backbone is timm's where timm is not installed."""
    if is_timm(find(name)[0].args.get("backbone")):
        pytest.importorskip("timm")
