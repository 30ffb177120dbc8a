"""The page of the experiments, from the result files of the runs: tables, curves, claims."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pkdzoo.maintain.recipes_page import BEGIN, END
from pkdzoo.training.intervals import interval, paired, spread, summarize
from recipes.experiments import claims
from recipes.experiments.result_files import (
    RunResult,
    at_epoch,
    by_seed,
    load,
    made_of,
    model_of,
    plain_of,
    same_torch,
    teacher_of,
    variants_of,
)

COMPARED = ("plain", "mse", "pkd", "pkd_fading", "ld", "crosskd", "norm_cwd")  # of the short table and the curves

TITLE = """# Experiments: does distillation help?

Each difference is one of AP, with its 95 % interval over several seeds if not said otherwise. Short trainings are the
experiments `bccd` and `deeppcb`, longer ones those that begin with `rtmdet_` and `gfl_`. RetinaNet, FCOS, GFL and
RTMDet are detectors; PKD, MSE, Norm + KL, CWD, CrossKD, LD and FGD are [methods](../../docs/methods.md), and CWD after
a norm is `norm_cwd` there. T is a temperature.
"""
HEAD = """## How to read this page

Results of [run.py](run.py), which skips runs whose results are here; add `--results again` to train them once more.
Below `results/` there is one file per run (a recipe with a seed): command, commits,
versions, hardware, hashes of the data, the twelve COCO metrics, AP by epoch, and Pearson's r with the teacher's
pyramid. This page is generated: `python recipes/experiments/run.py --report`.

- **Names.** A row `bccd: pkd (retina_r10w16)` is a run of the experiment `bccd` and its architecture. `plain` is the
  student without a teacher, `pkd_fading` PKD with a weight that falls to 0; the experiment's recipe explains others.
- **Equal budgets.** A student and its plain student have the same images, batches, epochs and learning rate. They do
  not take the same time, because a step with a teacher takes longer (last table).
