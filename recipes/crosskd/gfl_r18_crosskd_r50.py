"""GFL R18 learns from R50 by CrossKD, 1x.

accelerate launch recipes/train.py recipes/crosskd/gfl_r18_crosskd_r50.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "gfl_r18_crosskd_r50",
    "gfl_r18",
    init="imagenet",
    distill=Distill("gfl_r50.coco_1x", {"crosskd": {}}),
    expect=published("a configuration of CrossKD's; no AP was published", rows=["crosskd_r18_gfl_r50"]),
    **ONE_X,
)
