"""The parts of recipes/benchmark.py, one file per target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from recipes.benchmarks import assign, create, evaluate, load, loss, predict, scaling, step, students, train
from recipes.benchmarks.measure import Row, Settings
from recipes.benchmarks.scaling import Curve

PARTS: dict[str, Callable[[Settings], Iterator[Row | Curve]]] = {
    "loss": loss.rows,
    **{f"step-{family}": partial(step.rows, family) for family in step.TITLES},
    "assign": assign.rows,
    "train": train.rows,
    **{f"predict-{family}": partial(predict.rows, family) for family in predict.TITLES},
    "students": students.rows,
    "load": load.rows,
    "evaluate": evaluate.rows,
    "scaling": scaling.curves,
    "create": create.rows,
}


def parts_of(names: Sequence[str]) -> list[str]:
    """Names of parts; ``step`` selects all parts that begin with ``step-``.

    Raises:
        ValueError: for a name that selects no part.
    """
    selected = {name: [part for part in PARTS if part == name or part.startswith(f"{name}-")] for name in names}
    unknown = [name for name, parts in selected.items() if not parts]
    if unknown:
        raise ValueError(f"no part {', '.join(unknown)}; write {', '.join(PARTS)}")
    return [part for part in PARTS if any(part in parts for parts in selected.values())]
