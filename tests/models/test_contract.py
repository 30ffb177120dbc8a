"""The behavior that all detectors share: a new one is tested as soon as it is registered.

Each is shrunken to a small backbone and narrow layers; entries that become the same then are tested once.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.drawing import same_start
from helpers.extras import skip_without_library
from helpers.precision import doubled, refuse_rounding
from torch import Tensor
from torchvision.ops import box_iou

import pkdzoo
from pkdzoo.checkpoints import save_safetensors
from pkdzoo.models._registry import Entry, find
from pkdzoo.models.assigners.sampling import Sampling
from pkdzoo.models.detector import Detector
from pkdzoo.models.rtmdet import RTMDet
from pkdzoo.models.two_stage import RegionDetector
from pkdzoo.structures import PostProcess

SMALL: dict[str, Any] = {
    "num_classes": 5, "frozen_stages": 0, "width": 64, "depth": 2, "box_width": 64, "mask_width": 32, "sample": False
}  # fmt: skip
SMALL_RESNET: dict[str, Any] = {"backbone": "r10w16", "norm": "gn"}
SMALL_RTMDET: dict[str, Any] = {"width": 0.125, "depth": 0.167, "norm": "gn"}  # factors of all widths and depths
SMALL_SWIN: dict[str, Any] = {"depths": (1, 1, 2, 1), "drop_path": 0.0}
SIZES = [(97, 203), (64, 120), (128, 81)]
PADDED = (128, 224)
EAGER = PostProcess(score_threshold=0.001, pre_nms_top_k=60, nms_threshold=0.5, max_detections=20)


def shrunken(entry: Entry) -> dict[str, Any]:
    """Overrides that make an entry small, as far as its family has these arguments."""
    known = inspect.signature(entry.build).parameters
    if entry.family == "rtmdet":
        return {"num_classes": SMALL["num_classes"], "backbone": "cspnext_tiny", **SMALL_RTMDET}
    backbone = SMALL_SWIN if entry.args.get("backbone", "").startswith("swin") else SMALL_RESNET
    if entry.args.get("neck") == "pafpn":  # its norm is batch norm, which differs between train and eval mode
        backbone = {**backbone, "neck_norm": "gn"}
    return {**{key: value for key, value in SMALL.items() if key in known}, **backbone}


def distinct() -> list[str]:
    """One name for each detector that differs from the others after shrinking."""
    seen: dict[str, str] = {}
    for name in pkdzoo.list_detectors():
        entry, _ = find(name)
        overrides = shrunken(entry)
        bound = inspect.signature(entry.build).bind(**{**entry.args, **overrides})
        bound.apply_defaults()
        if "depths" in overrides:  # the only difference between Swin variants
            bound.arguments["backbone"] = "swin"
        seen.setdefault(f"{entry.family} {bound.arguments}", name)
    return list(seen.values())


NAMES = distinct()


def kind(name: str) -> tuple[str, bool]:
    """Family, and whether the backbone is a transformer."""
    entry, _ = find(name)
    return entry.family, entry.args["backbone"].startswith("swin")


def others_slow(names: list[str], usual: set[str]) -> list[Any]:
    return [name if name in usual else pytest.param(name, marks=pytest.mark.slow) for name in names]


FIRST = {kind(name): name for name in sorted(NAMES, key=lambda name: ("r10w16" in name, name))}  # the last one stays
USUAL = set(FIRST.values()) - {FIRST["mask_rcnn", True]}  # Swin is tested below RetinaNet
every = pytest.mark.parametrize("name", others_slow(NAMES, USUAL))
COMPILED = {FIRST["retina", False], FIRST["retina", True], FIRST["rtmdet", False]}  # backbones and necks


@functools.cache
def model_of(name: str) -> Detector:
    """One model per name, shared by tests that do not change it; ``fresh`` builds a new one."""
    return fresh(name)


def fresh(name: str) -> Detector:
    torch.manual_seed(0)
    return pkdzoo.create_detector(name, **shrunken(find(name)[0]))


def objects(size: tuple[int, int], count: int = 3) -> pkdzoo.Instances:
    """Up to three objects, small and large, that overlap."""
    h, w = size
    relative = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.95, 0.9], [0.7, 0.1, 0.8, 0.3]])[:count]
    boxes = relative * torch.tensor([w, h, w, h], dtype=torch.float32)
    masks = torch.zeros(count, h, w, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = True
    return pkdzoo.Instances(boxes, torch.tensor([0, 4, 2])[:count], masks=masks)


def batch_of(sizes: list[tuple[int, int]], counts: list[int], padding: float = 0.0) -> pkdzoo.Batch:
    """Random images with ``padding``."""
    generator = torch.Generator().manual_seed(1)
    images = torch.full((len(sizes), 3, *PADDED), padding)
    for image, (h, w) in zip(images, sizes):
        image[:, :h, :w] = torch.rand(3, h, w, generator=generator) * 255
    return pkdzoo.Batch(images, sizes, [objects(size, count) for size, count in zip(sizes, counts)])


def phases(model: Detector) -> list[int]:
    """Epochs with different losses."""
    return [12] if type(model).set_epoch is Detector.set_epoch else [0, 12]


def losses_and_detections(model: Detector, batch: pkdzoo.Batch) -> dict[str, Tensor]:
    """All outputs of a detector for a batch, by name."""
    said: dict[str, Tensor] = {}
    with torch.no_grad():
        for epoch in phases(model):
            model.set_epoch(epoch)
            said.update({f"{key} {epoch}": value for key, value in model(batch).items()})
        for i, found in enumerate(model.postprocess(model.trace(batch, upto="head"), batch, EAGER)):
            said.update({f"boxes {i}": found.boxes, f"scores {i}": found.scores, f"labels {i}": found.labels})
    return said


@functools.cache
def said_of(name: str) -> dict[str, Tensor]:
    """Outputs of the shared model for the mixed batch."""
    return losses_and_detections(model_of(name), batch_of(SIZES, [3, 1, 2]))


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


@pytest.mark.parametrize("name", pkdzoo.list_detectors())
def test_every_entry_builds_at_full_size(name: str) -> None:
    skip_without_library(name)
    with torch.device("meta"):
        model = find(name)[0].build(**find(name)[0].args)
    assert all(p.is_meta for p in model.parameters())
    assert any(p.requires_grad for p in model.parameters())
    assert model.class_parameters(), "no tensor depends on the number of classes?"


@every
def test_every_parameter_starts_by_its_own_rule(name: str) -> None:
    entry, small = find(name)[0], shrunken(find(name)[0])
    same_start(lambda: pkdzoo.create_detector(name, **small), lambda: entry.build(**{**entry.args, **small}))


FULL = {(find(name)[0].family, find(name)[0].args["backbone"]): name for name in pkdzoo.list_detectors()}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL.values())
def test_every_parameter_starts_by_its_own_rule_at_full_size(name: str) -> None:
    skip_without_library(name)
    entry = find(name)[0]
    same_start(lambda: pkdzoo.create_detector(name), lambda: entry.build(**entry.args))


@every
@pytest.mark.parametrize(("sizes", "counts"), [
    ([SIZES[0]], [3]), (SIZES, [2, 0, 1]), (SIZES, [0, 0, 0]),
])  # fmt: skip
def test_losses_are_finite_and_reach_every_parameter(
    name: str, sizes: list[tuple[int, int]], counts: list[int]
) -> None:
    model = model_of(name).train()
    try:
        for epoch in phases(model):
            model.set_epoch(epoch)
            model.zero_grad(set_to_none=True)
            losses = model(batch_of(sizes, counts))
            assert losses
            assert all(key.startswith("loss_") and value.shape == () for key, value in losses.items())
            total = sum(losses.values())
            assert total.isfinite() and total > 0
            total.backward()
            for key, parameter in model.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None, f"{key} has no gradient"
                    assert parameter.grad.isfinite().all(), f"{key} has a gradient that is not finite"
    finally:
        model.zero_grad(set_to_none=True)
        model.eval()


@every
def test_a_float64_detector_computes_in_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(SIZES, [3, 1, 2])
    model, small = fresh(name).double().train(), fresh(name).train()
    for epoch in phases(model):
        model.set_epoch(epoch), small.set_epoch(epoch)
        torch.manual_seed(1)  # anchors are sampled
        rounded = small(batch)
        torch.manual_seed(1)
        with monkeypatch.context() as patch:
            refuse_rounding(patch)
            losses = model(doubled(batch))
            assert model(replace(batch, images=batch.images.double())).keys() == losses.keys()  # float32 boxes
        for key, value in losses.items():
            assert value.dtype == torch.float64, key
            if "rpn" not in key:  # rounding decides which of the anchors around a small object it takes
                torch.testing.assert_close(value.float(), rounded[key], rtol=1e-3, atol=1e-4)


@every
def test_the_type_of_boxes_does_not_matter(name: str) -> None:
    model, batch = fresh(name).eval(), batch_of(SIZES, [3, 1, 2])
    other = batch_of(SIZES, [3, 1, 2])
    assert other.instances
    for objects_ in other.instances[1:]:  # float32 in the first image, float64 in the others
        objects_.boxes = objects_.boxes.double()
    for epoch in phases(model):
        model.set_epoch(epoch)
        found = []
        for mixed in (batch, other):
            torch.manual_seed(1)
            found.append(model(mixed))
        assert_same(*found)


@every
def test_objects_make_a_difference(name: str) -> None:
    model = model_of(name)
    for epoch in phases(model):
        model.set_epoch(epoch)
        with torch.no_grad():
            some, none = (model(batch_of([SIZES[0]], [count])) for count in (3, 0))
        boxes = {key for key in some if "cls" not in key}
        assert boxes
        for key in boxes:
            assert some[key] > 0 and none[key] == 0, key


@every
def test_losses_are_the_same_in_train_and_in_eval_mode(name: str) -> None:
    if "tricks" in find(name)[0].args:
        pytest.skip("mmdetection's own difference, see test_fcos.py")
    model, batch = model_of(name), batch_of(SIZES, [3, 1, 2])
    with torch.no_grad():
        in_eval = model(batch)
        in_train = model.train()(batch)
    model.eval()
    assert_same(in_eval, in_train)


@every
def test_crowds_are_no_targets(name: str) -> None:
    model, batch = model_of(name), batch_of([SIZES[0]], [3])
    whole = batch.instances[0]
    crowded = pkdzoo.Instances(whole.boxes, whole.labels, torch.tensor([False, True, False]), whole.masks)
    without = whole[torch.tensor([0, 2])]
    with torch.no_grad():
        one, other = (model(pkdzoo.Batch(batch.images, batch.sizes, [i])) for i in (crowded, without))
    assert_same(one, other)


@every
def test_awkward_objects_have_finite_losses(name: str) -> None:
    """Half a pixel, the whole image, two equal boxes of different classes, a box mostly outside."""
    boxes = torch.tensor(
        [[10, 10, 10.5, 10.5], [0, 0, 203, 97], [40, 40, 80, 80], [40, 40, 80, 80], [190, 80, 203, 97.0]]
    )
    masks = torch.zeros(5, 97, 203, dtype=torch.bool)
    awkward = pkdzoo.Instances(boxes, torch.tensor([0, 1, 2, 3, 4]), masks=masks)
    batch = batch_of([SIZES[0]], [0])
    model = model_of(name)
    for epoch in phases(model):
        model.set_epoch(epoch)
        losses = model(pkdzoo.Batch(batch.images, batch.sizes, [awkward]))
        assert all(value.isfinite() for value in losses.values()), losses
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        model.zero_grad(set_to_none=True)


@every
@pytest.mark.parametrize("sizes", [[SIZES[0]], SIZES])
def test_detections_lie_in_their_image(name: str, sizes: list[tuple[int, int]]) -> None:
    model, batch = model_of(name), batch_of(sizes, [0] * len(sizes))
    batch.instances = None
    with torch.no_grad():
        images = model.postprocess(model.trace(batch, upto="head"), batch, EAGER)
    assert len(images) == len(sizes)
    for found, (h, w) in zip(images, sizes):
        assert 0 < len(found) <= EAGER.max_detections
        assert found.boxes.shape == (len(found), 4)
        assert (found.boxes >= 0).all()
        assert (found.boxes[:, 0::2] <= w).all() and (found.boxes[:, 1::2] <= h).all()
        if not getattr(model, "keeps_empty_boxes", False):
            assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert (found.scores.diff() <= 0).all()
        assert found.labels.dtype == torch.int64 and ((found.labels >= 0) & (found.labels < 5)).all()
        if found.mask_probabilities is not None:
            probabilities = found.mask_probabilities
            assert probabilities.shape[0] == len(found) and ((probabilities >= 0) & (probabilities <= 1)).all()


@every
def test_losses_without_objects_name_predict(name: str) -> None:
    batch = batch_of([SIZES[0]], [0])
    with pytest.raises(ValueError, match="predict"):
        model_of(name)(pkdzoo.Batch(batch.images, batch.sizes))


@every
def test_what_stands_in_the_padding_does_not_matter(name: str) -> None:
    noisy = batch_of(SIZES, [3, 1, 2], padding=float("nan"))
    noisy.images[1] = torch.where(noisy.images[1].isnan(), 1e4, noisy.images[1])
    assert_same(said_of(name), losses_and_detections(model_of(name), noisy))


@every
def test_saved_and_loaded_it_says_the_same(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    save_safetensors(model.state_dict(), tmp_path / "model.safetensors")
    other = pkdzoo.create_detector(name, **shrunken(find(name)[0]))
    assert not torch.equal(next(other.parameters()), next(model.parameters()))
    pkdzoo.load_checkpoint(other, tmp_path / "model.safetensors")
    assert_same(said_of(name), losses_and_detections(other, batch_of(SIZES, [3, 1, 2])))


@every
def test_half_precision_is_finite(name: str) -> None:
    model, batch = model_of(name), batch_of(SIZES, [3, 1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        said = losses_and_detections(model, batch)
    assert all(value.isfinite().all() for value in said.values())
    for key, value in said_of(name).items():
        if key.startswith("loss_"):
            torch.testing.assert_close(said[key].float(), value, rtol=0.1, atol=0.05)


@every
def test_channels_last_says_the_same(name: str) -> None:
    batch = batch_of(SIZES, [3, 1, 2])
    batch.images = batch.images.contiguous(memory_format=torch.channels_last)
    found = losses_and_detections(fresh(name).to(memory_format=torch.channels_last), batch)
    for key, value in said_of(name).items():
        if key.startswith("loss_"):
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
        elif key.startswith("scores"):
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", others_slow(NAMES, COMPILED))
def test_backbone_and_neck_compile(name: str) -> None:
    """The model is traced as one graph; code generation is not tested."""
    model, images = model_of(name), batch_of([SIZES[0]], [0]).images
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: model.neck(model.backbone(x)).levels, backend="eager", fullgraph=True)
    with torch.no_grad():
        expected = model.neck(model.backbone(images)).levels
        for level, other in zip(expected, compiled(images), strict=True):
            torch.testing.assert_close(level, other, rtol=1e-4, atol=1e-4)


def give_boxes_an_area(model: Detector) -> None:
    """Start RTMDet's linear distances at two strides instead of 0.

    Both of its losses are weighted by the IoU with the object, which is 0 for boxes without area, and an object whose
    single prior goes to another one is not learned at all: here one of three, with every seed. In a data set the other
    images teach the head the size of boxes.
    """
    if isinstance(model, RTMDet) and not model.head.exponential:
        for layer in model.head.box:
            torch.nn.init.constant_(layer.bias, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*USUAL, "rtmdet_l"}))  # whose distances are exponential
def test_learns_one_image_by_heart(name: str) -> None:
    """Training must lead to detections: after 160 steps all three objects are detected with the right class."""
    model, batch = fresh(name).train(), batch_of([SIZES[0]], [3])
    give_boxes_an_area(model)
    if isinstance(model, RegionDetector):
        model.roi_sampling = Sampling(48, 0.25)  # of 1,000 regions, which take twenty times as long
    expected = batch.instances[0]
    for i, (x1, y1, x2, y2) in enumerate(expected.boxes.int().tolist()):
        batch.images[0, :, y1:y2, x1:x2] = 255.0 * (torch.arange(3) == i)[:, None, None]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    # at a constant learning rate the loss would not settle
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=160)
    for _ in range(160):
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    found = model.detect(pkdzoo.Batch(batch.images, batch.sizes))[0]
    overlaps = box_iou(expected.boxes, found.boxes)
    assert (torch.where(expected.labels[:, None] == found.labels, overlaps, 0.0).amax(dim=1) > 0.5).all()
