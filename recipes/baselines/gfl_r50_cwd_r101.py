"""GFL R50 learns from R101 by CWD of the class logits, 1x.

accelerate launch recipes/train.py recipes/baselines/gfl_r50_cwd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "gfl_r50_cwd_r101",
    "gfl_r50",
    init="imagenet",
    distill=Distill("gfl_r101.coco_ms2x", {"cwd": {"where": "cls", "weight": 5.0}}),
    expect=published(
        "mmrazor's readme of CWD", 41.9, teacher=44.7, plain=40.2, rows=["mmrazor_cwd_readme/gfl_r101_to_r50_cls_head"]
    ),
    note="as mmrazor 0.x; which levels it took is inferred (all). The file of that name in mmrazor 1.x distills the "
    "pyramid instead",
    **ONE_X,
)
