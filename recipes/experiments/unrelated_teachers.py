"""BCCD: does a teacher help that was trained on other classes and images, namely on shapes or circuit boards?

python recipes/experiments/run.py recipes/experiments/deeppcb.py --data deeppcb/ --runs fcos_r18-0     # a teacher
python recipes/experiments/run.py recipes/experiments/unrelated_teachers.py --data bccd/
accelerate launch recipes/train.py recipes/experiments/unrelated_teachers.py --data bccd/ \
    --only unrelated_teachers_shapes

Students, images and budget are those of bccd.py, where one seed of PKD from generated shapes was below the plain
student. These runs look for the reason: a third of the weight, a weight of PKD that falls to 0 over the run, and a
teacher of real images, the FCOS of deeppcb.py.
"""

from dataclasses import replace
from typing import Any

from pkdzoo.training import Distill, Recipe
from recipes.experiments.bccd import PLAIN as STUDENT

SHAPES, BOARDS = "fcos_r18w24.shapes", "local-dir:runs/experiments/deeppcb/fcos_r18-0/best"
PLAIN = replace(STUDENT, name="unrelated_teachers_plain")


def distilled(name: str, teacher: str, **options: Any) -> Recipe:
    return replace(PLAIN, name=f"unrelated_teachers_{name}", distill=Distill(teacher, {"pkd": options}))


RECIPES = [
    PLAIN,
    distilled("shapes", SHAPES),
    distilled("shapes_weight_3", SHAPES, weight=3.0),
    distilled("shapes_fading", SHAPES, schedule="decay"),
    distilled("boards", BOARDS),
    distilled("boards_fading", BOARDS, schedule="decay"),
]
RUNS = ((tuple(recipe.name for recipe in RECIPES), 3),)
