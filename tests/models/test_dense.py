"""One-stage detectors: tapping and resuming of towers, decoding of boxes, and targets."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import pkdzoo
from pkdzoo.checkpoints import to_our_keys
from pkdzoo.models.dense import DenseDetector, TowerHead
from pkdzoo.ops.levels import flatten_levels

DENSE = ["retina_r10w16", "fcos_r10w16", "gfl_r10w16", "atss_r10w16", "tood_r10w16", "reppoints_r10w16"]
TOWERS = [name for name in DENSE if name != "tood_r10w16"]


def images() -> pkdzoo.Batch:
    return pkdzoo.Batch(torch.rand(2, 3, 96, 160) * 255, [(96, 160), (64, 100)])


def built(name: str) -> DenseDetector:
    torch.manual_seed(0)
    return pkdzoo.create_detector(name, num_classes=4)


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_resumes_where_it_was_tapped(name: str) -> None:
    model = built(name)
    with torch.no_grad():
        levels = model.extract_features(images()).levels
        expected, none = model.head(levels)
        assert none is None
        for tap in range(model.head.depth + 1):
            outputs, taps = model.head(levels, tap)
            resumed = model.head.resume(taps)
            for part in ("cls", "box", "quality"):
                for one, other, third in zip(*(getattr(o, part) or [] for o in (expected, outputs, resumed))):
                    assert torch.equal(one, other) and torch.equal(one, third)


@pytest.mark.parametrize("name", TOWERS)
def test_a_tap_keeps_the_map_before_its_relu(name: str) -> None:
    model = built(name)
    assert isinstance(model.head, TowerHead)
    with torch.no_grad():
        trace = model.trace(images(), upto="head", tap=1)
        block = model.head.cls_tower.blocks[0]
        torch.testing.assert_close(trace.taps.cls[0], block(trace.features.levels[0]))
        assert (trace.taps.cls[0] < 0).any()
        start = model.head(trace.features.levels, 0)[1]
        assert all(map(torch.equal, start.reg, trace.features.levels))


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("tap", [-1, 3])
def test_a_tap_outside_the_tower_is_refused(name: str, tap: int) -> None:
    with pytest.raises(ValueError, match="2 blocks"):
        built(name).trace(images(), upto="head", tap=tap)


def test_tood_has_no_towers_to_tap() -> None:
    with pytest.raises(ValueError, match="no towers"):
        built("tood_r10w16").trace(images(), upto="head", tap=1)


@pytest.mark.parametrize("name", DENSE)
def test_rows_decode_alone_as_they_do_together(name: str) -> None:
    model = built(name)
    with torch.no_grad():
        trace = model.trace(images(), upto="head")
        rows = flatten_levels(trace.outputs.box, model.box_channels)
        assert rows.shape == (2, len(trace.priors), model.box_channels)
        whole = model.decode(rows, trace.priors)
        assert whole.shape == (2, len(trace.priors), 4)
        picked = torch.tensor([7, 0, len(trace.priors) - 1])
        assert torch.equal(model.decode(rows[1, picked], trace.priors.take(picked)), whole[1, picked])


@pytest.mark.parametrize("name", DENSE)
def test_decoding_is_exact_under_autocast(name: str) -> None:
    model = built(name)
    with torch.no_grad():
        trace = model.trace(images(), upto="head")
        rows = flatten_levels(trace.outputs.box, model.box_channels)
        expected = model.decode(rows, trace.priors)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.decode(rows, trace.priors), expected)


def test_boxes_with_nothing_inside_the_image_are_no_detections() -> None:
    model = built("retina_r10w16")
    batch = images()
    with torch.no_grad():
        model.head.box.bias += torch.tensor([-60.0, 0.0, 0.0, 0.0]).repeat(9)  # all boxes far to the left
        model.head.cls.bias += 10
        assert [len(found) for found in model.postprocess(model.trace(batch, upto="head"), batch)] == [0, 0]


def test_gfl_reads_the_mean_of_its_distributions() -> None:
    """Sides 0, 2, 16 and 1.5 strides away from the center of the first anchor, which lies at (0, 0)."""
    model = built("gfl_r10w16")
    chances = torch.zeros(4, 17)
    chances[0, 0] = chances[1, 2] = chances[2, 16] = 1
    chances[3, 1] = chances[3, 2] = 0.5
    priors = model.make_priors(model.extract_features(images())).take(torch.tensor([0]))
    found = model.decode(chances.clamp(min=1e-30).log().flatten()[None], priors)
    torch.testing.assert_close(found, torch.tensor([[0.0, -16.0, 128.0, 12.0]]), rtol=0, atol=1e-4)


def test_reppoints_box_is_mean_and_spread_of_its_points() -> None:
    head = built("reppoints_r10w16").head
    y, x = torch.tensor([0.0, 0, 0, 0, 3, 6, 6, 6, 6]), torch.tensor([1.0, 1, 1, 1, 2, 3, 3, 3, 3])
    points = torch.stack([y, x], dim=1).flatten().view(1, 18, 1, 1)
    head.moment.data = torch.tensor([0.0, 2.0]).log().clamp(min=-1)  # width shrinks by e, height doubles
    half = torch.tensor([float(x.std()) / 2.718281828, float(y.std()) * 2])
    expected = torch.cat([torch.tensor([2.0, 3.0]) - half, torch.tensor([2.0, 3.0]) + half])
    torch.testing.assert_close(head.box_of(points).flatten(), expected)


def test_reppoints_slow_gradients() -> None:
    """The moment gets a hundredth of its gradient, the first points get a tenth from the sampling."""
    head = built("reppoints_r10w16").head
    points = torch.randn(1, 18, 2, 2)
    full = torch.zeros(2, requires_grad=True)
    spread = points.view(9, 2, 2, 2).std(dim=0).flip(0)
    (full.exp()[:, None, None] * spread).sum().backward()
    head.box_of(points)[:, 2:].sum().backward()
    torch.testing.assert_close(head.moment.grad, full.grad / 100)

    reg = torch.randn(1, 64, 6, 6)
    first = head.first(F.relu(head.first_conv(reg)))
    shift = (first.detach() - head.kernel).requires_grad_()
    head.cls(F.relu(head.cls_conv(reg, shift))).sum().backward()
    head.zero_grad()
    logits, _, _ = head.level(reg, reg)
    logits.sum().backward()
    torch.testing.assert_close(head.first.bias.grad, 0.1 * shift.grad.sum(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_reppoints_without_spread_has_a_finite_gradient() -> None:
    head = built("reppoints_r10w16").head
    points = torch.zeros(1, 18, 1, 1, requires_grad=True)
    head.box_of(points).sum().backward()
    assert points.grad.isfinite().all()


def test_tood_changes_its_assignment_with_the_epoch() -> None:
    model = built("tood_r10w16")
    batch = images()
    batch.instances = [
        pkdzoo.Instances(torch.tensor([[10.0, 10.0, 90.0, 80.0]]), torch.tensor([1])),
        pkdzoo.Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
    ]
    with torch.no_grad():
        late = model.trace(batch).targets
        model.set_epoch(4)
        assert torch.equal(model.trace(batch).targets.quality, late.quality)  # a new detector is in the late phase
        model.set_epoch(3)
        early = model.trace(batch).targets
        assert not torch.equal(early.labels, late.labels)
        model.head.cls.bias.normal_()
        model.head.box.bias.normal_()
        assert torch.equal(model.trace(batch).targets.labels, early.labels)  # independent of the predictions
        assert float(early.num_pos) == int((early.labels == 1).sum())
        model.set_epoch(4)
        assert not torch.equal(model.trace(batch).targets.quality, late.quality)


@pytest.mark.parametrize("spelling", ["conv", "fcos"])
def test_fcos_reads_both_spellings_of_its_predictors(spelling: str) -> None:
    state = {f"bbox_head.{spelling}_{part}.bias": torch.zeros(1) for part in ("cls", "reg", "centerness")}
    assert list(to_our_keys(state, built("fcos_r10w16").key_rules)) == [
        "head.cls.bias",
        "head.box.bias",
        "head.quality.bias",
    ]


def test_gfl_needs_no_projection_in_the_file_and_bears_it() -> None:
    assert to_our_keys({"bbox_head.integral.project": torch.arange(17.0)}, built("gfl_r10w16").key_rules) == {}
    assert not any("project" in key for key in built("gfl_r10w16").state_dict())


@pytest.mark.parametrize("name", DENSE)
def test_batch_norm_of_levels_that_share_a_head_is_refused(name: str) -> None:
    """Its running statistics fit no level: such a GFL learned from PKD to a low training loss, and had 12 AP."""
    with pytest.raises(ValueError, match=r"head_norm='bn': all levels share the head.*write 'gn'"):
        pkdzoo.create_detector(name, head_norm="bn")


def test_pixels_are_no_batch() -> None:
    model, pixels = built("retina_r10w16"), torch.zeros(1, 3, 64, 64)
    for function in (model.detect, model.trace):
        with pytest.raises(TypeError, match=r"takes a pkdzoo\.Batch of raw images, not a Tensor: write pkdzoo\.Batch"):
            function(pixels)  # type: ignore[operator]
