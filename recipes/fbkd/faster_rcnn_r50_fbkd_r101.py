"""Faster R-CNN R50 learns from R101 by FBKD, 1x.

accelerate launch recipes/train.py recipes/fbkd/faster_rcnn_r50_fbkd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X_LR02, published

RECIPE = Recipe(
    "faster_rcnn_r50_fbkd_r101",
    "faster_rcnn_r50",
    init="faster_rcnn_r50.coco_1x",
    distill=Distill("faster_rcnn_r101.coco_1x", {"fbkd": {"pooling": [16, 8, 4, 4]}}),
    expect=published("mmrazor's readme of FBKD", 39.3, teacher=39.4, plain=37.4, rows=["fbkd_frcnn_r101_r50"]),
    note="as mmrazor's configuration: it starts from the trained student, and pools twice what the paper's code does",
    **ONE_X_LR02,
)
