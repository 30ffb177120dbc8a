"""The rows of recipes/benchmark.py, one file a target."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from recipes.benchmarks import evaluate, growth, load, loss, predict, start, step
from recipes.benchmarks.growth import Curve
from recipes.benchmarks.measure import Row, Settings

ROWS: dict[str, Callable[[Settings], Iterator[Row | Curve]]] = {
    "loss": loss.rows,
    "step": step.rows,
    "predict": predict.rows,
    "load": load.rows,
    "evaluate": evaluate.rows,
    "growth": growth.curves,
    "start": start.rows,
}
