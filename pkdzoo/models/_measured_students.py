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


def _teacher(
    experiment: str,
    run: str,
    metrics: dict[str, float],
    cache: int,
    note: str,
    resize: tuple[int, int] | None = None,
) -> Weights:
    """The teacher of an experiment, FAMILY_DATA or FAMILY_DATA_EPOCHS; it is not in the package. ``cache`` as above."""
    data = experiment.split("_")[1]
    return Weights(
        data,
        metrics=metrics,
        source=f"measured: {RESULTS}/{experiment}/{run}.json",
        license="Apache-2.0",
        labels=data,
        launch=_launch(experiment, run, cache),
        note=f"not shipped: {note}",
        resize=resize,
    )


DEEPPCB_TEACHER = _teacher(
    "rtmdet_deeppcb",
    "w24-0",
    {"AP": 67.2, "AP50": 94.3, "AP75": 80.6},
    cache=2,
    note="10 MB in float16; for images of 640 x 640 pixels",
)
DEEPPCB_PAIR = Distilled(
    "rtmdet_w12",
    "rtmdet_tiny.deeppcb",
    ("norm_cwd",),
    (67.2, 60.9, 64.0),
    f"measured, mean of seeds 0, 1 and 2: {RESULTS}/rtmdet_deeppcb",
    "a gain is not shown: it is +3.1 AP, with a 95 % interval from -0.1 to +6.2; after 18 of the 24 epochs it is +6.2, "
    "from +1.9 to +10.6; seeds 1 and 2 were trained because seed 0 was good; a plain student with twice the epochs "
    "reached 66.6 AP (one seed)",
    gain_shown=False,
)
DEEPPCB_STUDENT = Weights(
    "deeppcb",
    file="rtmdet_w12_norm_cwd_tiny_640_deeppcb.safetensors",
    sha256="408bfc14235db8a7c395ea64384c1cac6764bd7994aceb5c74d52a886f5a3b52",
    metrics={
        **{"AP": 63.8, "AP50": 92.6, "AP75": 75.0, "APs": 61.8, "APm": 65.5, "APl": 25.0},
        **{"AR1": 56.4, "AR10": 72.0, "AR100": 73.1, "ARs": 70.7, "ARm": 74.5, "ARl": 40.0},
        "per_class": {"open": 55.4, "short": 46.2, "mousebite": 64.9, "spur": 62.2, "copper": 78.7, "pin-hole": 75.6},
    },
    source="measured: python recipes/evaluate.py rtmdet_w12_norm_cwd_tiny_640.deeppcb --data deeppcb",
    license="Apache-2.0",
    labels="deeppcb",
    launch=_launch("rtmdet_deeppcb", "plain-0 norm_cwd-0", 2),
    speed="234 ms per image that is decoded and scaled to 640 x 640, with PyTorch and one thread of an AMD EPYC "
    "(ms_per_image of pkdzoo eval NAME --data deeppcb --cpu --json, with OMP_NUM_THREADS=1)",
    curves={
        "epoch": (6, 12, 18, 24),
        "this student, seed 0": (40.9, 58.9, 63.2, 63.9),
        "the same with seed 1": (48.0, 58.4, 62.9, 63.1),
        "the same with seed 2": (46.2, 61.2, 65.0, 65.0),
        "plain student, seed 0": (21.8, 48.6, 57.9, 60.7),
        "plain student, seed 1": (34.7, 50.5, 57.7, 61.4),
        "plain student, seed 2": (24.7, 47.6, 56.7, 60.8),
        "teacher": (43.3, 59.0, 64.4, 67.2),
    },
    image="recipes/assets/boards.png",
    note="float16; for images of 640 x 640 pixels; curves are those of the trainings, in bfloat16; the page of the "
    "data set allows its use for research",
)
GFL_TEACHER = _teacher(
    "gfl_bccd_120",
    "cspnext-0",
    {"AP": 62.7, "AP50": 90.6, "AP75": 73.1},
    cache=1,
    note="5 MB in float16; images are scaled to fit 320 x 320 pixels",
    resize=(320, 320),
)
GFL_PAIR = Distilled(
    "gfl_r10w16",
    "gfl_cspnext_tiny.bccd",
    ("crosskd",),
    (62.7, 61.1, 62.0),
    f"measured, mean of seeds 0, 1 and 2: {RESULTS}/gfl_bccd_120",
    "a gain is not shown: it is +0.9 AP, with a 95 % interval from -0.8 to +2.7; seeds 1 and 2 were trained because "
    "seed 0 was good; plain students with twice the epochs reached 61.5, 62.1 and 61.4 AP (seeds 0, 1 and 2); the "
    'plain student is gfl_r10w16 with norm="bn" and width=52',
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
    note="float16; images are scaled to fit 320 x 320 pixels; curves are those of the trainings, in bfloat16",
)
