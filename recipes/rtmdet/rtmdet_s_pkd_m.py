"""RTMDet-s learns from RTMDet-m by PKD, 300 epochs: rtmdet_s_kd_m with another loss. No source publishes it.

accelerate launch recipes/train.py recipes/rtmdet/rtmdet_s_pkd_m.py --data coco/
"""

from pkdzoo.training import Distill, Mix, Recipe
from pkdzoo.training.schedules import rtmdet_300e

RECIPE = Recipe(
    "rtmdet_s_pkd_m",
    "rtmdet_s_yolo",
    init="imagenet",
    distill=Distill("rtmdet_m_yolo.coco_300e", {"pkd": {"where": "before_norm", "adapter": True, "stop_epoch": 280}}),
    note="published nowhere; a 1x1 convolution from 128 to 192 channels, without the method from epoch 280 on",
    **rtmdet_300e(Mix(scale=(0.5, 2.0), mixup_ratio="beta")),
)
