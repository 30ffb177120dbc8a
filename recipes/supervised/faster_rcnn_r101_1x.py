"""Faster R-CNN R101, 1x.

accelerate launch recipes/train.py recipes/supervised/faster_rcnn_r101_1x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import ONE_X_LR02, published

RECIPE = Recipe(
    "faster_rcnn_r101_1x",
    "faster_rcnn_r101",
    init="imagenet",
    expect=published("mmdetection's model zoo", 39.4),
    **ONE_X_LR02,
)
