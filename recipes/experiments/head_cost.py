"""Measure what the teacher's head would cost: a plain step, a step of PKD, and a step of PKD with the head.

    python recipes/experiments/head_cost.py --threads 1          # one minute; writes costs/RECIPE.json

Student, teacher, optimizer, image size and batch size are those of the recipes. Images are generated and weights are
random, which does not change the amount of computation. The three steps run alternately
(recipes/benchmarks/measure.py), so other load affects all of them. PKD reads only the teacher's pyramid, so its loss
does not change when the head runs; this is checked.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the folder that holds recipes/

from pkdzoo.distill import Distiller
from pkdzoo.distill.methods.pkd import PKD
from pkdzoo.training import Recipe, build, compute, load_recipes
from pkdzoo.training.errors import describe_error
from pkdzoo.training.optim import build_optimizer
from pkdzoo.utils.files import write_json
from pkdzoo.utils.option_types import positive_int
from recipes.benchmarks.measure import Settings, Times, about, difference, in_turns
from recipes.benchmarks.step import batch_of

FOLDER = Path(__file__).parent
PAIRS = ("bccd_pkd", "deeppcb_pkd", "deeppcb_pkd_faster")  # recipes; each begins with the name of its experiment
CLASSES = {"bccd": 3, "deeppcb": 6}


class WithHead(PKD):
    """PKD whose teacher runs its head, too. The output of the head is not used."""

    teacher_depth = "head"


def pair_of(name: str) -> tuple[Recipe, Recipe]:
    """The recipe of a distilled student and that of its teacher.

    Raises:
        ValueError: if the experiment has no such recipe with a teacher.
    """
    experiment = name.partition("_")[0]
    recipes = {recipe.name: recipe for recipe in load_recipes(FOLDER / f"{experiment}.py")}
    if name not in recipes or recipes[name].distill is None:
        raise ValueError(f"{experiment}.py has no {name} with a teacher; it has {', '.join(recipes)}")
    student = recipes[name]
    assert student.distill is not None
    key = student.distill.teacher.removeprefix(f"local-dir:runs/experiments/{experiment}/").partition("/")[0]
    return student, recipes[f"{experiment}_{key.rpartition('-')[0]}"]


def steps_of(recipe: Recipe, teacher_recipe: Recipe, classes: int) -> tuple[dict[str, Callable[[], Any]], str]:
    """The three steps by name, and the images of a step as text."""
    names = [f"class_{k}" for k in range(classes)]
    student, teacher = build.build_student(recipe, names), build.build_student(teacher_recipe, names)
    compute.apply_options(student, channels_last=True, checkpoint_activations=False, teacher=teacher)
    tasks = {
        "plain": student,
        "cut": Distiller(student, teacher, {"pkd": PKD(student, teacher)}),
        "whole": Distiller(student, teacher, {"pkd": WithHead(student, teacher)}),
    }
    size = recipe.data.crop or recipe.data.eval_size
    batch = batch_of(size, recipe.data.batch_size, torch.device("cpu"), boxes=12)
    for objects in batch.instances or []:
        objects.labels %= classes
    optimizer = build_optimizer(student, recipe.optim, recipe.data.batch_size)
    for group in optimizer.param_groups:
        group["lr"] = 1e-6  # small, so that the weights stay nearly the same

    def step(name: str) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            losses: dict[str, torch.Tensor] = tasks[name](batch)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.parameters(), recipe.optim.clip or float("inf"))
        optimizer.step()
        optimizer.zero_grad()

    for task in tasks.values():
        task.train()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        gap = difference(*(tasks[name](batch)["loss_pkd"] for name in ("whole", "cut")))
    assert gap == 0, f"PKD's loss changed by {gap} when the head ran"
    images = f"{recipe.data.batch_size} x {size[0]} x {size[1]}"
    return {name: partial(step, name) for name in tasks}, images


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and quartiles, to four digits."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {key: float(f"{value:.4g}") for key, value in (("median", median), ("low", low), ("high", high))}


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Measure one pair."""
    recipe, teacher_recipe = pair_of(name)
    steps, images = steps_of(recipe, teacher_recipe, CLASSES[name.partition("_")[0]])
    settings = Settings()
    machine_facts = about(settings)
    times = in_turns(steps, settings, rounds=rounds, warmup=2)

    def ratio(one: str, other: str) -> dict[str, float]:
        wall = [a / b for a, b in zip(times[one].wall, times[other].wall)]
        cpu = [a / b for a, b in zip(times[one].cpu, times[other].cpu)]  # depends less on other load
        return {**quartiles(wall), "cpu": quartiles(cpu)["median"]}

    def seconds(of: Times) -> dict[str, float]:
        return {**quartiles(of.wall), "cpu": quartiles(of.cpu)["median"]}

    return {
        "name": name,
        "student": recipe.model,
        "teacher": teacher_recipe.name.removeprefix(f"{name.partition('_')[0]}_"),
        "images": images,
        "arithmetic": "bf16, channels last",
        "rounds": rounds,
        **{key: seconds(times[key]) for key in times},
        "cut / plain": ratio("cut", "plain"),
        "whole / cut": ratio("whole", "cut"),
        "about": machine_facts,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=PAIRS, metavar="RECIPE", help=f"default: {' '.join(PAIRS)}")
    parser.add_argument("--rounds", type=positive_int, default=15, help="how often each step is timed (default: 15)")
    parser.add_argument("--threads", type=positive_int, help="CPU threads (default: all cores)")
    parser.add_argument("--output", type=Path, default=FOLDER / "costs", help="folder of the result files")
    args = parser.parse_args(argv)
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: quartiles need two or more")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        for name in args.only:
            found = measure(name, args.rounds)
            write_json(args.output / f"{name}.json", found)
            ratios = (f"{key} {found[key]['median']:.2f}" for key in ("cut / plain", "whole / cut"))
            print(f"{name}: plain {1000 * found['plain']['median']:.0f} ms, {', '.join(ratios)}", flush=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {describe_error(error)}")


if __name__ == "__main__":
    main()
