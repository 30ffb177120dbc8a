"""Faster R-CNN R50 learns from R101 by FBKD, 2x.

accelerate launch recipes/train.py recipes/fbkd/faster_rcnn_r50_fbkd_r101_2x.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_LR02, published

RECIPE = Recipe(
    "faster_rcnn_r50_fbkd_r101_2x",
    "faster_rcnn_r50",
    init="imagenet",
    distill=Distill("faster_rcnn_r101.coco_2x", {"fbkd": {}}),
    expect=published(
        "the readme of Global Knowledge, not by the method's authors",
        40.2,
        teacher=39.8,
        plain=38.4,
        rows=["global_knowledge_frcnn/FBKD"],
    ),
    note="whether the student started trained is not printed",
    **TWO_X_LR02,
)
