"""Cascade Mask R-CNN X101-32x4d with deformable stages, 1x.

accelerate launch recipes/train.py recipes/supervised/cascade_mask_rcnn_x101_32x4d_dcn_1x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import MASK_ONE_X, published

RECIPE = Recipe(
    "cascade_mask_rcnn_x101_32x4d_dcn_1x",
    "cascade_mask_rcnn_x101_32x4d_dcn",
    init="imagenet",
    expect=published("mmdetection's model zoo", 47.3, mask_AP=41.1),
    **MASK_ONE_X,
)
