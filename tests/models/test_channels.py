"""Images of other channels and orders: pixel statistics, and the weights of the first convolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.head_outputs import run_head
from torch import nn

import pkdzoo
from pkdzoo.models._channels import adapt_stem, widen
from pkdzoo.models.backbones import build_backbone
from pkdzoo.structures import PixelNorm

CAFFE = PixelNorm((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), "bgr")


def test_gray_images_give_what_their_rgb_copies_gave(row: Any) -> None:
    pixel_norm = PixelNorm((100.0, 100.0, 100.0), (50.0, 50.0, 50.0))
    row(pixel_norm=pixel_norm)
    color = pkdzoo.create_detector("test_retina", pretrained=True)
    gray = pkdzoo.create_detector("test_retina", pretrained=True, in_chans=1)
    images = torch.rand(2, 1, 64, 96) * 255
    for one, three in zip(run_head(gray, images), run_head(color, images.expand(-1, 3, -1, -1))):
        assert torch.allclose(one, three, atol=1e-4)
    with pytest.raises(ValueError, match="images of 1 channel, got 3"):
        run_head(gray, images.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_six_channels_give_what_three_gave_twice(row: Any, order: str) -> None:
    row(pixel_norm=PixelNorm((10.0, 20.0, 30.0), (50.0, 60.0, 70.0), order))
    three = pkdzoo.create_detector("test_retina", pretrained=True)
    six = pkdzoo.create_detector("test_retina", pretrained=True, in_chans=6)
    images = torch.rand(1, 3, 64, 96) * 255
    for one, other in zip(run_head(six, images.repeat(1, 2, 1, 1)), run_head(three, images)):
        assert torch.allclose(one, other, atol=1e-4)


def test_widened_statistics() -> None:
    bgr = PixelNorm((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "bgr")
    assert widen(bgr, 4) == PixelNorm((3.0, 2.0, 1.0, 3.0), (6.0, 5.0, 4.0, 6.0), "rgb")
    assert widen(bgr, 1) == PixelNorm((2.0,), (5.0,), "rgb")
    with pytest.raises(ValueError, match="in_chans=0: write a whole number of channels from 1"):
        widen(bgr, 0)


def test_stems_of_transformers() -> None:
    three, one = (
        nn.ModuleDict({"backbone": build_backbone("swin_t", depths=(1, 1, 1, 1), width=12, in_chans=n)}) for n in (3, 1)
    )
    state = adapt_stem(three.state_dict(), one, swap_channels=False)
    one.load_state_dict(state)
    images = torch.rand(1, 1, 64, 64)
    expected = three.eval()["backbone"](images.expand(-1, 3, -1, -1))
    for found, level in zip(one.eval()["backbone"](images), expected, strict=True):
        assert torch.allclose(found, level, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pixel_statistics_come_back_from_another_precision(dtype: torch.dtype) -> None:
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2)
    mean, std = model.pixel_mean.clone(), model.pixel_std.clone()
    model.to(dtype)
    assert torch.equal(model.pixel_mean, mean.to(dtype)) and model.pixel_std.dtype == dtype
    model.float()
    assert torch.equal(model.pixel_mean, mean) and torch.equal(model.pixel_std, std)
    model.pixel_mean += 0.123  # what somebody else has set stays
    changed = model.pixel_mean.to(dtype).float()
    assert torch.equal(model.to(dtype).float().pixel_mean, changed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pixel_statistics_survive_other_precisions(dtype: torch.dtype, tmp_path: Path) -> None:
    model = pkdzoo.create_detector("fcos_r10w16")
    norm = model.pixel_norm
    assert norm.mean == (123.675, 116.28, 103.53)
    again = pkdzoo.create_detector(str(model.to(dtype).save_pretrained(tmp_path / "saved")))
    assert again.pixel_norm == norm
    again.pixel_mean += 1.0  # a buffer that was changed by hand counts
    assert again.pixel_norm.mean == pytest.approx((124.675, 117.28, 104.53))


def test_detectors_pickled_before_pixel_norm_was_kept_can_be_saved(tmp_path: Path) -> None:
    model = pkdzoo.create_detector("fcos_r10w16")
    del model.__dict__["_pixel_norm"]
    assert model.pixel_norm.mean == pytest.approx((123.675, 116.28, 103.53))
    model.save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_other_order_of_the_same_statistics_gives_the_same(row: Any, order: str, tmp_path: Path) -> None:
    norm = PixelNorm((10.0, 20.0, 30.0), (50.0, 60.0, 70.0), order)
    row(pixel_norm=norm)
    model = pkdzoo.create_detector("test_retina", pretrained=True)
    turned = PixelNorm(norm.mean[::-1], norm.std[::-1], "rgb" if order == "bgr" else "bgr")
    images = torch.rand(1, 3, 64, 96) * 255
    folder = model.save_pretrained(tmp_path / "saved")
    others = (
        pkdzoo.create_detector("test_retina", pretrained=True, pixel_norm=turned),
        pkdzoo.from_pretrained(folder, pixel_norm=turned),
    )
    for other in others:
        assert other.channel_order != model.channel_order
        for one, two in zip(run_head(model, images), run_head(other, images)):
            assert torch.allclose(one, two, atol=1e-4)


@pytest.mark.parametrize("own", [PixelNorm((50.0, 60.0, 70.0, 900.0), (10.0, 11.0, 12.0, 300.0)), CAFFE])
def test_saved_statistics_stay(own: PixelNorm, tmp_path: Path) -> None:
    channels = len(own.mean)
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2, in_chans=channels, pixel_norm=own, resize=(64, 96))
    folder = model.save_pretrained(tmp_path / "saved")
    same = {"in_chans": channels}, {"in_chans": None}, {"pixel_norm": None, "resize": None}
    images = torch.rand(1, channels, 64, 96) * 255
    for args in same:
        for again in (pkdzoo.from_pretrained(folder, **args), pkdzoo.create_detector(folder, **args)):
            assert again.pixel_norm == own and again.resize == (64, 96)
            assert all(map(torch.equal, run_head(again, images), run_head(model, images)))
    six = pkdzoo.from_pretrained(folder, in_chans=6)
    assert six.pixel_norm == widen(own, 6)
    if channels == 3:
        for one, two in zip(run_head(six, images.repeat(1, 2, 1, 1)), run_head(model, images)):
            assert torch.allclose(one, two, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "statistics of pixels 0-1.* multiply both by 255"),
        (((1.0, 2.0, 3.0), (1.0, 0.0, 1.0)), "every std above 0"),
        (((1.0, 2.0, float("nan")), (1.0, 1.0, 1.0)), "write finite numbers"),
        (((1.0, 2.0), (1.0,)), "write one of each per channel"),
        (((1.0, 2.0, 3.0), (1.0, 1.0, 1.0), "RGB"), "channel_order='RGB': write 'rgb' or 'bgr'"),
        (((1.0,) * 4, (1.0,) * 4, "bgr"), "is for 3 channels, not for 4"),
    ],
)
def test_wrong_statistics(values: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PixelNorm(*values)


def test_statistics_that_do_not_fit_the_detector() -> None:
    with pytest.raises(ValueError, match="pixel_norm is for 3 channels, and the images have 4: write as many"):
        pkdzoo.create_detector("retina_r10w16", in_chans=4, pixel_norm=PixelNorm())
    with pytest.raises(ValueError, match=r"write pkdzoo\.structures\.PixelNorm"):
        pkdzoo.create_detector("retina_r10w16", pixel_norm={"mean": (0, 0, 0), "std": (1, 1, 1)})
    for wrong in ((320.0, 480.0), "ab", (0, 5), 320):
        with pytest.raises(ValueError, match="write two whole numbers of pixels"):
            pkdzoo.create_detector("retina_r10w16", resize=wrong)
