"""Faster R-CNN R50 learns from R101 by GID, 2x.

accelerate launch recipes/train.py recipes/baselines/faster_rcnn_r50_gid_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_LR02, published

RECIPE = Recipe(
    "faster_rcnn_r50_gid_r101",
    "faster_rcnn_r50",
    init="imagenet",
    distill=Distill("faster_rcnn_r101.coco_2x", {"gid": {}}),
    expect=published(
        "table 2 of the PKD paper and the readme of Global Knowledge, not by the method's authors",
        40.2,
        teacher=39.8,
        plain=38.4,
        rows=["pkd_table2_rivals/FRCNN R101-R50/GID", "global_knowledge_frcnn/GID"],
    ),
    note="no code for two-stage detectors was released; which priors and weights were used is inferred",
    **TWO_X_LR02,
)
