"""Reading the result files of ``run.py``: by arm and seed, and with the plain student of each arm.

A *cell* is one recipe with one seed, an *arm* a recipe with all its seeds, a *matrix* one file of recipes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Cell = Mapping[str, Any]
# Fields that students must share to be compared. The learning rate may differ if no plain student has the same one.
SAME = ("model", "model_args", "init", "data", "schedule")


def load(results: Path) -> list[Cell]:
    """All cells below a folder, ordered by matrix, arm and seed."""
    cells = [json.loads(path.read_text()) for path in sorted(results.glob("*/*.json"))]
    return sorted(cells, key=lambda cell: (cell["matrix"], cell["arm"], cell["seed"]))


def by_seed(
    cells: Sequence[Cell], matrix: str, arm: str, metric: str | Callable[[Cell], float] = "AP"
) -> dict[int, float]:
    """One metric of an arm, by seed."""
    of_cell = metric if callable(metric) else lambda cell: cell["metrics"][metric]
    return {cell["seed"]: of_cell(cell) for cell in cells if (cell["matrix"], cell["arm"]) == (matrix, arm)}


def at_epoch(epoch: int | None) -> str | Callable[[Cell], float]:
    """A metric for :func:`by_seed`: AP after an epoch, or at the end for None.

    The returned function raises ValueError for a cell that was not evaluated after that epoch.
    """
    if epoch is None:
        return "AP"

    def metric(cell: Cell) -> float:
        points = {point["epoch"]: point["AP"] for point in cell["curve"]}
        if epoch not in points:
            epochs = ", ".join(map(str, points))
            raise ValueError(f"{cell['matrix']}/{cell['arm']} was evaluated after epochs {epochs}, not {epoch}")
        return float(points[epoch])

    return metric


def arms_of(cells: Sequence[Cell], matrix: str, role: str) -> dict[str, Cell]:
    """The first cell of each arm."""
    arms: dict[str, Cell] = {}
    for cell in cells:
        if cell["matrix"] == matrix and cell["role"] == role:
            arms.setdefault(cell["arm"], cell)
    return arms


def model_of(cell: Cell) -> str:
    """The registered name, and the backbone if it is not the one of the name."""
    model, backbone = cell["recipe"]["model"], cell["recipe"]["model_args"].get("backbone")
    return f"{model} on {backbone}" if backbone else str(model)


def teacher_of(cell: Cell) -> str | None:
    """The teacher of an arm: an arm of its matrix, an arm of another matrix with that name, or a registered name."""
    distill = cell["recipe"]["distill"]
    if distill is None:
        return None
    name: str = distill["teacher"]
    parts = name.removeprefix("local-dir:").split("/")
    if parts[0] == name or len(parts) < 3:
        return name
    arm = parts[-2].rpartition("-")[0]
    return arm if parts[-3] == cell["matrix"] else f"{parts[-3]}'s {arm}"


def made_of(cell: Cell) -> str:
    """Student, teacher and methods with the options that differ from the defaults."""
    model, distill = model_of(cell), cell["recipe"]["distill"]
    if distill is None:
        return model
    if not distill["methods"]:
        return f"{model}, {' and '.join(distill['freeze'])} of {teacher_of(cell)}, frozen"
    methods = (
        " ".join([name, *(f"{key} {value}" for key, value in options.items())])
        for name, options in distill["methods"].items()
    )
    return f"{model} from {teacher_of(cell)}: {' + '.join(methods)}"


def plain_of(cells: Sequence[Cell], cell: Cell) -> str | None:
    """The arm to compare with: the same student without a teacher, with the same budget.

    The steps and images of the run are compared as well: options of one call (``-- --set schedule.epochs=1``) are in
    no recipe.
    """
    plain = [
        (other["recipe"]["optim"] == cell["recipe"]["optim"], name)
        for name, other in arms_of(cells, cell["matrix"], "student").items()
        if other["recipe"]["distill"] is None
        and other["budget"] == cell["budget"]
        and all(other["recipe"][key] == cell["recipe"][key] for key in SAME)
    ]
    return max(plain, key=lambda each: each[0])[1] if plain and cell["recipe"]["distill"] else None
