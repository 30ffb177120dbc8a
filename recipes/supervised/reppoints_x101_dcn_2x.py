"""RepPoints X101 with deformable stages, 2x.

accelerate launch recipes/train.py recipes/supervised/reppoints_x101_dcn_2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "reppoints_x101_dcn_2x",
    "reppoints_x101_dcn",
    init="imagenet",
    expect=published("mmdetection's model zoo", 44.2),
    **TWO_X,
)
