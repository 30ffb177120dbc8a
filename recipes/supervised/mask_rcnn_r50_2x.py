"""Mask R-CNN R50, 2x.

accelerate launch recipes/train.py recipes/supervised/mask_rcnn_r50_2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import MASK_TWO_X, published

RECIPE = Recipe(
    "mask_rcnn_r50_2x",
    "mask_rcnn_r50",
    init="imagenet",
    expect=published("mmdetection's model zoo", 39.2, mask_AP=35.4),
    **MASK_TWO_X,
)
