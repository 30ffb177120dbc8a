"""Reading the result files of ``run.py``: by variant and seed, and with the plain student of each variant.

A *run* is one recipe with one seed, a *variant* a recipe with all its seeds, an *experiment* one file of recipes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RunResult = Mapping[str, Any]
# Fields that students must share to be compared. The learning rate may differ if no plain student has the same one.
SAME = ("model", "model_args", "init", "data", "schedule")


def load(results: Path) -> list[RunResult]:
    """All runs below a folder, ordered by experiment, variant and seed."""
    runs = [json.loads(path.read_text()) for path in sorted(results.glob("*/*.json"))]
    return sorted(runs, key=lambda run: (run["experiment"], run["variant"], run["seed"]))


def by_seed(
    runs: Sequence[RunResult], experiment: str, variant: str, metric: str | Callable[[RunResult], float] = "AP"
) -> dict[int, float]:
    """One metric of a variant, by seed."""
    of_run = metric if callable(metric) else lambda run: run["metrics"][metric]
    return {run["seed"]: of_run(run) for run in runs if (run["experiment"], run["variant"]) == (experiment, variant)}


def at_epoch(epoch: int | None) -> str | Callable[[RunResult], float]:
    """A metric for :func:`by_seed`: AP after an epoch, or at the end for None.

    The returned function raises ValueError for a run that was not evaluated after that epoch.
    """
    if epoch is None:
        return "AP"

    def metric(run: RunResult) -> float:
        points = {point["epoch"]: point["AP"] for point in run["curve"]}
        if epoch not in points:
            epochs = ", ".join(map(str, points))
            raise ValueError(f"{run['experiment']}/{run['variant']} was evaluated after epochs {epochs}, not {epoch}")
        return float(points[epoch])

    return metric


def variants_of(runs: Sequence[RunResult], experiment: str, role: str) -> dict[str, RunResult]:
    """The first run of each variant."""
    variants: dict[str, RunResult] = {}
    for run in runs:
        if run["experiment"] == experiment and run["role"] == role:
            variants.setdefault(run["variant"], run)
    return variants


def model_of(run: RunResult) -> str:
    """The registered name, and the backbone if it is not the one of the name."""
    model, backbone = run["recipe"]["model"], run["recipe"]["model_args"].get("backbone")
    return f"{model} on {backbone}" if backbone else str(model)


def teacher_of(run: RunResult) -> str | None:
    """The teacher of a variant: another variant, with its experiment if that is another one, or a registered name."""
    distill = run["recipe"]["distill"]
    if distill is None:
        return None
    name: str = distill["teacher"]
    parts = name.removeprefix("local-dir:").split("/")
    if parts[0] == name or len(parts) < 3:
        return name
    if parts[-1] not in ("best", "last"):  # a detector that another script wrote
        return parts[-1]
    variant = parts[-2].rpartition("-")[0]
    return variant if parts[-3] == run["experiment"] else f"{parts[-3]}'s {variant}"


def made_of(run: RunResult) -> str:
    """Student, teacher and methods with the options that differ from the defaults."""
    model, distill = model_of(run), run["recipe"]["distill"]
    if distill is None:
        return model
    if not distill["methods"]:
        return f"{model}, {' and '.join(distill['freeze'])} of {teacher_of(run)}, frozen"
    methods = (
        " ".join([name, *(f"{key} {value}" for key, value in options.items())])
        for name, options in distill["methods"].items()
    )
    return f"{model} from {teacher_of(run)}: {' + '.join(methods)}"


def data_of(run: RunResult) -> list[Any]:
    """Hashes of the annotations that a run was trained and evaluated on."""
    return [run["data"][split].get("annotations_sha256") for split in ("train", "val")]


def plain_of(runs: Sequence[RunResult], run: RunResult) -> str | None:
    """The variant to compare with: the same student without a teacher, with the same budget and data."""
    plain = [
        (other["recipe"]["optim"] == run["recipe"]["optim"], name)
        for name, other in variants_of(runs, run["experiment"], "student").items()
        if other["recipe"]["distill"] is None
        and other["budget"] == run["budget"]
        and data_of(other) == data_of(run)
        and all(other["recipe"][key] == run["recipe"][key] for key in SAME)
    ]
    return max(plain, key=lambda each: each[0])[1] if plain and run["recipe"]["distill"] else None


def same_torch(runs: Sequence[RunResult], experiment: str, *variants: str) -> bool:
    """Whether runs of one seed have one version of torch: with another one, a seed does not do the same to both."""
    found: dict[int, set[str]] = {}
    for run in runs:
        if run["experiment"] == experiment and run["variant"] in variants:
            found.setdefault(run["seed"], set()).add(run["versions"]["torch"])
    return all(len(each) == 1 for each in found.values())
