"""GFL R50 learns from R101 by LD, 1x.

accelerate launch recipes/train.py recipes/baselines/gfl_r50_ld_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "gfl_r50_ld_r101",
    "gfl_r50",
    init="imagenet",
    distill=Distill("gfl_r101.coco_ms2x", {"ld": {}}),
    expect=published("mmdetection's model zoo", 41.0, teacher=44.7, plain=40.1, rows=["ld_r50_r101"]),
    note="the readme speaks of batches of 6, the configuration of a rate of 0.01 for 16 images, which is here",
    **ONE_X,
)
