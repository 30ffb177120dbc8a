"""An experiment file: its recipes, how many seeds of each run, and which of them are teachers of the others."""

from __future__ import annotations

import runpy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pkdzoo.training import Recipe, load_recipes, resume
from recipes.experiments.result_files import SAME

RUN_FOLDER = "runs/experiments"  # where recipes expect their teachers


@dataclass(frozen=True)
class Run:
    """One recipe with one seed."""

    experiment: str
    recipe: Recipe
    seed: int

    @property
    def variant(self) -> str:
        """Name of the recipe without that of the experiment."""
        return self.recipe.name.removeprefix(f"{self.experiment}_")

    @property
    def key(self) -> str:
        """Name of the run's folder and result file."""
        return f"{self.variant}-{self.seed}"


@dataclass(frozen=True)
class Experiment:
    """Runs of one experiment file: students in the order in which they run, teachers by key."""

    path: Path
    students: list[Run]
    teachers: dict[str, Run]


def load_experiment(path: Path) -> Experiment:
    """Read an experiment file.

    Raises:
        ValueError: for a file without RUNS, an unknown name in RUNS, or students with unequal budgets.
    """
    recipes = {recipe.name: recipe for recipe in load_recipes(path)}
    planned = runpy.run_path(str(path)).get("RUNS")
    if not planned:
        raise ValueError(f"{path} is not an experiment: write RUNS = (((NAME, NAME), SEEDS), ...) beside its RECIPES")
    unknown = [name for names, _ in planned for name in names if name not in recipes]
    if unknown:
        raise ValueError(f"{path}: RUNS names {', '.join(unknown)}, RECIPES has {', '.join(recipes)}")
    students = {
        (name, seed): Run(path.stem, replace(recipes[name], seed=seed), seed)
        for names, seeds in planned
        for seed in range(seeds)
        for name in names
    }
    variants = {run.recipe.name for run in students.values()}
    check_budgets([recipes[name] for name in recipes if name in variants])
    others = [Run(path.stem, recipe, recipe.seed) for name, recipe in recipes.items() if name not in variants]
    return Experiment(path, list(students.values()), {run.key: run for run in others})


def check_budgets(recipes: Sequence[Recipe]) -> None:
    """Check that each distilled student has a plain student with the same data and schedule.

    If all recipes have one budget, no plain student is needed.

    Raises:
        ValueError: for a distilled student without one.
    """
    for recipe in recipes:
        unequal = [(r.name, resume.differences(budget(r), budget(recipe))) for r in recipes]
        name, differences = next((each for each in unequal if each[1]), ("", []))
        if differences and recipe.distill and not any(is_plain_of(other, recipe) for other in recipes):
            raise ValueError(
                f"{recipe.name} and {name} have unequal budgets: {'; '.join(differences)}. Add the same student "
                "without a teacher on that budget, or write another experiment"
            )


def budget(recipe: Recipe) -> dict[str, Any]:
    """The fields that students must share to be compared."""
    content = recipe.to_dict()
    return {key: content[key] for key in ("data", "schedule", "logging")}


def is_plain_of(plain: Recipe, distilled: Recipe) -> bool:
    """Whether two students differ only in the teacher and the optimizer."""
    one, other = plain.to_dict(), distilled.to_dict()
    return plain.distill is None and all(one[key] == other[key] for key in SAME)


def teacher_key(experiment: Experiment, run: Run) -> str | None:
    """Key of the run of this experiment that is the teacher; None for a teacher from elsewhere, or none."""
    teacher = run.recipe.distill.teacher if run.recipe.distill else ""
    start = f"local-dir:{RUN_FOLDER}/{experiment.path.stem}/"
    key = teacher.removeprefix(start).partition("/")[0] if teacher.startswith(start) else None
    if key is not None and key not in experiment.teachers:
        raise ValueError(f"{run.recipe.name} learns from {teacher}, but the file has {', '.join(experiment.teachers)}")
    return key


def in_order(experiment: Experiment, keys: Iterable[str]) -> list[Run]:
    """The runs with these keys (without keys, all), each teacher before the first run that needs it."""
    known = {run.key: run for run in [*experiment.teachers.values(), *experiment.students]}
    missing = [key for key in keys if key not in known]
    if missing:
        raise ValueError(f"{experiment.path} has no run {', '.join(missing)}; it has {', '.join(known)}")
    ordered: dict[str, Run] = {}
    for run in [known[key] for key in keys] or experiment.students:
        key = compared_with(experiment, run)
        if key in experiment.teachers:
            ordered.setdefault(key, experiment.teachers[key])
        ordered.setdefault(run.key, run)
    return list(ordered.values())


def compared_with(experiment: Experiment, run: Run) -> str | None:
    """Key of a teacher of this experiment, or a registered name: its pyramid is compared with the run's."""
    if run.key in experiment.teachers:
        return None
    if run.recipe.distill is None:
        return next(iter(experiment.teachers), None)
    return teacher_key(experiment, run) or run.recipe.distill.teacher
