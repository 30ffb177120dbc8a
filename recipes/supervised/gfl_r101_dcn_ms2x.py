"""GFL R101 with deformable stages, 2x at many sizes.

accelerate launch recipes/train.py recipes/supervised/gfl_r101_dcn_ms2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import MS_TWO_X, published

RECIPE = Recipe(
    "gfl_r101_dcn_ms2x",
    "gfl_r101_dcn",
    init="imagenet",
    expect=published("mmdetection's model zoo", 47.1),
    **MS_TWO_X,
)
