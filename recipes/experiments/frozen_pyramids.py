"""BCCD: heads trained on frozen pyramids of their own kind of detector and of another (table 1 of the PKD paper).

python recipes/experiments/run.py recipes/experiments/frozen_pyramids.py --data bccd/
accelerate launch recipes/train.py recipes/experiments/frozen_pyramids.py --data bccd/ --only frozen_pyramids_fcos

First small detectors are trained with the budget of bccd.py's students. Then a head is trained from scratch on the
frozen backbone and neck of one of them, with the same budget. All pyramids have 64 channels at strides 8 to 128. They
differ in their two coarsest levels, and a head uses those of the frozen pyramid: FCOS has a ReLU between them, GFL and
RetinaNet have none. All compute them from P5, because FCOS and GFL have no other variant (RetinaNet as in
``retina_*_on_output``).
"""

from dataclasses import replace
from typing import Any

from pkdzoo.training import Distill, Recipe
from recipes.experiments.bccd import PLAIN

FROZEN = ("backbone", "neck")
FROM_P5 = {"extra": "on_output"}
FCOS = replace(PLAIN, name="frozen_pyramids_fcos", model="fcos_r10w16", model_args={"tricks": True})
GFL = replace(PLAIN, name="frozen_pyramids_gfl", model="gfl_r10w16")
RETINA = replace(PLAIN, name="frozen_pyramids_retina", model_args=FROM_P5)


def head_of(kind: Recipe, source: Recipe, terms: dict[str, Any]) -> Recipe:
    """A head of one kind on the frozen backbone and neck of another; ``terms`` describe that neck."""
    names = [recipe.name.removeprefix("frozen_pyramids_") for recipe in (kind, source)]
    frozen = Distill(f"local-dir:runs/experiments/frozen_pyramids/{names[1]}-0/best", {}, inherit=FROZEN, freeze=FROZEN)
    return replace(
        kind, name=f"frozen_pyramids_{names[0]}_on_{names[1]}", model_args={**kind.model_args, **terms}, distill=frozen
    )


HEADS = [
    head_of(FCOS, FCOS, {}),
    head_of(FCOS, GFL, {"relu_before_extra": False}),
    head_of(RETINA, RETINA, {}),
    head_of(RETINA, FCOS, {"relu_before_extra": True}),
    head_of(FCOS, RETINA, {"relu_before_extra": False}),
]
RECIPES = [FCOS, GFL, RETINA, *HEADS]
RUNS = ((tuple(recipe.name for recipe in HEADS), 3),)
