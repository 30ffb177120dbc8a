"""The AP of every seed of an experiment: at the end, of each class and early in training. For docs/measured.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from recipes.experiments.report import cpu_hours
from recipes.experiments.result_files import RunResult, load, variants_of

RESULTS = Path(__file__).parent / "results"
MOST_CLASSES, MOST_EPOCHS = 3, 3  # columns of one kind
ROWS = {
    "w24": "teacher",
    "cspnext": "teacher",
    "w24_twice": "teacher, twice the epochs",
    "plain": "plain",
    "plain_twice": "plain, twice the epochs",
    "plain_four_times": "plain, four times the epochs",
    "pkd": "with PKD",
    "pkd_fading": "with PKD, its weight falling to 0",
    "pkd_weight_1": "with PKD, weight 1",
    "mse": "with MSE",
    **{f"mse_weight_{weight}": f"with MSE, weight {weight}" for weight in ("1", "0.1", "0.01")},
    "pkd_twice": "with PKD, twice the epochs",
    "mse_twice": "with MSE, twice the epochs",
    "norm_cwd": "with CWD after a norm",
    "norm_cwd_twice": "with CWD after a norm, twice the epochs",
    "norm_kl": "with Norm + KL",
    "fgd": "with FGD",
    "ld": "with LD",
    "crosskd": "with CrossKD",
}


def table(experiment: str, results: Path = RESULTS) -> str:
    """An experiment as Markdown: a row for each variant that was run, with the values of its seeds.

    Args:
        experiment: name of the recipe file.
        results: folder of the result files.
    """
    of_experiment = [run for run in load(results) if run["experiment"] == experiment]
    known = {**variants_of(of_experiment, experiment, "teacher"), **variants_of(of_experiment, experiment, "student")}
    classes, epochs = classes_of(known["plain"]), early_epochs(known["plain"])
    heads = ["student", "AP", "AP50", *classes, *(f"after {epoch} epochs" for epoch in epochs), "hours"]
    lines = [f"| {' | '.join(heads)} |", f"|---{'|---:' * (len(heads) - 1)}|"]
    for variant, title in ROWS.items():
        runs = [run for run in of_experiment if run["variant"] == variant]
        if not runs:
            continue
        seeds = f", seed{'s' * (len(runs) > 1)} {', '.join(str(run['seed']) for run in runs)}"
        cells = [title if runs[0]["role"] == "teacher" else title + seeds]
        cells += [values(run["metrics"][key] for run in runs) for key in ("AP", "AP50")]
        cells += [values(run["metrics"]["per_class"][name] for run in runs) for name in classes]
        cells += [values(ap_after(run, epoch) for run in runs) for epoch in epochs]
        lines.append(f"| {' | '.join([*cells, cpu_hours(runs, experiment, variant)])} |")
    return "\n".join(lines) + "\n"


def values(numbers: Iterable[float]) -> str:
    """The numbers of all seeds, with one decimal."""
    return ", ".join(f"{number:.1f}" for number in numbers)


def classes_of(run: RunResult) -> list[str]:
    """Names of the classes; none if there are too many for columns."""
    names = list(run["metrics"]["per_class"])
    return names if len(names) <= MOST_CLASSES else []


def early_epochs(run: RunResult) -> list[int]:
    """Epochs before the last that were evaluated, the earliest ones first."""
    return [point["epoch"] for point in run["curve"][:-1]][:MOST_EPOCHS]


def ap_after(run: RunResult, epoch: int) -> float:
    """AP after an epoch."""
    return float(next(point["AP"] for point in run["curve"] if point["epoch"] == epoch))
