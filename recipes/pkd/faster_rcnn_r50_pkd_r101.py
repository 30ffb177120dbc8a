"""Faster R-CNN R50 learns from R101 by PKD, 2x, as mmrazor trained it.

accelerate launch recipes/train.py recipes/pkd/faster_rcnn_r50_pkd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_LR02, published

RECIPE = Recipe(
    "faster_rcnn_r50_pkd_r101",
    "faster_rcnn_r50",
    init="imagenet",
    distill=Distill("faster_rcnn_r101.coco_2x", {"pkd": {"weight": 6.0}}),
    expect=published("mmrazor's readme of PKD", 40.4, teacher=39.8, plain=38.4, rows=["pkd_readme_frcnn"]),
    note="40.3 in a later readme of the same repository, 40.5 in the paper",
    **TWO_X_LR02,
)
