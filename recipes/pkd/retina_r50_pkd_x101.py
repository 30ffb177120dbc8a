"""RetinaNet R50 learns from RetinaNet X101 by PKD, 2x, as mmrazor trained it.

accelerate launch recipes/train.py recipes/pkd/retina_r50_pkd_x101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "retina_r50_pkd_x101",
    "retina_r50",
    init="imagenet",
    distill=Distill("retina_x101_64x4d.coco_1x", {"pkd": {"weight": 10.0}}),
    expect=published("mmrazor's readme of PKD", 40.8, teacher=41.0, plain=37.4, rows=["pkd_readme_retx_retina"]),
    **TWO_X,
)
