"""FCOS R101 with tricks, 2x at two sizes: the teacher of PKD's FCOS row.

accelerate launch recipes/train.py recipes/supervised/fcos_r101_tricks_ms2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import FCOS_TRICKS_MS_TWO_X, published

RECIPE = Recipe(
    "fcos_r101_tricks_ms2x",
    "fcos_r101_tricks",
    init="imagenet_caffe",
    expect=published("table 2 of the PKD paper", 41.2),
    note="no configuration or file was published: everything but R101 is inferred from the student's",
    **FCOS_TRICKS_MS_TWO_X,
)
