"""ImageNet weights of backbones: which file a detector starts from, and what is loaded."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers.reference import uniform
from helpers.serving import serving
from torch import nn

import pkdzoo
from pkdzoo.checkpoints import select_matching
from pkdzoo.hub.weights import Weights
from pkdzoo.models import _loading
from pkdzoo.models.backbones import build_backbone
from pkdzoo.models.backbones.weights import IMAGENET, add_missing_tensors, imagenet_weights, to_backbone
from pkdzoo.structures import PixelNorm


def filled(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        key: value if value.dtype == torch.int64 else torch.from_numpy(uniform(key, tuple(value.shape)))
        for key, value in model.state_dict().items()
    }


def test_imagenet_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = filled(torchvision.models.resnet18(weights=None))
    buffer = io.BytesIO()
    torch.save(original, buffer)
    with serving() as server:
        url, digest = server.put("/resnet18.pth", buffer.getvalue())
        row = Weights("imagenet", url, sha256=digest[:8])
        monkeypatch.setitem(IMAGENET, "r18", dict.fromkeys(IMAGENET["r18"], row))
        model = pkdzoo.create_detector("retina_r18", num_classes=2)
        head = model.head.cls.weight.clone()
        assert pkdzoo.load_backbone(model, "imagenet", cache_dir=tmp_path) is model
        own = model.backbone.state_dict()
        assert own
        assert all(torch.equal(value, original[key]) for key, value in own.items())
        assert torch.equal(model.head.cls.weight, head)
        plain = pkdzoo.create_detector("retina_r18", num_classes=2, norm="bn", in_chans=1)
        pkdzoo.load_backbone(plain, cache_dir=tmp_path)
        assert torch.allclose(plain.backbone.conv1.weight, original["conv1.weight"].sum(1, keepdim=True))
        assert len(server.requests) == 1
        with pytest.raises(ValueError, match="weights are for batch norm: write norm='frozen_bn'"):
            pkdzoo.load_backbone(pkdzoo.create_detector("retina_r18", norm="gn"), cache_dir=tmp_path)
    with pytest.raises(ValueError, match="no ImageNet weights for backbone 'r10w16'"):
        pkdzoo.load_backbone(pkdzoo.create_detector("retina_r10w16"))


CAFFE_2 = (103.53, 116.28, 123.675)
CAFFE = PixelNorm((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), "bgr")


@pytest.mark.parametrize(
    ("name", "args", "file"),
    [
        ("retina_r50", {}, "resnet50-0676ba61"),
        ("fcos_r50_caffe", {}, "resnet50_caffe"),
        ("fcos_r50_caffe", {"in_chans": 4}, "resnet50_caffe"),
        ("fcos_r50_caffe", {"pixel_norm": PixelNorm(), "style": "pytorch"}, "resnet50-0676ba61"),
        ("retina_r50", {"pixel_norm": CAFFE, "style": "caffe"}, "resnet50_caffe"),
        ("rtmdet_s", {"backbone": "r50", "norm": "bn"}, "resnet50-0676ba61"),
        ("gfl_cspnext_s", {}, "cspnext-s_imagenet"),
    ],
)
def test_the_file_that_fits_the_pixels(name: str, args: dict[str, Any], file: str, monkeypatch: Any) -> None:
    def found(label: str, row: Weights, *_: Any) -> Any:
        raise LookupError(row.url)

    monkeypatch.setattr(_loading, "find_weights", found)
    model = pkdzoo.create_detector(name, num_classes=1, **args)
    with pytest.raises(LookupError, match=file):
        pkdzoo.load_backbone(model)


def test_a_file_that_fits_no_pixels() -> None:
    assert "resnet50_caffe" in str(imagenet_weights("r50", PixelNorm(), "imagenet_caffe")[1].url)
    assert "resnet50_msra" in str(imagenet_weights("r50", PixelNorm(CAFFE_2, (1.0,) * 3, "bgr"))[1].url)
    zero = PixelNorm((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
    with pytest.raises(ValueError, match=re.escape("imagenet for pixels of mean 123.675, 116.28, 103.53, std 58.395")):
        imagenet_weights("r18", zero)
    for wrong in ({"style": "caffe"}, {"pixel_norm": CAFFE}):
        with pytest.raises(ValueError, match=r"are for style='(pytorch|caffe)', and the backbone has"):
            pkdzoo.load_backbone(pkdzoo.create_detector("retina_r50", num_classes=1, **wrong))


def test_statistics_of_no_file_are_told(monkeypatch: Any) -> None:
    def found(label: str, row: Weights, *_: Any) -> Any:
        raise LookupError(row.url)

    monkeypatch.setattr(_loading, "find_weights", found)
    zero = PixelNorm((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
    with (
        pytest.warns(UserWarning, match=r"normalizes pixels with mean 0, 0, 0, std 255.*trained with mean 123\.675"),
        pytest.raises(LookupError, match="resnet18-"),
    ):
        pkdzoo.load_backbone(pkdzoo.create_detector("retina_r18", num_classes=1, pixel_norm=zero))


def test_what_detection_adds_to_a_backbone_stays() -> None:
    small: dict[str, Any] = {"blocks": (1, 1, 1, 1), "width": 8}
    backbone = build_backbone("r50", **small, deformable=(2, 3, 4))
    plain = filled(build_backbone("r50", **small, norm="bn"))
    caffe = {key: value for key, value in plain.items() if "running" not in key and "tracked" not in key}
    caffe["fc.weight"] = torch.zeros(10, 4)
    full = select_matching(backbone, add_missing_tensors(to_backbone({"state_dict": caffe}), backbone))
    assert torch.equal(full["layer1.0.conv2.weight"], plain["layer1.0.conv2.weight"])
    assert torch.equal(full["layer3.0.conv2.weight"], plain["layer3.0.conv2.weight"])
    assert not full["layer3.0.conv2.offset.weight"].any()
    assert not full["bn1.running_mean"].any()
    assert (full["bn1.running_var"] == 1).all()
    with pytest.raises(ValueError, match=r"1 key of the checkpoint matches no rule.*layer5"):
        to_backbone({**caffe, "layer5.weight": torch.zeros(1)})
