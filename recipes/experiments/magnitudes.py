"""BCCD with one teacher in two forms: as trained, and with a few dominant channels in its pyramid.

python recipes/experiments/run.py recipes/experiments/bccd.py --data bccd/ --results again --runs gfl_r18w64-0
python recipes/experiments/rescale_channels.py runs/experiments/bccd/gfl_r18w64-0/best runs/experiments/uneven_gfl
python recipes/experiments/run.py recipes/experiments/magnitudes.py --data bccd/
accelerate launch recipes/train.py recipes/experiments/magnitudes.py --data bccd/ --only magnitudes_plain

Both forms give the same detections; see rescale_channels.py. MSE's weight is tried over more than a decade; PKD keeps
its own. Student, data and budget are those of bccd.py.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pkdzoo.training import Distill, Recipe, load_recipes

STUDENT = next(each for each in load_recipes(Path(__file__).with_name("bccd.py")) if each.name == "bccd_plain")
PLAIN = replace(STUDENT, name="magnitudes_plain")
EVEN = "local-dir:runs/experiments/bccd/gfl_r18w64-0/best"
UNEVEN = "local-dir:runs/experiments/uneven_gfl"


def distilled(name: str, methods: dict[str, Any], teacher: str) -> Recipe:
    return replace(PLAIN, name=f"magnitudes_{name}", distill=Distill(teacher, methods))


RECIPES = [
    PLAIN,
    distilled("pkd_even", {"pkd": {}}, EVEN),
    distilled("mse_even", {"mse": {}}, EVEN),
    distilled("pkd", {"pkd": {}}, UNEVEN),
    *(distilled(f"mse_weight_{w}", {"mse": {"weight": float(w)}}, UNEVEN) for w in (3, 10, 30, 100)),
]
RUNS = (
    (("magnitudes_plain", "magnitudes_pkd", "magnitudes_mse_weight_10", "magnitudes_mse_weight_30"), 3),
    (("magnitudes_mse_weight_3", "magnitudes_mse_weight_100", "magnitudes_pkd_even", "magnitudes_mse_even"), 1),
)
