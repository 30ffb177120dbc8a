"""RetinaNet X101, 1x.

accelerate launch recipes/train.py recipes/supervised/retina_x101_64x4d_1x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "retina_x101_64x4d_1x",
    "retina_x101_64x4d",
    init="imagenet",
    expect=published("mmdetection's model zoo", 41.0),
    **ONE_X,
)
