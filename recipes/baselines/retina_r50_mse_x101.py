"""RetinaNet R50 learns from RetinaNet X101 by plain imitation, 2x.

accelerate launch recipes/train.py recipes/baselines/retina_r50_mse_x101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "retina_r50_mse_x101",
    "retina_r50",
    init="imagenet",
    distill=Distill("retina_x101_64x4d.coco_2x", {"mse": {"weight": 10.0}}, inherit=("neck", "head")),
    expect=published(
        "table 5 of the PKD paper", 40.4, APs=22.2, APl=54.4, teacher=40.8, plain=37.4, rows=["pkd_t5_retx_retina_mse"]
    ),
    note="neck and head start from the teacher's, as in table 2 (appendix A.2)",
    **TWO_X,
)
