"""Libraries of extras, which a minimal environment does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pkdzoo.models._registry import LIBRARIES, find
from pkdzoo.models.backbones.timm_networks import is_timm


def skip_without_library(name: str, args: Mapping[str, Any] | None = None) -> None:
    """Skip a test of a model whose library is not installed.

    Args:
        name: of a registered detector, or ``LIBRARY:NAME``.
        args: arguments that replace those of the entry; its backbone may be timm's.
    """
    if name.startswith(LIBRARIES):
        pytest.importorskip(name.partition(":")[0])
    elif is_timm({**find(name)[0].args, **(args or {})}.get("backbone")):
        pytest.importorskip("timm")
