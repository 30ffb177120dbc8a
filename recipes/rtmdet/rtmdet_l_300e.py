"""RTMDet-l, 300 epochs from scratch.

accelerate launch recipes/train.py recipes/rtmdet/rtmdet_l_300e.py --data coco/
"""

from pkdzoo.training import Mix, Recipe
from pkdzoo.training.schedules import published, rtmdet_300e

RECIPE = Recipe(
    "rtmdet_l_300e",
    "rtmdet_l",
    expect=published("mmdetection's readme of RTMDet", 51.5),
    note="51.3 in the metafile of mmdetection 3.3.0, from before a change of the test settings",
    **rtmdet_300e(Mix()),
)
