"""RTMDet-l learns from RTMDet-x by PKD, 300 epochs: rtmdet_l_kd_x with another loss. No source publishes it.

accelerate launch recipes/train.py recipes/rtmdet/rtmdet_l_pkd_x.py --data coco/
"""

from pkdzoo.training import Distill, Mix, Recipe
from pkdzoo.training.schedules import rtmdet_300e

RECIPE = Recipe(
    "rtmdet_l_pkd_x",
    "rtmdet_l_yolo",
    distill=Distill("rtmdet_x_yolo.coco_300e", {"pkd": {"where": "before_norm", "adapter": True, "stop_epoch": 280}}),
    note="published nowhere; a 1x1 convolution from 256 to 320 channels, without the method from epoch 280 on",
    **rtmdet_300e(Mix(mixup_ratio="beta")),
)
