"""RetinaNet R50 learns from R101 by CWD of the pyramid, 1x.

accelerate launch recipes/train.py recipes/baselines/retina_r50_cwd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "retina_r50_cwd_r101",
    "retina_r50",
    init="imagenet",
    distill=Distill("retina_r101.coco_2x", {"cwd": {}}),
    expect=published("mmrazor's configurations of CWD, without a result", teacher=38.9, plain=36.5),
    **ONE_X,
)
