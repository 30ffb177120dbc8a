"""GFL X101-32x4d with deformable stages, 2x at many sizes.

accelerate launch recipes/train.py recipes/supervised/gfl_x101_32x4d_dcn_ms2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import MS_TWO_X, published

RECIPE = Recipe(
    "gfl_x101_32x4d_dcn_ms2x",
    "gfl_x101_32x4d_dcn",
    init="imagenet",
    expect=published("mmdetection's model zoo", 48.1),
    **MS_TWO_X,
)
