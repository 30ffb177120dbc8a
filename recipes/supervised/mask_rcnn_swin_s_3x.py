"""Mask R-CNN Swin-S, 3x at many sizes, half of the images windows enlarged.

accelerate launch recipes/train.py recipes/supervised/mask_rcnn_swin_s_3x.py --data coco/ --mixed-precision fp16
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import SWIN_THREE_X, published

RECIPE = Recipe(
    "mask_rcnn_swin_s_3x",
    "mask_rcnn_swin_s",
    init="imagenet",
    expect=published("mmdetection's model zoo", 48.2),
    note="the teacher of PKD's Swin rows; mask AP 43.2",
    **SWIN_THREE_X,
)
