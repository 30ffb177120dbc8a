"""Mask R-CNN R50 learns from a Cascade Mask R-CNN X101 with deformable stages by MGD, 2x.

accelerate launch recipes/train.py recipes/baselines/mask_rcnn_r50_mgd_cascade.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import MASK_TWO_X_CLIPPED, published

RECIPE = Recipe(
    "mask_rcnn_r50_mgd_cascade",
    "mask_rcnn_r50",
    init="imagenet",
    distill=Distill("cascade_mask_rcnn_x101_32x4d_dcn.coco_1x", {"mgd": {}}),
    expect=published("MGD's readme", mask_AP=38.1, plain_mask_AP=35.4, rows=["mgd_mask_rcnn_cascade_r50"]),
    note="MGD's readme prints mask APs alone: 38.1, and 35.4 for the plain student",
    **MASK_TWO_X_CLIPPED,
)
