r"""FCOS R50 with tricks learns from R101 with tricks by FGD, 2x at two sizes.

accelerate launch recipes/train.py recipes/baselines/fcos_r50_tricks_fgd_r101_tricks.py --data coco/ \
    --set distill.teacher_weights=runs/fcos_r101_tricks_ms2x/last/model.safetensors
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import FCOS_TRICKS_MS_TWO_X_CLIPPED, published

RECIPE = Recipe(
    "fcos_r50_tricks_fgd_r101_tricks",
    "fcos_r50_tricks",
    init="imagenet_caffe",
    distill=Distill("fcos_r101_tricks", {"fgd": {}}, inherit=("neck", "head")),
    expect=published(
        "table 2 of the PKD paper, not by the method's authors",
        42.3,
        teacher=41.2,
        plain=39.1,
        rows=["pkd_table2_rivals/FCOS R101-R50/FGD"],
    ),
    note="the teacher was not published: train recipes/supervised/fcos_r101_tricks_ms2x.py first. Neck and head start "
    "from the teacher's, as FGD's configurations do with one type of detector",
    **FCOS_TRICKS_MS_TWO_X_CLIPPED,
)
