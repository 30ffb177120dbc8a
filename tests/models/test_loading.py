"""Files in all supported key layouts are loaded; wrong files are refused with their error."""

from __future__ import annotations

import pytest
import torch
from helpers.foreign_checkpoints import mmdetection_names, tensors

import pkdzoo
from pkdzoo.models._loading import is_our_layout


@pytest.fixture
def model() -> pkdzoo.Detector:
    return pkdzoo.create_detector("retina_r10w16")


def test_one_stray_tensor_does_not_change_the_layout(model: pkdzoo.Detector) -> None:
    ours = tensors(model)
    theirs = mmdetection_names(ours)
    assert is_our_layout(model, ours) and not is_our_layout(model, theirs)
    with pytest.raises(ValueError, match=r"1 unexpected: bbox_head\.scale$"):
        pkdzoo.load_checkpoint(model, {**ours, "bbox_head.scale": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1 keys .* match no rule .*: head\.cls\.bias"):
        pkdzoo.load_checkpoint(model, {**theirs, "head.cls.bias": ours["head.cls.bias"]})


def test_a_backbone_alone_is_told_what_it_lacks(model: pkdzoo.Detector) -> None:
    backbone = {key: value for key, value in tensors(model).items() if key.startswith("backbone.")}
    with pytest.raises(ValueError, match=r"32 missing: neck\.lateral"):
        pkdzoo.load_checkpoint(model, backbone)
