"""Faster R-CNN R50 learns from R101 by DeFeat, 2x.

accelerate launch recipes/train.py recipes/baselines/faster_rcnn_r50_defeat_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_LR02_CLIPPED, published

RECIPE = Recipe(
    "faster_rcnn_r50_defeat_r101",
    "faster_rcnn_r50",
    init="imagenet",
    distill=Distill("faster_rcnn_r101.coco_2x", {"defeat": {}}),
    expect=published(
        "the readme of Global Knowledge, not by the method's authors",
        40.3,
        teacher=39.8,
        plain=38.4,
        rows=["global_knowledge_frcnn/DeFeat"],
    ),
    note="weights and clipping as released for VOC; whether the student started trained is not printed",
    **TWO_X_LR02_CLIPPED,
)
