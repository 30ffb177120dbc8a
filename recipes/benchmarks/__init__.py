"""The parts of recipes/benchmark.py, one file per target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module

from recipes.benchmarks import predict, step
from recipes.benchmarks.measure import Row, Settings
from recipes.benchmarks.profiles import Profile
from recipes.benchmarks.scaling import Curve

Part = Callable[[Settings], Iterator[Row | Curve | Profile]]


def part(file: str, function: str = "rows") -> Part:
    """A part whose file is imported when it runs: recipes/benchmarks/versions.py runs parts with earlier versions."""

    def run(settings: Settings) -> Iterator[Row | Curve | Profile]:
        yield from getattr(import_module(f"recipes.benchmarks.{file}"), function)(settings)

    return run


PARTS: dict[str, Part] = {
    "loss": part("loss"),
    "projected": part("projected"),
    **{f"step-{family}": partial(step.rows, family) for family in step.TITLES},
    "assign": part("assign"),
    "profile": part("profiles"),
    "train": part("train"),
    **{f"predict-{family}": partial(predict.rows, family) for family in predict.TITLES},
    "students": part("students"),
    "load": part("load"),
    "evaluate": part("evaluate"),
    "scaling": part("scaling", "curves"),
    "create": part("create"),
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
