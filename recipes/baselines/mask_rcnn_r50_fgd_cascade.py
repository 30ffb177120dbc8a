"""Mask R-CNN R50 learns from a Cascade Mask R-CNN X101 with deformable stages by FGD, 2x.

accelerate launch recipes/train.py recipes/baselines/mask_rcnn_r50_fgd_cascade.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import MASK_TWO_X_CLIPPED, published

RECIPE = Recipe(
    "mask_rcnn_r50_fgd_cascade",
    "mask_rcnn_r50",
    init="imagenet",
    distill=Distill("cascade_mask_rcnn_x101_32x4d_dcn.coco_1x", {"fgd": {}}),
    expect=published(
        "FGD's readme", 42.1, teacher=47.3, plain=39.2, mask_AP=37.8, rows=["fgd_repo_readme/MaskRCNN_R50"]
    ),
    note="nothing is inherited from a cascade, whose heads have another structure",
    **MASK_TWO_X_CLIPPED,
)
