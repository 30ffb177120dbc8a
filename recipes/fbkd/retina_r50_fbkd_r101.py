"""RetinaNet R50 learns from R101 by FBKD, 2x.

accelerate launch recipes/train.py recipes/fbkd/retina_r50_fbkd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

WEIGHTS = {"feat_weight": 4e-4, "channel_weight": 2e-2, "spatial_weight": 2e-2, "non_local_weight": 4e-4}

RECIPE = Recipe(
    "retina_r50_fbkd_r101",
    "retina_r50",
    init="imagenet",
    distill=Distill("retina_r101.coco_2x", {"fbkd": WEIGHTS}),
    expect=published(
        "the readme of Global Knowledge, of a rival",
        39.3,
        teacher=38.9,
        plain=37.4,
        rows=["global_knowledge_retina/FBKD"],
    ),
    note="weights are the paper's for one-stage detectors, from memory and unverified; the start is not printed",
    **TWO_X,
)
