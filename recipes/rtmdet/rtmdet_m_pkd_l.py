"""RTMDet-m learns from RTMDet-l by PKD, 300 epochs: rtmdet_m_kd_l with another loss. No source publishes it.

accelerate launch recipes/train.py recipes/rtmdet/rtmdet_m_pkd_l.py --data coco/
"""

from pkdzoo.training import Distill, Mix, Recipe
from pkdzoo.training.schedules import rtmdet_300e

RECIPE = Recipe(
    "rtmdet_m_pkd_l",
    "rtmdet_m_yolo",
    distill=Distill("rtmdet_l_yolo.coco_300e", {"pkd": {"where": "before_norm", "adapter": True, "stop_epoch": 280}}),
    note="published nowhere; a 1x1 convolution from 192 to 256 channels, without the method from epoch 280 on",
    **rtmdet_300e(Mix(mixup_ratio="beta")),
)
