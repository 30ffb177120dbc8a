"""RetinaNet R50 learns from R101 by DeFeat, 2x.

accelerate launch recipes/train.py recipes/baselines/retina_r50_defeat_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_CLIPPED, published

RECIPE = Recipe(
    "retina_r50_defeat_r101",
    "retina_r50",
    init="imagenet",
    distill=Distill("retina_r101.coco_2x", {"defeat": {}}),
    expect=published(
        "the readme of Global Knowledge, not by the method's authors",
        39.3,
        teacher=38.9,
        plain=37.4,
        rows=["global_knowledge_retina/DeFeat"],
    ),
    note="weights and clipping as released for VOC; whether the student started trained is not printed",
    **TWO_X_CLIPPED,
)
