"""The rows of recipes/benchmark.py, one file a target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from recipes.benchmarks import evaluate, growth, load, loss, predict, start, step
from recipes.benchmarks.growth import Curve
from recipes.benchmarks.measure import Row, Settings

PARTS: dict[str, Callable[[Settings], Iterator[Row | Curve]]] = {
    "loss": loss.rows,
    **{f"step-{family}": partial(step.rows, family) for family in step.TITLES},
    **{f"predict-{family}": partial(predict.rows, family) for family in predict.TITLES},
    "load": load.rows,
    "evaluate": evaluate.rows,
    "growth": growth.curves,
    "start": start.rows,
}


def parts_of(words: Sequence[str]) -> list[str]:
    """Names of parts: ``step`` stands for all that begin with ``step-``.

    Raises:
        ValueError: for a word that stands for none.
    """
    found = {word: [part for part in PARTS if part == word or part.startswith(f"{word}-")] for word in words}
    unknown = [word for word, parts in found.items() if not parts]
    if unknown:
        raise ValueError(f"no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return [part for part in PARTS if any(part in parts for parts in found.values())]
