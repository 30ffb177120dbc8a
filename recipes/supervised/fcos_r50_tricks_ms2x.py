"""FCOS R50 with tricks, 2x at two sizes: the plain student of PKD's FCOS rows.

accelerate launch recipes/train.py recipes/supervised/fcos_r50_tricks_ms2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import FCOS_TRICKS_MS_TWO_X, published

RECIPE = Recipe(
    "fcos_r50_tricks_ms2x",
    "fcos_r50_tricks",
    init="imagenet_caffe",
    expect=published("table 2 of the PKD paper", 39.1),
    note="no configuration or file was published; FGD's readme has 38.5 for this student",
    **FCOS_TRICKS_MS_TWO_X,
)
