"""Faster R-CNN R50, 2x.

accelerate launch recipes/train.py recipes/supervised/faster_rcnn_r50_2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import TWO_X_LR02, published

RECIPE = Recipe(
    "faster_rcnn_r50_2x",
    "faster_rcnn_r50",
    init="imagenet",
    expect=published("mmdetection's model zoo", 38.4),
    **TWO_X_LR02,
)
