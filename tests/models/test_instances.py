"""Objects with an impossible label or box are refused with the name of the image; all others are accepted."""

from __future__ import annotations

import pytest
import torch

import pkdzoo


def batch_of(box: list[float], label: int) -> pkdzoo.Batch:
    good = pkdzoo.Instances(torch.tensor([[4.0, 4.0, 40.0, 40.0]]), torch.tensor([0]))
    bad = pkdzoo.Instances(torch.tensor([[4.0, 4.0, 40.0, 40.0], box]), torch.tensor([1, label]))
    return pkdzoo.Batch(torch.zeros(2, 3, 64, 64), [(64, 64)] * 2, [good, bad], [{}, {"file_name": "b.jpg"}])


@pytest.mark.parametrize("name", ["retina_r10w16", "fcos_r10w16", "faster_rcnn_r10w16"])
@pytest.mark.parametrize(
    ("box", "label", "message"),
    [
        ([5.0, 5.0, 30.0, 30.0], 2, "b.jpg: label 2, but the detector has 2 classes, 0 to 1"),
        ([5.0, 5.0, 30.0, 30.0], -1, "b.jpg: label -1"),
        ([5.0, 5.0, 5.0, 30.0], 0, "no area"),
        ([30.0, 5.0, 5.0, 30.0], 0, "x1 < x2"),
        ([float("nan"), 5.0, 30.0, 30.0], 0, "no area"),
    ],
)
def test_what_no_loss_can_mean(name: str, box: list[float], label: int, message: str) -> None:
    model = pkdzoo.create_detector(name, num_classes=2)
    with pytest.raises(ValueError, match=message):
        model(batch_of(box, label))


def test_whole_pixel_boxes_become_float() -> None:
    objects = pkdzoo.Instances(torch.tensor([[4, 4, 40, 40]]), torch.tensor([0]))
    assert objects.boxes.dtype == torch.float32


@pytest.mark.parametrize("count", [0, 2.0, "3"])
def test_a_number_of_classes_is_a_whole_number(count: object) -> None:
    with pytest.raises(ValueError, match="num_classes"):
        pkdzoo.create_detector("retina_r10w16", num_classes=count)
