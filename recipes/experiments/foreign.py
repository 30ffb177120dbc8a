"""BCCD: does a teacher help that was trained on other classes and other images? Of shapes, or of circuit boards?

python recipes/experiments/run.py recipes/experiments/deeppcb.py --data deeppcb/ --cells fcos_r18-0     # a teacher
python recipes/experiments/run.py recipes/experiments/foreign.py --data bccd/
accelerate launch recipes/train.py recipes/experiments/foreign.py --data bccd/ --only foreign_shapes

Students, images and budget are bccd.py's, where one seed of PKD from generated shapes lost to the plain student. The
tries to find out why: a third of the weight, PKD that fades away over the run (a good start, then the data alone), and
a teacher of real images, deeppcb.py's FCOS.
"""

from dataclasses import replace
from typing import Any

from pkdzoo.training import Distill, Recipe
from recipes.experiments.bccd import PLAIN as STUDENT

SHAPES, BOARDS = "fcos_r18w24.shapes", "local-dir:runs/experiments/deeppcb/fcos_r18-0/best"
PLAIN = replace(STUDENT, name="foreign_plain")


def taught(name: str, teacher: str, **options: Any) -> Recipe:
    return replace(PLAIN, name=f"foreign_{name}", distill=Distill(teacher, {"pkd": options}))


RECIPES = [
    PLAIN,
    taught("shapes", SHAPES),
    taught("shapes_weight_3", SHAPES, weight=3.0),
    taught("shapes_fading", SHAPES, schedule="decay"),
    taught("boards", BOARDS),
    taught("boards_fading", BOARDS, schedule="decay"),
]
WAVES = ((tuple(recipe.name for recipe in RECIPES), 3),)
