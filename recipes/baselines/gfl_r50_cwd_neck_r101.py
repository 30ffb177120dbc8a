"""GFL R50 learns from R101 by CWD of the pyramid, 1x.

accelerate launch recipes/train.py recipes/baselines/gfl_r50_cwd_neck_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "gfl_r50_cwd_neck_r101",
    "gfl_r50",
    init="imagenet",
    distill=Distill("gfl_r101.coco_ms2x", {"cwd": {}}),
    expect=published("mmrazor's configurations of CWD, without a result", teacher=44.7, plain=40.2),
    note="mmrazor 1.x's cwd_cls_head_gfl_r101_fpn_gfl_r50_fpn_1x, which distils the pyramid in spite of its name",
    **ONE_X,
)
