"""ATSS R50 learns from R101 by CrossKD, 1x.

accelerate launch recipes/train.py recipes/crosskd/atss_r50_crosskd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "atss_r50_crosskd_r101",
    "atss_r50",
    init="imagenet",
    distill=Distill("atss_r101.coco_1x", {"crosskd": {}}),
    expect=published("CrossKD's readme", 41.8, teacher=41.5, plain=39.4, rows=["crosskd_atss"]),
    note="CrossKD's configuration has 8 images a GPU and scales the rate with the total: at 16 it is this one",
    **ONE_X,
)
