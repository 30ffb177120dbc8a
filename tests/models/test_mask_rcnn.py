"""Mask R-CNN: targets and predictions of the mask head."""

from __future__ import annotations

import pytest
import torch

import pkdzoo
from pkdzoo.models.mask_rcnn import MaskRCNN
from pkdzoo.ops.masks import paste_masks
from pkdzoo.structures import PostProcess

SHRUNK = {"backbone": "r10w16", "norm": "gn", "frozen_stages": 0, "width": 32, "box_width": 64, "mask_width": 16}
NONE = pkdzoo.Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def shrunk(name: str = "mask_rcnn_r50", **overrides: object) -> MaskRCNN:
    torch.manual_seed(0)
    model = pkdzoo.create_detector(name, num_classes=3, **{**SHRUNK, **overrides})
    assert isinstance(model, MaskRCNN)
    return model


def objects(size: tuple[int, int], inverted: bool = False) -> pkdzoo.Instances:
    boxes = torch.tensor([[10.0, 12.0, 60.0, 80.0], [30.0, 5.0, 98.0, 40.0]])
    masks = torch.zeros(2, *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = True
    return pkdzoo.Instances(boxes, torch.tensor([2, 0]), masks=~masks if inverted else masks)


def batch_of(*instances: pkdzoo.Instances) -> pkdzoo.Batch:
    torch.manual_seed(1)
    sizes = [(96, 128), (90, 101)][: len(instances)]
    return pkdzoo.Batch(torch.rand(len(instances), 3, 96, 128) * 255, sizes, list(instances))


@pytest.mark.parametrize("kind", ["some", "half", "none"])
def test_losses_are_finite_and_reach_every_parameter(kind: str) -> None:
    first = objects((96, 128)) if kind != "none" else NONE
    second = objects((90, 101)) if kind == "some" else NONE
    losses = shrunk().train()(batch_of(first, second))
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box", "loss_mask"}
    assert all(value.isfinite() for value in losses.values())
    assert (losses["loss_mask"] > 0) == (kind != "none")
    model = shrunk().train()
    sum(model(batch_of(first, second)).values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_masks_are_what_the_mask_loss_compares_with() -> None:
    """With high logits everywhere, only masks that fill their boxes have a low loss."""
    model = shrunk(sample=False)
    with torch.no_grad():
        model.mask_head.logits.weight.zero_()
        model.mask_head.logits.bias.fill_(20.0)
    model.low_quality = None
    losses = (model(batch_of(objects((96, 128), inverted)))["loss_mask"] for inverted in (False, True))
    right, wrong = (float(loss.detach()) for loss in losses)
    # regions overlap their object by at least half, the objects' boxes completely
    assert right < 10.0 < wrong
    # each mask pixel is right in one of the two, or in both if the border cuts it in half
    assert 19.9 < right + wrong < 20.0 + 1e-3


def test_only_the_mask_of_the_own_class_learns() -> None:
    model = shrunk()
    model(batch_of(objects((96, 128))))["loss_mask"].backward()
    grad = model.mask_head.logits.weight.grad
    assert grad is not None
    assert grad[2].any() and grad[0].any() and not grad[1].any()


def test_detections_have_masks_of_their_image() -> None:
    model, batch = shrunk(), batch_of(NONE, NONE)
    with torch.no_grad():
        model.mask_head.logits.weight.zero_()
        model.mask_head.logits.bias.fill_(5.0)
    found = model.detect(batch, PostProcess(score_threshold=0.0, max_detections=10))
    for image, size in zip(found, batch.sizes):
        assert image.mask_probabilities is not None and image.mask_probabilities.shape == (10, 28, 28)
        masks = paste_masks(image.mask_probabilities, image.boxes, size)
        assert masks.shape == (10, *size) and masks.dtype == torch.bool
        for mask, box in zip(masks, image.boxes):
            # a mask of high probability everywhere fills its box, except for rounded corners
            assert mask.sum() / ((box[2] - box[0]) * (box[3] - box[1])) == pytest.approx(1.0, abs=0.1)
            rows, columns = mask.nonzero().unbind(1)
            assert columns.min() + 0.5 >= box[0] and columns.max() + 0.5 <= box[2]
            assert rows.min() + 0.5 >= box[1] and rows.max() + 0.5 <= box[3]
    nothing = model.detect(batch, PostProcess(score_threshold=1.0))[1]
    assert nothing.mask_probabilities is not None and nothing.mask_probabilities.shape == (0, 28, 28)


def test_learning_needs_masks() -> None:
    model = shrunk()
    bare = pkdzoo.Instances(torch.tensor([[1.0, 1.0, 9.0, 9.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"masks=\.\.\."):
        model(batch_of(bare))
    with pytest.raises(ValueError, match="without padding"):
        model(batch_of(NONE, objects((96, 128))))
    assert model.trace(batch_of(bare), upto="head").proposals  # detection needs no masks


def test_number_of_classes() -> None:
    model, other = shrunk(), pkdzoo.create_detector("mask_rcnn_r50", num_classes=7, **SHRUNK)
    differ = {k for k, v in model.state_dict().items() if other.state_dict()[k].shape != v.shape}
    assert differ == model.class_parameters()
    assert {key.rpartition(".")[0] for key in differ} == {"box_head.cls", "box_head.box", "mask_head.logits"}


def test_boxes_are_those_of_faster_rcnn_with_low_quality_matches() -> None:
    assert shrunk().low_quality == 0.5
    assert pkdzoo.create_detector("faster_rcnn_r10w16").low_quality is None
