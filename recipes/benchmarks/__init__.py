"""The rows of recipes/benchmark.py, one file a target."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from recipes.benchmarks import loss, predict, step
from recipes.benchmarks.measure import Row, Settings

ROWS: dict[str, Callable[[Settings], Iterator[Row]]] = {"loss": loss.rows, "step": step.rows, "predict": predict.rows}
