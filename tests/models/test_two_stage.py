"""Faster R-CNN: proposals, targets of both stages, and losses in edge cases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.ops import box_iou

import pkdzoo
from pkdzoo.models.assigners.max_iou import NEGATIVE
from pkdzoo.models.faster_rcnn import FasterRCNN
from pkdzoo.models.rpn import ProposalConfig
from pkdzoo.models.trace import Trace
from pkdzoo.models.two_stage import BACKGROUND, OBJECT
from pkdzoo.structures import IGNORE, PostProcess

NONE = pkdzoo.Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
SOME = pkdzoo.Instances(
    torch.tensor([[10.0, 12.0, 60.0, 80.0], [30.0, 5.0, 118.0, 40.0]]), torch.tensor([2, 0]), torch.tensor([False] * 2)
)


def tiny(**overrides: object) -> FasterRCNN:
    torch.manual_seed(0)
    model = pkdzoo.create_detector("faster_rcnn_r10w16", num_classes=3, **overrides)
    assert isinstance(model, FasterRCNN)
    return model


def batch_of(*instances: pkdzoo.Instances) -> pkdzoo.Batch:
    torch.manual_seed(1)
    sizes = [(96, 128), (90, 101)][: len(instances)]
    return pkdzoo.Batch(torch.rand(len(instances), 3, 96, 128) * 255, sizes, list(instances))


def test_features_do_not_run_the_first_stage() -> None:
    model = tiny()
    del model.rpn, model.box_head
    trace = model.trace(batch_of(SOME), upto="features")
    assert trace.features.strides == (4, 8, 16, 32, 64)
    assert type(trace) is Trace  # without outputs and proposals


def test_proposals_are_few_distinct_and_inside() -> None:
    model, batch = tiny(), batch_of(SOME, NONE)
    trace = model.trace(batch, upto="head")
    assert trace.proposals
    for boxes, (h, w) in zip(trace.proposals, batch.sizes):
        assert 0 < len(boxes) <= 1000
        assert not boxes.requires_grad
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert boxes.min() >= 0 and (boxes.amax(dim=0) <= torch.tensor([w, h, w, h])).all()
    few = model.propose(trace, batch, ProposalConfig(pre_nms_top_k=50, nms_threshold=0.7, max_proposals=7))
    assert [len(boxes) for boxes in few] == [7, 7]
    # NMS runs per level: of five levels, at most five boxes can overlap one another
    assert (box_iou(few[0], few[0]) > 0.7).sum(dim=1).max() <= 5


def test_more_is_proposed_for_learning() -> None:
    model, batch = tiny(sample=False), batch_of(SOME)
    learned = model.trace(batch).proposals
    assert learned
    model.train_proposing = ProposalConfig(pre_nms_top_k=2000, max_proposals=3)  # type: ignore[misc]
    trace = model.trace(batch)
    assert trace.proposals and len(trace.proposals[0]) == 3
    # a trace with losses gives the same detections
    torch.testing.assert_close(
        model.postprocess(trace, batch)[0].boxes, model.postprocess(model.trace(batch, "head"), batch)[0].boxes
    )


def test_the_proposals_for_detection_are_saved(tmp_path: Path) -> None:
    """A loaded detector used to have those of its architecture, and other detections than the one that was saved."""
    model, batch = tiny().eval(), batch_of(SOME)
    model.test_proposing = ProposalConfig(pre_nms_top_k=40, nms_threshold=0.5, max_proposals=3)
    found = pkdzoo.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    assert isinstance(found, FasterRCNN) and found.test_proposing == model.test_proposing
    assert len(found.trace(batch, "head").proposals[0]) == 3
    one_stage = pkdzoo.create_detector("retina_r10w16").save_pretrained(tmp_path / "one_stage")
    assert "proposals" not in (one_stage / "config.json").read_text()


def test_anchor_targets() -> None:
    model, batch = tiny(sample=False), batch_of(SOME, NONE)
    trace = model.trace(batch)
    targets, priors = trace.targets, trace.priors
    assert targets is not None and priors is not None
    labels = targets.labels
    overlaps = box_iou(priors.boxes, SOME.boxes)
    assert (labels[0][overlaps.amax(dim=1) >= 0.7] == OBJECT).all()
    best = overlaps.amax(dim=0)
    for g in range(2):
        assert best[g] >= 0.3
        assert (labels[0][overlaps[:, g] == best[g]] == OBJECT).all()
    assert (labels[1] != OBJECT).all() and (labels[1] == BACKGROUND).any()
    counts = [(labels[i] == kind).sum().clamp(min=1) for i in range(2) for kind in (OBJECT, BACKGROUND)]
    assert targets.num_pos == sum(counts)


def test_sampling_limits_what_is_learned_from() -> None:
    model, batch = tiny(), batch_of(SOME, NONE)
    targets = model.trace(batch).targets
    assert targets is not None
    assert ((targets.labels != IGNORE).sum(dim=1) == 256).all()
    torch.manual_seed(3)
    first = model(batch)
    torch.manual_seed(3)
    again = model.train()(batch)  # the mode makes no difference, the random generator does
    for key, value in first.items():
        assert torch.equal(value, again[key]), key
    assert any(not torch.equal(value, first[key]) for key, value in model(batch).items())


def test_region_targets() -> None:
    model = tiny(sample=False)
    proposals = torch.tensor([[10.0, 12.0, 60.0, 70.0], [80.0, 60.0, 90.0, 90.0]])
    targets = model.assign_regions(proposals, SOME)
    # the objects' own boxes come first, then the proposal that overlaps the first object; background last
    assert torch.equal(targets.boxes, torch.cat([SOME.boxes, proposals]))
    assert targets.labels.tolist() == [2, 0, 2, 3]
    assert targets.matched.tolist() == [0, 1, 0, NEGATIVE]
    assert torch.equal(targets.objects[:3], SOME.boxes[targets.matched[:3]])
    nothing = model.assign_regions(proposals, NONE)
    assert nothing.labels.tolist() == [3, 3]


def test_low_quality_proposals_are_taken_only_where_asked() -> None:
    """A proposal is matched to the object it overlaps most, unless it is the best proposal of the other object."""
    shared = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    near, far = [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 6.0]
    objects = pkdzoo.Instances(torch.tensor([near, far]), torch.tensor([0, 1]))
    model = tiny(sample=False)
    assert model.assign_regions(shared, objects).labels.tolist() == [0, 1, 0]
    model.low_quality = 0.5
    assert model.assign_regions(shared, objects).labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("instances", [(SOME, NONE), (NONE, NONE), (SOME,)], ids=["half", "none", "one"])
@pytest.mark.parametrize("sample", [True, False])
def test_losses_are_finite_and_reach_every_parameter(instances: tuple[pkdzoo.Instances, ...], sample: bool) -> None:
    model = tiny(sample=sample).train()
    losses = model(batch_of(*instances))
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box"}
    assert all(value.isfinite() for value in losses.values())
    if not any(len(objects) for objects in instances):
        assert losses["loss_rpn_box"] == 0 and losses["loss_box"] == 0
    sum(losses.values()).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_no_proposal_at_all() -> None:
    """An RPN with NaN deltas proposes nothing; the heads must work without proposals."""
    model, batch = tiny(), batch_of(NONE)
    with torch.no_grad():
        model.rpn.box.bias.fill_(float("nan"))
    trace = model.trace(batch, upto="head")
    assert trace.proposals and len(trace.proposals[0]) == 0
    assert len(model.postprocess(trace, batch)[0]) == 0
    assert model(batch)["loss_cls"] == 0


def test_crowds_are_no_targets() -> None:
    model = tiny(sample=False)
    crowd = pkdzoo.Instances(SOME.boxes, SOME.labels, torch.tensor([False, True]))
    alone = SOME[torch.tensor([0])]
    for key, value in model(batch_of(crowd)).items():
        assert torch.equal(value, model(batch_of(alone))[key])


def test_detections_follow_the_asked_thresholds() -> None:
    model, batch = tiny(), batch_of(SOME)
    trace = model.trace(batch, upto="head")
    low = PostProcess(score_threshold=0.0, nms_threshold=0.5, max_detections=20)
    found = model.postprocess(trace, batch, low)[0]
    assert len(found) == 20
    assert (found.scores.diff() <= 0).all() and found.labels.max() < 3
    assert len(model.postprocess(trace, batch, PostProcess(score_threshold=1.0))[0]) == 0
    with pytest.raises(ValueError, match='upto="head"'):
        model.postprocess(model.trace(batch, upto="features"), batch)


def test_a_tap_is_refused() -> None:
    with pytest.raises(ValueError, match="no towers"):
        tiny().trace(batch_of(SOME), tap=1)


def test_padding_does_not_matter() -> None:
    model = tiny(sample=False)
    batch = batch_of(SOME, SOME)
    noisy = batch_of(SOME, SOME)
    noisy.images[1, :, 90:] = float("nan")
    noisy.images[1, :, :, 101:] = 1e6
    for key, value in model(batch).items():
        assert torch.equal(value, model(noisy)[key])
    for one, other in zip(model.detect(batch), model.detect(noisy)):
        assert torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores)


def test_number_of_classes() -> None:
    model = tiny()
    assert model.class_parameters() == {
        "box_head.cls.weight", "box_head.cls.bias", "box_head.box.weight", "box_head.box.bias"
    }  # fmt: skip
    other = pkdzoo.create_detector("faster_rcnn_r10w16", num_classes=7)
    differ = {k for k, v in model.state_dict().items() if other.state_dict()[k].shape != v.shape}
    assert differ == model.class_parameters()
