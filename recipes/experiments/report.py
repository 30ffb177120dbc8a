"""The page of the experiments, from the result files of the cells: tables, curves, claims."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pkdzoo.maintain.recipes_page import BEGIN, END
from recipes.experiments import claims
from recipes.experiments.cells import Cell, arms_of, at_epoch, by_seed, load, made_of, model_of, plain_of, teacher_of
from recipes.experiments.intervals import interval, paired, spread, summarize

COMPARED = ("plain", "mse", "pkd")  # arms of the short table and of the curves

HEAD = """# Experiments: does distillation help?

Results of [run.py](run.py). Below `results/` there is one file per cell (a recipe with a seed): command, commits,
versions, hardware, hashes of the data, the twelve COCO metrics, AP by epoch, and Pearson's r with the teacher's
pyramid. This page is generated: `python recipes/experiments/run.py --report`.

How to read it:

- **Equal budgets.** A student and its plain student have the same images, batches, epochs and learning rate. They do
  not take the same time, because a step with a teacher takes longer (last table).
- **AP** is in percent, of the last epoch, on the validation images. **±** is the standard deviation over seeds.
- **"Minus plain"** is the mean difference to the plain student of the same seed, with its 95 % interval (Student's t).
- **"Difference"** of a claim is the first number under "here" minus the second, over the seeds that both have. With
  four numbers, the difference of the last two is subtracted.
- **Chance.** An interval that contains 0 shows no difference. A single seed shows nothing. One of twenty intervals is
  expected to miss the true value.
- **Pearson's r** is computed over at most 100 validation images for the levels that PKD compares, from the finest to
  the coarsest. Plain students are compared with the first teacher of the matrix.
- **Teachers** are trained once, so ± does not contain the effect of another seed of the teacher. A teacher is used
  with its best epoch on the same validation images. The epoch of a student is never chosen.

Data: [BCCD](https://github.com/Shenggan/BCCD_Dataset) (MIT, © 2017 shenggan) and
[DeepPCB](https://github.com/tangsanli5201/DeepPCB) (MIT, © 2018 tangsanli5201; its page says "research purpose"). None
of their images is in this repository.
"""


# -- tables ----------------------------------------------------------------------------------------------------------


def table(cells: Sequence[Cell], matrix: str) -> str:
    """A matrix as Markdown: teachers, then students, ordered by their mean AP."""
    lines = [
        "| | student, teacher, method | seeds | steps | AP | AP50 | AP75 | minus plain, same seeds | Pearson's r |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    rows = [("teacher", arms_of(cells, matrix, "teacher")), ("student", arms_of(cells, matrix, "student"))]
    for role, arms in rows:
        for arm in sorted(arms, key=lambda name: -summarize(list(by_seed(cells, matrix, name).values())).mean):
            numbers = [summarize(list(by_seed(cells, matrix, arm, key).values())) for key in ("AP", "AP50", "AP75")]
            steps = f"{arms[arm]['budget']['steps']:,}"
            shown = [f"{arm} ({role})" if role == "teacher" else arm, made_of(arms[arm]), str(numbers[0].count), steps]
            shown += [*map(spread, numbers), gain(cells, arms[arm]), similarity(cells, matrix, arm)]
            lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def gain(cells: Sequence[Cell], cell: Cell) -> str:
    """The difference between the arm of a cell and its plain student."""
    matrix, plain = cell["matrix"], plain_of(cells, cell)
    if plain is None:
        return ""
    same = arms_of(cells, matrix, "student")[plain]["recipe"]["optim"] == cell["recipe"]["optim"]
    found = interval(paired(by_seed(cells, matrix, cell["arm"]), by_seed(cells, matrix, plain)))
    return found if same or not found else f"{found}, with another learning rate"


def similarity(cells: Sequence[Cell], matrix: str, arm: str) -> str:
    """Pearson's r of each level, mean over seeds."""
    found = [
        cell["pearson"]["r"] for cell in cells if (cell["matrix"], cell["arm"]) == (matrix, arm) and cell["pearson"]
    ]
    return ", ".join(f"{sum(level) / len(level):.2f}" for level in zip(*found, strict=True))


def short(cells: Sequence[Cell]) -> str:
    """The short table: teacher, plain student, MSE and PKD of each matrix that has a plain student and PKD."""
    lines = ["| | seeds | AP | AP50 | AP75 | minus plain |", "|---|---:|---:|---:|---:|---:|"]
    for matrix in matrices(cells):
        students = arms_of(cells, matrix, "student")
        if "plain" not in students or "pkd" not in students:
            continue
        of = teacher_of(students["pkd"])
        teachers = arms_of(cells, matrix, "teacher")
        rows = [("teacher", of, teachers[of])] if of is not None and of in teachers else []
        rows += [("student", arm, students[arm]) for arm in COMPARED if arm in students]
        for role, arm, cell in rows:
            numbers = [summarize(list(by_seed(cells, matrix, arm, key).values())) for key in ("AP", "AP50", "AP75")]
            name = f"{matrix}: {f'teacher {arm}' if role == 'teacher' else arm} ({model_of(cell)})"
            shown = [name, str(numbers[0].count), *map(spread, numbers), gain(cells, cell)]
            lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) if len(lines) > 2 else "No matrix has been run yet."


def common_seeds(cells: Sequence[Cell], matrix: str) -> tuple[list[str], set[int]]:
    """The compared arms of a matrix, and the seeds that all of them have; no seeds for fewer than two arms."""
    arms = [arm for arm in COMPARED if arm in arms_of(cells, matrix, "student")]
    seeds = set.intersection(*(set(by_seed(cells, matrix, arm)) for arm in arms)) if len(arms) > 1 else set()
    return arms, seeds


def curve(cells: Sequence[Cell], matrix: str) -> dict[str, dict[int, float]]:
    """Mean AP of the compared arms, by epoch."""
    arms, seeds = common_seeds(cells, matrix)
    if not seeds:
        return {}
    epochs = [point["epoch"] for point in arms_of(cells, matrix, "student")[arms[0]]["curve"]]
    found: dict[str, dict[int, float]] = {}
    for arm in arms:
        by_epoch = {epoch: by_seed(cells, matrix, arm, at_epoch(epoch)) for epoch in epochs}
        found[arm] = {epoch: summarize([values[s] for s in seeds]).mean for epoch, values in by_epoch.items()}
    return found


def curve_table(found: Mapping[str, Mapping[int, float]], seeds: int) -> str:
    """The curves as Markdown."""
    epochs = list(next(iter(found.values())))
    over = "one seed" if seeds == 1 else f"mean of {seeds} seeds"
    lines = [f"| AP after epoch, {over} | {' | '.join(map(str, epochs))} |", f"|---{'|---:' * len(epochs)}|"]
    lines += [f"| {arm} | {' | '.join(f'{points[e]:.1f}' for e in epochs)} |" for arm, points in found.items()]
    return "\n".join(lines)


def maps_table(maps: Sequence[Mapping[str, Any]]) -> str:
    """The results of maps.py as Markdown."""
    lines = [
        "| pyramid | root mean square of each level | share of the strongest channels | number of channels |",
        "|---|---|---|---|",
    ]
    for each in maps:
        rms = ", ".join(f"{level['rms']:.2f}" for level in each["levels"])
        share = ", ".join(f"{level['strongest']:.0%}" for level in each["levels"])
        counted = claims.counted(each)
        lines.append(f"| {each['name']}, {each['images']} images | {rms} | {share} | {counted} |")
    return "\n".join(lines)


def costs_table(costs: Sequence[Mapping[str, Any]]) -> str:
    """The results of head_cost.py as Markdown."""

    def ratio(found: Mapping[str, float]) -> str:
        return f"{found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f}), processor time {found['cpu']:.2f}"

    lines = [
        "| recipe, images of a step | plain step | PKD's step / plain step | with the teacher's head / PKD's step |",
        "|---|---:|---:|---:|",
    ]
    for each in costs:
        about = each["about"]
        pair = f"{each['name']}: {each['student']} from {each['teacher']}, {each['images']}"
        machine = f"{about['threads']} of {about['cores']} cores of {about['machine']}, torch {about['torch']}"
        first = f"{pair}; {each['rounds']} rounds on {machine}, load {about['load before']}"
        plain = f"{1000 * each['plain']['median']:.0f} ms"
        lines.append(f"| {first} | {plain} | {ratio(each['cut / plain'])} | {ratio(each['whole / cut'])} |")
    return "\n".join(lines)


# -- the page --------------------------------------------------------------------------------------------------------


def matrices(cells: Sequence[Cell]) -> list[str]:
    """Names of the matrices that have results."""
    return sorted({cell["matrix"] for cell in cells})


def measured(folder: Path) -> list[dict[str, Any]]:
    """The result files of another script."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def page(results: Path) -> str:
    """The text of README.md."""
    cells = load(results)
    maps, costs = (measured(results.parent / name) for name in ("maps", "costs"))
    parts = [HEAD, f"## In short\n\n{BEGIN}{short(cells)}\n{END}"]
    parts.append("\n".join(["## The paper's claims", "", claims.HEAD, *claims.claim_rows(cells, maps, costs), ""]))
    for matrix in matrices(cells):
        of_matrix = [cell for cell in cells if cell["matrix"] == matrix]
        description = f"{subject(results.parent / f'{matrix}.py')}\n\n{source(of_matrix)}".strip()
        parts.append(f"## {matrix}\n\n{description}\n\n{table(cells, matrix)}\n")
        found = curve(cells, matrix)
        if found:
            parts.append(f"{curve_table(found, len(common_seeds(cells, matrix)[1]))}\n")
        image = results.parent / "curves" / f"{matrix}.png"
        if image.is_file():
            parts.append(f"![AP over epochs of {matrix}]({image.parent.name}/{image.name})\n")
    if maps:
        parts.append(
            f"## Maps\n\nMeasured by [maps.py](maps.py), from the finest level to the coarsest.\n\n{maps_table(maps)}\n"
        )
    if costs:
        how = "Median and quartiles over rounds. The three steps run alternately, see [head_cost.py](head_cost.py)."
        parts.append(f"## What the teacher's head would cost\n\n{how}\n\n{costs_table(costs)}\n")
    return "\n".join(parts).rstrip("\n") + "\n"


def subject(path: Path) -> str:
    """The first line of a matrix file's docstring; an empty text if there is no such file."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) if path.is_file() else None
    return (docstring or "").partition("\n")[0]


def source(cells: Sequence[Cell]) -> str:
    """Images, budget, hardware and versions of a matrix, in one or two sentences."""
    first = next((cell for cell in cells if cell["role"] == "student"), cells[0])
    data = first["data"]
    path = f"{first['matrix']}.py"
    machines = trained_on(cells)
    if first["role"] == "teacher":
        return f"[{path}]({path}): no student yet. {machines}"
    images = sorted({cell["budget"]["images"] for cell in cells if cell["role"] == "student"})
    return (
        f"[{path}]({path}): {data['train']['images']} images for training, {data['val']['images']} for "
        f"validation. A student takes {' or '.join(f'{count:,}' for count in images)} images. {machines}"
    )


def trained_on(cells: Sequence[Cell]) -> str:
    """All hardware, versions of torch, options of recipes/train.py, and commits of some cells."""

    def every(values: Iterable[str]) -> str:
        return " or ".join(dict.fromkeys(values))

    after = (cell["command"].partition(f" --set seed={cell['seed']}")[2].strip() for cell in cells)
    options = every(f"`{text}`" if text else "none" for text in after)
    code = every(commit[:7] + "+" * commit.endswith("+") for cell in cells for commit in cell["commits"])
    hardware, torch = every(cell["hardware"] for cell in cells), every(cell["versions"]["torch"] for cell in cells)
    return f"Trained on {hardware}, torch {torch}, options {options}, commit {code}."


def write(results: Path) -> Path:
    """Write README.md beside the folder of the results, and the figures of the curves if matplotlib is installed."""
    draw_curves(results)
    path = results.parent / "README.md"
    path.write_text(page(results))
    return path


def draw_curves(results: Path) -> list[Path]:
    """Draw a figure for each matrix that was evaluated more than twice; none without matplotlib."""
    try:
        from pkdzoo.figures import Run, draw
    except ImportError:
        return []
    cells, written = load(results), []
    for matrix in matrices(cells):
        found = curve(cells, matrix)
        if not found or len(next(iter(found.values()))) < 3:
            continue
        runs = [Run(arm, epochs=list(points), ap=list(points.values())) for arm, points in found.items()]
        teachers = arms_of(cells, matrix, "teacher")
        levels = {f"teacher {arm}": summarize(list(by_seed(cells, matrix, arm).values())).mean for arm in teachers}
        path = results.parent / "curves" / f"{matrix}.png"
        path.parent.mkdir(exist_ok=True)
        draw.save(draw.convergence(runs, levels), path)
        written.append(path)
    return written
