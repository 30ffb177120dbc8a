r"""FCOS R50 with tricks learns from R101 with tricks by FRS, 2x at two sizes.

accelerate launch recipes/train.py recipes/baselines/fcos_r50_tricks_frs_r101.py --data coco/ \
    --set distill.teacher_weights=runs/fcos_r101_tricks_ms2x/last/model.safetensors
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import FCOS_TRICKS_MS_TWO_X, published

RECIPE = Recipe(
    "fcos_r50_tricks_frs_r101",
    "fcos_r50_tricks",
    init="imagenet_caffe",
    distill=Distill("fcos_r101_tricks", {"frs": {}}),
    expect=published(
        "table 2 of the PKD paper, not by the method's authors",
        42.2,
        teacher=41.2,
        plain=39.1,
        rows=["pkd_table2_rivals/FCOS R101-R50/FRS"],
    ),
    note="the teacher was not published: train recipes/supervised/fcos_r101_tricks_ms2x.py first",
    **FCOS_TRICKS_MS_TWO_X,
)
