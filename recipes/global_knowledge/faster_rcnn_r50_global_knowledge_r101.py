"""Faster R-CNN R50 learns from R101 by Global Knowledge, 2x.

accelerate launch recipes/train.py recipes/global_knowledge/faster_rcnn_r50_global_knowledge_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_LR02, published

RECIPE = Recipe(
    "faster_rcnn_r50_global_knowledge_r101",
    "faster_rcnn_r50",
    init="faster_rcnn_r50.coco_2x",
    distill=Distill(
        "faster_rcnn_r101.coco_2x",
        {"global_knowledge": {"object_weight": 1.0, "background_weight": 4.0, "soft_weight": 1.0}},
    ),
    expect=published(
        "the readme of Global Knowledge", (40.6, 61.0, 44.0), teacher=39.8, plain=38.4, rows=["global_knowledge_frcnn"]
    ),
    note="starts from the trained student and leaves the relation term off, as the released configuration",
    **TWO_X_LR02,
)
