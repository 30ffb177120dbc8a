"""RetinaNet R50 learns from RetinaNet X101 by PKD's KL form, 2x.

accelerate launch recipes/train.py recipes/pkd/retina_r50_norm_kl_x101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "retina_r50_norm_kl_x101",
    "retina_r50",
    init="imagenet",
    distill=Distill(
        "retina_x101_64x4d.coco_2x", {"norm_kl": {"weight": 10.0, "temperature": 50.0}}, inherit=("neck", "head")
    ),
    expect=published(
        "table 7 of the PKD paper",
        (40.9, 60.3, 43.6, 22.9, 45.2, 55.1),
        teacher=40.8,
        plain=37.4,
        rows=["pkd_t7_retina"],
    ),
    note="neck and head start from the teacher's, as in table 2 (appendix A.2); no code of this form was published",
    **TWO_X,
)
