"""FCOS R50 with tricks learns from GFL R101 by plain imitation, 2x at two sizes.

accelerate launch recipes/train.py recipes/baselines/fcos_r50_tricks_mse_gfl_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import FCOS_TRICKS_MS_TWO_X, published

RECIPE = Recipe(
    "fcos_r50_tricks_mse_gfl_r101",
    "fcos_r50_tricks",
    init="imagenet_caffe",
    distill=Distill("gfl_r101.coco_ms2x", {"mse": {"weight": 70.0}}),
    expect=published(
        "table 5 of the PKD paper", 43.0, APs=27.1, APl=54.3, teacher=44.9, plain=39.1, rows=["pkd_t5_gfl_fcos_mse"]
    ),
    note="mmdetection's zoo prints 44.7 for the teacher",
    **FCOS_TRICKS_MS_TWO_X,
)
