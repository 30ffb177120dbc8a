"""A head is trained on another detector's frozen backbone and neck, without distillation: table 1 of the PKD paper.

accelerate launch recipes/train.py recipes/pkd/table_1_frozen_pyramid.py --data coco/
accelerate launch recipes/train.py recipes/pkd/table_1_frozen_pyramid.py --data coco/ --only fcos_on_gfl_r50

The detector uses the other one's backbone, pixel statistics and neck. The paper does not state the following, so it is
inferred: a 1x schedule, randomly initialized heads, and rows 1 and 3 (36.5 and 36.3) trained like the others. Those two
may also be the published detectors: mmdetection's zoo prints 36.6 for this FCOS and 36.3 for a RetinaNet on the same
kind of backbone.
"""

from typing import Any

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import FCOS_ONE_X, ONE_X, published

RGB = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "channel_order": "rgb"}
BGR = {"mean": [102.9801, 115.9465, 122.7717], "std": [1.0, 1.0, 1.0], "channel_order": "bgr"}
LIKE_GFL: dict[str, Any] = {"style": "pytorch", "frozen_affine": False, "relu_before_extra": False, "pixel_norm": RGB}
LIKE_FCOS: dict[str, Any] = {"style": "caffe", "frozen_affine": True, "extra": "on_output", "relu_before_extra": True}

TABLE: list[tuple[str, str, dict[str, Any], str, dict[str, Any], str, float]] = [
    ("fcos_on_fcos_r50", "fcos_r50_caffe", {}, "fcos_r50_caffe.coco_1x", FCOS_ONE_X, "FCOS-R50/FCOS", 36.5),
    ("fcos_on_gfl_r50", "fcos_r50_caffe", LIKE_GFL, "gfl_r50.coco_1x", FCOS_ONE_X, "GFL-R50/FCOS", 37.6),
    ("retina_on_retina_r50", "retina_r50", {}, "retina_r50.coco_1x", ONE_X, "Retina-R50/Retina", 36.3),
    (
        "retina_on_fcos_r50",
        "retina_r50",
        {**LIKE_FCOS, "pixel_norm": BGR},
        "fcos_r50_caffe.coco_1x",
        ONE_X,
        "FCOS-R50/Retina",
        35.2,
    ),
]
FROZEN = ("backbone", "neck")

RECIPES = [
    Recipe(
        name,
        model,
        model_args=args,
        distill=Distill(source, methods={}, inherit=FROZEN, freeze=FROZEN),
        expect=published("table 1 of the PKD paper", ap, rows=[f"pkd_table1_replacement/{row}"]),
        **schedule,
    )
    for name, model, args, source, schedule, row, ap in TABLE
]
