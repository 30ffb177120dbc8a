"""The students inside the package that learned from real images, and their teachers: recipes/experiments/ trains both.

Their numbers were measured: the results of the experiments lie beside them.
"""

from __future__ import annotations

from pkdzoo.hub.weights import Distilled, Weights

RESULTS = "recipes/experiments/results"
OPTIONS = "--cpu --threads 1 --mixed-precision bf16 --channels-last --cache-images"


def _launch(experiment: str, runs: str, cache: int) -> str:
    """The command that trains ``runs`` of an experiment, with ``cache`` GB of images in memory."""
    file = f"recipes/experiments/{experiment}.py"
    return f"python recipes/experiments/run.py {file} --data DIR --results again --runs {runs} -- {OPTIONS} {cache}"


def _teacher(experiment: str, run: str, metrics: dict[str, float], cache: int, megabytes: int) -> Weights:
    """The teacher of an experiment, FAMILY_DATA or FAMILY_DATA_EPOCHS; it is not in the package. ``cache`` as above."""
    data = experiment.split("_")[1]
    return Weights(
        data,
        metrics=metrics,
        source=f"measured: {RESULTS}/{experiment}/{run}.json",
        license="Apache-2.0",
        labels=data,
        launch=_launch(experiment, run, cache),
        note=f"not shipped: {megabytes} MB in float16",
    )


DEEPPCB_TEACHER = _teacher("rtmdet_deeppcb", "w24-0", {"AP": 67.2, "AP50": 94.3, "AP75": 80.6}, 2, 10)
DEEPPCB_PAIR = Distilled(
    "rtmdet_w12",
    "rtmdet_tiny.deeppcb",
    ("pkd",),
    (67.2, 60.9, 61.0),
    f"measured, mean of seeds 0, 1 and 2: {RESULTS}/rtmdet_deeppcb",
    "a gain is not shown: it is +0.1 AP, with a 95 % interval from -2.3 to +2.4; a plain student with twice the epochs "
    "reached 66.6 AP (one seed)",
    gain_shown=False,
)
DEEPPCB_STUDENT = Weights(
    "deeppcb",
    file="rtmdet_w12_pkd_tiny_640_deeppcb.safetensors",
    sha256="e1910596e5539ea9aa4e42ef1cc4288a6a0f65df795c8d7492fab31ebab12cda",
    metrics={
        **{"AP": 61.1, "AP50": 90.5, "AP75": 70.5, "APs": 60.5, "APm": 62.1, "APl": 30.0},
        **{"AR1": 54.5, "AR10": 70.2, "AR100": 71.5, "ARs": 70.3, "ARm": 72.3, "ARl": 30.0},
        "per_class": {"open": 52.7, "short": 42.8, "mousebite": 60.6, "spur": 57.1, "copper": 79.9, "pin-hole": 73.3},
    },
    source="measured: python recipes/evaluate.py rtmdet_w12_pkd_tiny_640.deeppcb --data deeppcb",
    license="Apache-2.0",
    labels="deeppcb",
    launch=_launch("rtmdet_deeppcb", "plain-0 pkd-0", 2),
    speed="212 ms per image that is decoded and scaled to 640 x 640, with PyTorch and one thread of an AMD EPYC "
    "(ms_per_image of pkdzoo eval NAME --data deeppcb --cpu --json, with OMP_NUM_THREADS=1)",
    curves={
        "epoch": (6, 12, 18, 24),
        "this student, seed 0": (34.4, 46.4, 58.0, 61.1),
        "the same with seed 1": (38.5, 52.4, 58.4, 60.4),
        "the same with seed 2": (32.9, 54.5, 60.4, 61.6),
        "plain student, seed 0": (21.8, 48.6, 57.9, 60.7),
        "plain student, seed 1": (34.7, 50.5, 57.7, 61.4),
        "plain student, seed 2": (24.7, 47.6, 56.7, 60.8),
        "teacher": (43.3, 59.0, 64.4, 67.2),
    },
    image="recipes/assets/boards.png",
    note="float16; for images of 640 x 640 pixels; the page of the data set allows its use for research",
)
GFL_TEACHER = _teacher("gfl_bccd_120", "cspnext-0", {"AP": 62.7, "AP50": 90.6, "AP75": 73.1}, 1, 5)
GFL_PAIR = Distilled(
    "gfl_r10w16",
    "gfl_cspnext_tiny.bccd",
    ("crosskd",),
    (62.7, 61.1, 62.0),
    f"measured, mean of seeds 0, 1 and 2: {RESULTS}/gfl_bccd_120",
    "a gain is not shown: it is +0.9 AP, with a 95 % interval from -0.8 to +2.7; seeds 1 and 2 were trained because "
    "seed 0 was good; a plain student with twice the epochs reached 61.5 and 62.1 AP (seeds 0 and 1); the plain "
    'student is gfl_r10w16 with norm="bn" and width=52',
    gain_shown=False,
)
GFL_STUDENT = Weights(
    "bccd",
    file="gfl_r10w16_crosskd_cspnext_tiny_bccd.safetensors",
    sha256="cc084a1168c3aef5ea017b3eedd64dc0916bb49ed57a004bee4b78dae99e03a2",
    metrics={
        **{"AP": 62.3, "AP50": 89.4, "AP75": 74.2, "APs": 23.1, "APm": 49.1, "APl": 72.5},
        **{"AR1": 41.0, "AR10": 65.4, "AR100": 71.9, "ARs": 25.7, "ARm": 64.6, "ARl": 80.8},
        "per_class": {"RBC": 61.0, "WBC": 80.9, "Platelets": 45.0},
    },
    source="measured: python recipes/evaluate.py gfl_r10w16_crosskd_cspnext_tiny.bccd --data bccd",
    license="Apache-2.0",
    labels="bccd",
    launch=_launch("gfl_bccd_120", "plain-0 crosskd-0", 1),
    speed="14 ms per image that is decoded and scaled to 320 x 240, with PyTorch and one thread of an AMD EPYC "
    "(ms_per_image of pkdzoo eval NAME --data bccd --cpu --json, with OMP_NUM_THREADS=1)",
    curves={
        "epoch": (10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120),
        "this student, seed 0": (52.9, 55.7, 57.9, 58.6, 59.1, 59.8, 60.6, 60.8, 61.0, 61.7, 62.4, 62.3),
        "the same with seed 1": (51.8, 58.2, 58.4, 59.7, 60.7, 60.7, 61.2, 61.0, 61.4, 61.5, 61.7, 62.1),
        "the same with seed 2": (53.0, 57.4, 57.9, 59.4, 60.1, 60.2, 60.5, 60.6, 60.8, 61.3, 61.6, 61.7),
        "plain student, seed 0": (41.9, 52.3, 55.9, 56.8, 57.6, 58.0, 59.1, 59.6, 60.5, 60.6, 60.8, 60.6),
        "plain student, seed 1": (39.6, 54.0, 56.7, 57.6, 58.6, 59.0, 59.8, 59.8, 60.0, 60.8, 61.3, 61.5),
        "plain student, seed 2": (43.5, 54.1, 56.9, 57.6, 58.3, 58.4, 59.3, 59.8, 60.1, 61.0, 61.0, 61.2),
        "teacher": (42.2, 53.4, 57.2, 58.5, 58.9, 59.3, 59.9, 60.5, 61.0, 62.0, 62.3, 62.7),
    },
    image="recipes/assets/cells.png",
    note="float16; images are scaled to fit 320 x 320 pixels",
)
