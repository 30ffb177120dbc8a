"""PKD's weight, swept: RetinaNet R50 learns from FCOS X101, 2x.

accelerate launch recipes/train.py recipes/pkd/table_6_weights.py --data coco/
accelerate launch recipes/train.py recipes/pkd/table_6_weights.py --data coco/ --only retina_r50_pkd_fcos_x101_weight_3
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPES = [
    Recipe(
        f"retina_r50_pkd_fcos_x101_weight_{weight}",
        "retina_r50",
        init="imagenet",
        distill=Distill("fcos_x101_64x4d.coco_ms2x", {"pkd": {"weight": float(weight)}}),
        expect=published("table 6 of the PKD paper", ap, teacher=42.6, plain=37.4, rows=[f"pkd_t6_alpha{weight}"]),
        note="the schedule is not printed: 2x, because the row of weight 10 is table 5's",
        **TWO_X,
    )
    for weight, ap in {3: 41.0, 5: 41.1, 8: 41.1, 10: 41.3, 13: 41.1}.items()
]
