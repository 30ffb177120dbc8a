"""RetinaNet R50 learns from FCOS X101 by plain imitation, 2x: worse than without a teacher.

accelerate launch recipes/train.py recipes/baselines/retina_r50_mse_fcos_x101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "retina_r50_mse_fcos_x101",
    "retina_r50",
    init="imagenet",
    distill=Distill("fcos_x101_64x4d.coco_ms2x", {"mse": {"weight": 5.0}}),
    expect=published(
        "table 5 of the PKD paper", 36.3, APs=20.0, APl=47.1, teacher=42.6, plain=37.4, rows=["pkd_t5_fcosx_retina_mse"]
    ),
    note="table 5 does not print the schedule: 2x, because table 8 has the same number there",
    **TWO_X,
)
