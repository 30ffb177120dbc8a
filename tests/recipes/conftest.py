"""A generated data set, a tiny recipe, and the training script inside this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from helpers.finished_run import finished_run
from helpers.scripts import script

from pkdzoo.data import make_shapes

RECIPE = """
from pkdzoo.training import Data, Distill, Optim, Recipe, Schedule, Warmup, Logging

RECIPE = Recipe(
    "tiny",
    "retina_r10w16",
    data=Data(short=(64, 80), long=120, batch_size=4, eval_batch_size=2, workers=0, min_image_size=0),
    optim=Optim(lr=0.01, base_batch_size=4, clip=10.0),
    schedule=Schedule(epochs=2, milestones=(1,), warmup=Warmup(steps=3)),
    logging=Logging(log_every=3),
)
"""


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 training and 5 validation images: no batch size divides them."""
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=13, val=5, size=(64, 96))


@pytest.fixture(scope="session")
def recipe_text() -> str:
    """The tiny recipe."""
    return RECIPE


@pytest.fixture
def recipe(tmp_path: Path, recipe_text: str) -> Path:
    """The tiny recipe as a file."""
    path = tmp_path / "tiny.py"
    path.write_text(recipe_text)
    return path


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The training script, called with its command line; threads and Accelerate's singletons are put back.

    On one thread: with more, torch's convolutions of a single tiny image differ in their last bits from run to run.
    """
    module = script("train")
    threads = torch.get_num_threads()

    def run(*argv: object) -> None:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        try:
            module.main([str(word) for word in argv] + ["--cpu", "--threads", "1"])
        finally:
            torch.set_num_threads(threads)

    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run as training leaves it, one of two, with everything that must not be published."""
    return finished_run(tmp_path)
