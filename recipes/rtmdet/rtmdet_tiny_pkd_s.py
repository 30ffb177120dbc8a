"""RTMDet-tiny learns from RTMDet-s by PKD, 300 epochs: rtmdet_tiny_kd_s with another loss. No source publishes it.

accelerate launch recipes/train.py recipes/rtmdet/rtmdet_tiny_pkd_s.py --data coco/
"""

from pkdzoo.training import Distill, Mix, Recipe
from pkdzoo.training.schedules import rtmdet_300e

RECIPE = Recipe(
    "rtmdet_tiny_pkd_s",
    "rtmdet_tiny_yolo",
    init="imagenet",
    distill=Distill("rtmdet_s_yolo.coco_300e", {"pkd": {"where": "before_norm", "adapter": True, "stop_epoch": 280}}),
    note="published nowhere; a 1x1 convolution from 96 to 128 channels, without the method from epoch 280 on",
    **rtmdet_300e(Mix(scale=(0.5, 2.0), mixup=0.5, mixup_ratio="beta")),
)
