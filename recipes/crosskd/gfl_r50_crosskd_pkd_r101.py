"""GFL R50 learns from R101 by CrossKD and PKD, 1x.

accelerate launch recipes/train.py recipes/crosskd/gfl_r50_crosskd_pkd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "gfl_r50_crosskd_pkd_r101",
    "gfl_r50",
    init="imagenet",
    distill=Distill("gfl_r101.coco_ms2x", {"crosskd": {}, "pkd": {"weight": 6.0, "levels": 5}}),
    expect=published("CrossKD's readme", 43.9, teacher=44.9, plain=40.2, rows=["crosskd_gfl_pkd"]),
    note="mmdetection's zoo prints 44.7 for the teacher",
    **ONE_X,
)
