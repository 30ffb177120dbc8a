"""A pyramid with other magnitudes: the detector stays the same function, PKD does not see it, MSE does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pkdzoo import Batch, create_detector
from pkdzoo.distill.registry import build_method
from recipes.experiments import rescale_channels


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A saved detector, and what the script makes of it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("teachers")
    create_detector("gfl_r10w16", num_classes=3).save_pretrained(folder / "even")
    rescale_channels.main([str(folder / "even"), str(folder / "uneven")])
    return folder / "even", folder / "uneven"


def test_the_same_detections_from_other_magnitudes(folders: tuple[Path, Path]) -> None:
    even, uneven = (create_detector(f"local-dir:{folder}") for folder in folders)
    image = np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)
    one, other = (model.predict(image, threshold=0.0) for model in (even, uneven))
    assert len(one) == len(other) > 0
    torch.testing.assert_close(other.boxes, one.boxes, rtol=0, atol=1e-3)
    torch.testing.assert_close(other.scores, one.scores, rtol=0, atol=1e-5)
    gains = rescale_channels.draw_gains(64, 1.0)
    assert gains.square().mean() == pytest.approx(1.0) and gains.max() / gains.min() > 20
    batch = Batch(torch.rand(2, 3, 96, 128) * 255, [(96, 128)] * 2)
    with torch.no_grad():
        maps = [model.trace(batch, upto="features").features.levels for model in (even, uneven)]
    assert len(maps[0]) == 5, "the two levels above the backbone's read rescaled maps"
    for a, b in zip(*maps):
        torch.testing.assert_close(b, a * gains[:, None, None], rtol=1e-3, atol=1e-4)


def test_pkd_does_not_see_magnitudes_and_mse_does(folders: tuple[Path, Path]) -> None:
    teachers = [create_detector(f"local-dir:{folder}") for folder in folders]
    student = create_detector("retina_r10w16", num_classes=3)
    batch = Batch(torch.rand(2, 3, 96, 128) * 255, [(96, 128)] * 2)
    losses: dict[str, list[float]] = {"pkd": [], "mse": []}
    for name, found in losses.items():
        for teacher in teachers:
            method = build_method(name, student, teacher, {})
            with torch.no_grad():
                traces = [model.trace(batch, upto="features") for model in (student, teacher)]
                found.append(float(sum(method(*traces, batch).values())))
    assert losses["pkd"][1] == pytest.approx(losses["pkd"][0], rel=1e-3)
    assert abs(losses["mse"][1] / losses["mse"][0] - 1) > 0.05


def test_what_cannot_be_rescaled_is_refused(tmp_path: Path) -> None:
    create_detector("rtmdet_tiny", num_classes=3).save_pretrained(tmp_path / "rtmdet")
    with pytest.raises(SystemExit, match=r"error: rtmdet_tiny: write a detector with two towers and an FPN"):
        rescale_channels.main([str(tmp_path / "rtmdet"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"gains of shape \(3,\): write 64 numbers above 0"):
        rescale_channels.rescale(create_detector("gfl_r10w16"), torch.ones(3))
