"""RetinaNet R50 learns from Mask R-CNN Swin-S by PKD, 2x.

accelerate launch recipes/train.py recipes/pkd/retina_r50_pkd_swin.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "retina_r50_pkd_swin",
    "retina_r50",
    init="imagenet",
    distill=Distill("mask_rcnn_swin_s.coco_3x", {"pkd": {"weight": 6.0}}),
    expect=published(
        "mmrazor's readme of PKD; table 3 of the PKD paper",
        (41.5, 60.6, 44.1, 22.9, 45.2, 56.4),
        teacher=48.2,
        plain=37.4,
        rows=["pkd_t3_swin_retina", "pkd_readme_swin_retina_2x"],
    ),
    note="the readme links Swin-T as the teacher; its configuration and the 48.2 are this one's",
    **TWO_X,
)
