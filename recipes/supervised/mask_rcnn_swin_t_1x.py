"""Mask R-CNN Swin-T, 1x.

accelerate launch recipes/train.py recipes/supervised/mask_rcnn_swin_t_1x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import SWIN_ONE_X, published

RECIPE = Recipe(
    "mask_rcnn_swin_t_1x",
    "mask_rcnn_swin_t",
    init="imagenet",
    expect=published("mmdetection's model zoo", 42.7),
    **SWIN_ONE_X,
)
