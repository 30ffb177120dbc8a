"""Levels of the loggers of other libraries."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_only(name: str) -> Iterator[None]:
    """Without the warnings of a logger, e.g. of tensors for classification, which no detector has.

    Example:
        >>> import logging
        >>> from pkdzoo.utils.loggers import errors_only
        >>> with errors_only("timm"):
        ...     logging.getLogger("timm").warning("not shown")
    """
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
