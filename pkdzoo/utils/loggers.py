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


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Put level, filters and handlers of the root logger back, which some libraries change and leave so after an error.

    Example:
        >>> import logging
        >>> from pkdzoo.utils.loggers import root_logger_kept
        >>> before = logging.getLogger().level
        >>> with root_logger_kept():
        ...     logging.getLogger().setLevel(logging.CRITICAL)
        >>> logging.getLogger().level == before
        True
    """
    root = logging.getLogger()
    level, filters, handlers = root.level, list(root.filters), list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers
