"""Faster R-CNN R50 learns from a Cascade Mask R-CNN X101 with deformable stages by FGD, 2x.

accelerate launch recipes/train.py recipes/baselines/faster_rcnn_r50_fgd_cascade.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_LR02_CLIPPED, published

RECIPE = Recipe(
    "faster_rcnn_r50_fgd_cascade",
    "faster_rcnn_r50",
    init="imagenet",
    distill=Distill("cascade_mask_rcnn_x101_32x4d_dcn.coco_1x", {"fgd": {}}),
    expect=published("FGD's readme", 42.0, teacher=47.3, plain=38.4, rows=["fgd_repo_readme/FasterRCNN_R50"]),
    note="nothing is inherited from a cascade, whose heads have another structure",
    **TWO_X_LR02_CLIPPED,
)
