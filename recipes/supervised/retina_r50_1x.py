"""RetinaNet R50, 1x.

accelerate launch recipes/train.py recipes/supervised/retina_r50_1x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "retina_r50_1x", "retina_r50", init="imagenet", expect=published("mmdetection's model zoo", 36.5), **ONE_X
)
