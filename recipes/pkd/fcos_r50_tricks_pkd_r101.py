r"""FCOS R50 with tricks learns from R101 with tricks by PKD, 2x at two sizes.

accelerate launch recipes/train.py recipes/pkd/fcos_r50_tricks_pkd_r101.py --data coco/ \
    --set distill.teacher_weights=runs/fcos_r101_tricks_ms2x/last/model.safetensors
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import FCOS_TRICKS_MS_TWO_X, published

RECIPE = Recipe(
    "fcos_r50_tricks_pkd_r101",
    "fcos_r50_tricks",
    init="imagenet_caffe",
    distill=Distill("fcos_r101_tricks", {"pkd": {"weight": 10.0}}, inherit=("neck", "head")),
    expect=published(
        "table 2 of the PKD paper",
        (42.8, 61.4, 46.2, 25.9, 47.2, 54.6),
        teacher=41.2,
        plain=39.1,
        rows=["pkd_t2_fcos_r101_r50"],
    ),
    note="the paper's teacher was not published: train recipes/supervised/fcos_r101_tricks_ms2x.py first. Neck and "
    "head start from the teacher's (appendix A.2)",
    **FCOS_TRICKS_MS_TWO_X,
)
