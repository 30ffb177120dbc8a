"""The structures check what they are given, and move as one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pkdzoo.structures import Batch, FeaturePyramid, HeadOutputs, Instances, PixelNorm


def a_batch() -> Batch:
    objects = Instances(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([1]), torch.tensor([False]))
    return Batch(torch.rand(1, 3, 8, 8), [(8, 6)], [objects], [{"file_name": "a.jpg"}])


def test_everything_moves_and_nothing_else_changes() -> None:
    moved = a_batch().to("meta")
    assert moved.images.is_meta
    assert moved.instances is not None
    assert moved.instances[0].boxes.is_meta
    assert moved.sizes == [(8, 6)]
    assert moved.meta == [{"file_name": "a.jpg"}]


def test_maps_in_lists_and_dicts_are_moved() -> None:
    maps = [torch.zeros(1, 4, 2, 2)]
    moved = HeadOutputs(maps, maps, extra={"first": maps}).to("meta")
    assert {x.device.type for x in (*moved.cls, *moved.box, *moved.extra["first"])} == {"meta"} and not moved.quality


def test_pinning_reaches_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self.shape) or self)
    a_batch().pin_memory()
    assert sorted(map(tuple, pinned)) == [(1,), (1,), (1, 3, 8, 8), (1, 4)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Instances(torch.zeros(4), torch.zeros(1)), r"torch\.zeros\(0, 4\)"),
        (lambda: Instances(torch.zeros(2, 4), torch.zeros(1)), "one label per box"),
        (lambda: Batch(torch.zeros(3, 8, 8), [(8, 8)]), r"\(B, 3, H, W\)"),
        (lambda: Batch(torch.zeros(1, 3, 8, 8), [(8, 9)]), "does not fit"),
        (lambda: Batch(torch.zeros(2, 3, 8, 8), [(8, 8)]), "images: 2, sizes: 1; give one per image"),
        (lambda: FeaturePyramid([torch.zeros(1)], (8, 16)), "levels: 1, strides: 2; give one stride per level"),
    ],
)
def test_what_does_not_fit_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_crowd_is_no_target() -> None:
    objects = Instances(torch.rand(3, 4), torch.arange(3), torch.tensor([True, False, False]))
    assert objects.without_crowd().labels.tolist() == [1, 2]


@pytest.mark.parametrize("mean", [0.5, "imagenet"])
def test_pixel_statistics_are_one_number_per_channel(mean: Any) -> None:
    with pytest.raises(ValueError, match=r"mean=.*: write one number per channel"):
        PixelNorm(mean, (1.0, 1.0, 1.0))
