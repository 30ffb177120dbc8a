"""RepPoints R50 learns from X101 with deformable stages by PKD, 2x, as mmrazor trained it.

accelerate launch recipes/train.py recipes/pkd/reppoints_r50_pkd_x101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "reppoints_r50_pkd_x101",
    "reppoints_r50",
    init="imagenet",
    distill=Distill("reppoints_x101_dcn.coco_2x", {"pkd": {"weight": 10.0}}),
    expect=published("mmrazor's readme of PKD", 42.3, teacher=44.2, plain=38.6, rows=["pkd_readme_reppoints"]),
    **TWO_X,
)
