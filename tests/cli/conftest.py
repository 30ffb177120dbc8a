"""A saved detector, some images and a small data set for the tests of the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pkdzoo
from pkdzoo.data import make_shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved detector of three classes with random weights."""
    torch.manual_seed(0)
    model = pkdzoo.create_detector("retina_r10w16", label_names=("cat", "dog", "red fox"), resize=(64, 96))
    return str(model.save_pretrained(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 80)), ("b.jpg", (90, 50)), ("more/a.png", (40, 40)), ("more/c.bmp", (30, 70))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(root / name)
    (root / "notes.txt").write_text("no image")
    return root


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=3, val=2, size=(64, 96))