- **AP** is in percent, of the last epoch, on the validation images. **±** is the standard deviation over seeds.
- **Hours** are those of processor time of the steps, without evaluations, mean of the seeds that measured them.
- **"Minus plain"** is the mean difference to the plain student of the same seed and as many epochs, with its 95 %
  interval (Student's t).
- **"Difference"** of a claim is the first AP minus the second, over the seeds that both have. With four APs, the
  difference of the last two is subtracted.
- **Chance.** An interval that contains 0 shows no difference. A single seed shows nothing. One of twenty intervals is
  expected to miss the true value.
- **Pearson's r** is computed over the first batches of validation images, about 100 images, for the levels that PKD
  compares, from the finest to the coarsest. Plain students are compared with the first teacher of the experiment. It is
  empty where the pyramids differ in width, because their channels are no pairs.
- **Teachers** are trained once, so ± does not contain the effect of another seed of the teacher. A teacher is used
  with its best epoch on the same validation images. The epoch of a student is never chosen.

Data: [BCCD](https://github.com/Shenggan/BCCD_Dataset) (MIT, © 2017 shenggan) and
[DeepPCB](https://github.com/tangsanli5201/DeepPCB) (MIT, © 2018 tangsanli5201; its page says "research purpose"). None
of their images is in this repository; [prepare_data.py](prepare_data.py) writes the folders `bccd/` and `deeppcb/` of
the commands from a clone of theirs.
"""


# -- tables ----------------------------------------------------------------------------------------------------------


def table(runs: Sequence[RunResult], experiment: str) -> str:
    """An experiment as Markdown: teachers, then students, ordered by their mean AP."""
    lines = [
        "| | student, teacher, method | seeds | steps | hours | AP | AP50 | AP75 | minus plain | Pearson's r |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    rows = [
        ("teacher", variants_of(runs, experiment, "teacher")),
        ("student", variants_of(runs, experiment, "student")),
    ]
    for role, variants in rows:
        for variant in sorted(
            variants, key=lambda name: -summarize(list(by_seed(runs, experiment, name).values())).mean
        ):
            numbers = [
                summarize(list(by_seed(runs, experiment, variant, key).values())) for key in ("AP", "AP50", "AP75")
            ]
            steps = f"{variants[variant]['budget']['steps']:,}"
            shown = [
                f"{variant} ({role})" if role == "teacher" else variant,
                made_of(variants[variant]),
                str(numbers[0].count),
                steps,
                cpu_hours(runs, experiment, variant),
            ]
            shown += [*map(spread, numbers), gain(runs, variants[variant]), similarity(runs, experiment, variant)]
            lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def cpu_hours(runs: Sequence[RunResult], experiment: str, variant: str) -> str:
    """Mean hours of processor time of the runs that measured them; an empty text if none did."""
    found = [run.get("cpu_hours") for run in runs if (run["experiment"], run["variant"]) == (experiment, variant)]
    hours = [each for each in found if each is not None]
    return f"{sum(hours) / len(hours):.2f}" if hours else ""


def gain(runs: Sequence[RunResult], run: RunResult) -> str:
    """The difference between the variant of a run and its plain student."""
    experiment, plain = run["experiment"], plain_of(runs, run)
    if plain is None:
        return ""
    same = variants_of(runs, experiment, "student")[plain]["recipe"]["optim"] == run["recipe"]["optim"]
    found = interval(paired(by_seed(runs, experiment, run["variant"]), by_seed(runs, experiment, plain)))
    remarks = [] if same else ["with another learning rate"]
    if not same_torch(runs, experiment, run["variant"], plain):
        remarks.append("with another version of torch")
    return ", ".join([found, *remarks]) if found else ""


def similarity(runs: Sequence[RunResult], experiment: str, variant: str) -> str:
    """Pearson's r of each level, mean over seeds."""
    found = [
        run["pearson"]["r"]
        for run in runs
        if (run["experiment"], run["variant"]) == (experiment, variant) and run["pearson"]
    ]
    return ", ".join(f"{sum(level) / len(level):.2f}" for level in zip(*found, strict=True))


def short(runs: Sequence[RunResult]) -> str:
    """The short table: teacher, plain student and compared methods of each experiment with a plain student and PKD."""
    lines = ["| | seeds | AP | AP50 | AP75 | minus plain |", "|---|---:|---:|---:|---:|---:|"]
    for experiment in experiments(runs):
        students = variants_of(runs, experiment, "student")
        if "plain" not in students or "pkd" not in students:
            continue
        of = teacher_of(students["pkd"])
        teachers = variants_of(runs, experiment, "teacher")
        rows = [("teacher", of, teachers[of])] if of is not None and of in teachers else []
        rows += [("student", variant, students[variant]) for variant in COMPARED if variant in students]
        for role, variant, run in rows:
            numbers = [
                summarize(list(by_seed(runs, experiment, variant, key).values())) for key in ("AP", "AP50", "AP75")
            ]
            name = f"{experiment}: {f'teacher {variant}' if role == 'teacher' else variant} ({model_of(run)})"
            shown = [name, str(numbers[0].count), *map(spread, numbers), gain(runs, run)]
            lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) if len(lines) > 2 else "No experiment has been run yet."


Curves = dict[str, dict[int, float]]  # AP by epoch, of each variant


def curves(runs: Sequence[RunResult], experiment: str) -> list[tuple[Curves, int]]:
    """Mean AP by epoch of variants with equal budgets, and the number of seeds: the compared ones, then longer ones.

    Of the compared ones, those with fewer seeds than PKD are left out, so that they do not decide how many are shown.
    Of longer ones, those with the most seeds are shown alone, too. Groups whose variants have no seed in common are
    left out, and a variant that has nothing to be compared with.
    """
    students = variants_of(runs, experiment, "student")
    least = set(by_seed(runs, experiment, "pkd"))
    seeds_of = {variant: frozenset(by_seed(runs, experiment, variant)) for variant in students}
    groups = {0: [each for each in COMPARED if each in students and least <= seeds_of[each]]}
    for variant, run in students.items():
        images = run["budget"]["images"]
        if "plain" in students and images > students["plain"]["budget"]["images"]:
            groups.setdefault(images, []).append(variant)
    found = []
    for images, variants in sorted(groups.items()):
        most = max((seeds_of[each] for each in variants), key=len, default=frozenset())
        with_most = [each for each in variants if images and seeds_of[each] == most]
        for part in [with_most, variants] if len(with_most) < len(variants) else [variants]:
            seeds = frozenset.intersection(most, *(seeds_of[each] for each in part))
            if seeds and (images or len(part) > 1):
                found.append(({each: mean_curve(runs, experiment, each, seeds) for each in part}, len(seeds)))
    return found


def mean_curve(runs: Sequence[RunResult], experiment: str, variant: str, seeds: Iterable[int]) -> dict[int, float]:
    """Mean AP of some seeds of a variant, by epoch."""
    epochs = [point["epoch"] for point in variants_of(runs, experiment, "student")[variant]["curve"]]
    by_epoch = {epoch: by_seed(runs, experiment, variant, at_epoch(epoch)) for epoch in epochs}
    return {epoch: summarize([values[seed] for seed in seeds]).mean for epoch, values in by_epoch.items()}


def over_seeds(seeds: int) -> str:
    """What a curve is, by the number of its seeds."""
    return "one seed" if seeds == 1 else f"mean of {seeds} seeds"


def curve_table(found: Curves, seeds: int) -> str:
    """The curves as Markdown."""
    epochs = list(next(iter(found.values())))
    lines = [
        f"| AP after epoch, {over_seeds(seeds)} | {' | '.join(map(str, epochs))} |",
        f"|---{'|---:' * len(epochs)}|",
    ]
    lines += [f"| {variant} | {' | '.join(f'{points[e]:.1f}' for e in epochs)} |" for variant, points in found.items()]
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


def experiments(runs: Sequence[RunResult]) -> list[str]:
    """Names of the experiments that have results."""
    return sorted({run["experiment"] for run in runs})


def measured(folder: Path) -> list[dict[str, Any]]:
    """The result files of another script."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def page(results: Path) -> str:
    """The text of README.md."""
    runs = load(results)
    maps, costs = (measured(results.parent / name) for name in ("maps", "costs"))
    parts = ["\n".join([TITLE, claims.SUMMARY_HEAD, *claims.summary_rows(runs, maps, costs), ""])]
    parts += [HEAD, f"## In short\n\n{BEGIN}{short(runs)}\n{END}"]
    parts.append("\n".join(["## The comparisons behind the claims", "", *claims.claim_rows(runs, maps, costs)]))
    for experiment in experiments(runs):
        of_experiment = [run for run in runs if run["experiment"] == experiment]
        description = f"{subject(results.parent / f'{experiment}.py')}\n\n{source(of_experiment)}".strip()
        parts.append(f"## {experiment}\n\n{description}\n\n{table(runs, experiment)}\n")
        parts += trained_again(of_experiment)
        parts += [f"{curve_table(*found)}\n" for found in curves(runs, experiment)]
        image = results.parent / "curves" / f"{experiment}.png"
        if image.is_file():
            parts.append(f"![AP over epochs of {experiment}]({image.parent.name}/{image.name})\n")
    if maps:
        parts.append(
            f"## Maps\n\nMeasured by [maps.py](maps.py), from the finest level to the coarsest.\n\n{maps_table(maps)}\n"
        )
    if costs:
        how = "Median and quartiles over rounds. The three steps run alternately, see [head_cost.py](head_cost.py)."
        parts.append(f"## What the teacher's head would cost\n\n{how}\n\n{costs_table(costs)}\n")
    return "\n".join(parts).rstrip("\n") + "\n"


def trained_again(runs: Sequence[RunResult]) -> list[str]:
    """A paragraph for each teacher of an experiment that was trained again: which runs learned from which weights."""
    lines = []
    for teacher in (run for run in runs if run["role"] == "teacher"):
        key, first = f"{teacher['variant']}-{teacher['seed']}", max(point["AP"] for point in teacher["curve"])
        others: dict[float, list[str]] = {}
        for run in runs:
            about = run.get("teacher")
            if about and about["run"] == key and about["AP"] != first:
                others.setdefault(about["AP"], []).append(f"{run['variant']}-{run['seed']}")
        for ap, students in others.items():
            lines.append(
                f"The teacher {teacher['variant']} was trained again, with {ap:.1f} AP in place of {first:.1f}, for "
                f"the students {', '.join(students)}. The other students learned from the one in the table.\n"
            )
    return lines


def subject(path: Path) -> str:
    """The first line of an experiment file's docstring; an empty text if there is no such file."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) if path.is_file() else None
    return (docstring or "").partition("\n")[0]


def source(runs: Sequence[RunResult]) -> str:
    """Images, budget, hardware and versions of an experiment, in one or two sentences."""
    first = next((run for run in runs if run["role"] == "student"), runs[0])
    data = first["data"]
    path = f"{first['experiment']}.py"
    machines = trained_on(runs)
    if first["role"] == "teacher":
        return f"[{path}]({path}): no student yet. {machines}"
    images = sorted({run["budget"]["images"] for run in runs if run["role"] == "student"})
    return (
        f"[{path}]({path}): {data['train']['images']} images for training, {data['val']['images']} for "
        f"validation. A student takes {' or '.join(f'{count:,}' for count in images)} images. {machines}"
    )


def trained_on(runs: Sequence[RunResult]) -> str:
    """All hardware, versions of torch, options of recipes/train.py, and commits of some runs."""

    def every(values: Iterable[str]) -> str:
        return " or ".join(dict.fromkeys(values))

    after = (run["command"].partition(f" --set seed={run['seed']}")[2].strip() for run in runs)
    options = every(f"`{text}`" if text else "none" for text in after)
    code = every(commit[:7] + "+" * commit.endswith("+") for run in runs for commit in run["commits"])
    hardware = every(re.sub(r"\b1 threads", "1 thread", run["hardware"]) for run in runs)  # as older files have it
    torch = every(run["versions"]["torch"] for run in runs)
    return f"Trained on {hardware}, torch {torch}, options {options}, commit {code}."


def write(results: Path) -> Path:
    """Write README.md beside the folder of the results, and the figures of the curves if matplotlib is installed.

    Raises:
        ValueError: for a README.md that is no page of experiments.
    """
    path = results.parent / "README.md"
    if path.exists() and not path.read_text().startswith(TITLE.partition("\n")[0]):
        raise ValueError(f"{path} is another page and is kept: put the folder of the results into a folder of its own")
    draw_curves(results)
    path.write_text(page(results))
    return path


def draw_curves(results: Path) -> list[Path]:
    """Draw a figure for each experiment that was evaluated more than twice; none without matplotlib."""
    try:
        from pkdzoo.figures import Run, draw
    except ImportError:
        return []
    runs, written = load(results), []
    for experiment in experiments(runs):
        found: dict[str, tuple[dict[int, float], int]] = {}
        for group, seeds in curves(runs, experiment):
            for variant, points in group.items():
                found.setdefault(variant, (points, seeds))  # the first group has the most seeds
        if not found or len(next(iter(found.values()))[0]) < 3:
            continue
        lines = [
            Run(f"{variant}, {over_seeds(seeds)}", epochs=list(points), ap=list(points.values()))
            for variant, (points, seeds) in found.items()
        ]
        teachers = variants_of(runs, experiment, "teacher")
        levels = {
            f"teacher {variant}": summarize(list(by_seed(runs, experiment, variant).values())).mean
            for variant in teachers
        }
        path = results.parent / "curves" / f"{experiment}.png"
        path.parent.mkdir(exist_ok=True)
        draw.save(draw.convergence(lines, levels), path)
        written.append(path)
    return written
