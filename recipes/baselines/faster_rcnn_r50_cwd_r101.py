"""Faster R-CNN R50 learns from R101 by CWD of the pyramid, 1x.

accelerate launch recipes/train.py recipes/baselines/faster_rcnn_r50_cwd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X_LR02, published

RECIPE = Recipe(
    "faster_rcnn_r50_cwd_r101",
    "faster_rcnn_r50",
    init="imagenet",
    distill=Distill("faster_rcnn_r101.coco_2x", {"cwd": {}}),
    expect=published("mmrazor's configurations of CWD, without a result", teacher=39.8, plain=37.4),
    **ONE_X_LR02,
)
