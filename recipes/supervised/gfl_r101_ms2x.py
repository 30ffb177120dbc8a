"""GFL R101, 2x at many sizes.

accelerate launch recipes/train.py recipes/supervised/gfl_r101_ms2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import MS_TWO_X, published

RECIPE = Recipe(
    "gfl_r101_ms2x",
    "gfl_r101",
    init="imagenet",
    expect=published("mmdetection's model zoo", 44.7),
    note="44.9 in tables 3 and 7 of the PKD paper and in CrossKD's readme",
    **MS_TWO_X,
)
