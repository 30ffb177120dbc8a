"""RetinaNet R50 learns from R101 by Global Knowledge, 2x.

accelerate launch recipes/train.py recipes/global_knowledge/retina_r50_global_knowledge_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "retina_r50_global_knowledge_r101",
    "retina_r50",
    init="retina_r50.coco_2x",
    distill=Distill(
        "retina_r101.coco_2x",
        {"global_knowledge": {"object_weight": 1.0, "background_weight": 4.0, "soft_weight": 1.0}},
    ),
    expect=published(
        "the readme of Global Knowledge", (39.8, 58.6, 42.6), teacher=38.9, plain=37.4, rows=["global_knowledge_retina"]
    ),
    note="no configuration was released: weights and the trained start are assumed to be Faster R-CNN's, the rate "
    "RetinaNet's usual one",
    **TWO_X,
)
