"""RetinaNet R18 learns from R50 by CrossKD, 1x.

accelerate launch recipes/train.py recipes/crosskd/retina_r18_on_output_crosskd_r50.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "retina_r18_on_output_crosskd_r50",
    "retina_r18_on_output",
    init="imagenet",
    distill=Distill("retina_r50.coco_1x", {"crosskd": {}}),
    expect=published("a configuration of CrossKD's; no AP was published", rows=["crosskd_r18_retina_r50"]),
    **ONE_X,
)
