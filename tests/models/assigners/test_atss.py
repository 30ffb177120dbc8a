"""ATSS: the threshold computed by hand, levels, conflicts, empty input."""

from __future__ import annotations

import torch
from torchvision.ops import box_iou

from pkdzoo.models.assigners.atss import atss_targets, best_of, match_atss
from pkdzoo.models.assigners.max_iou import NEGATIVE
from pkdzoo.ops.priors import base_anchors, grid_priors, valid_prior_mask
from pkdzoo.structures import IGNORE, Instances

STRIDES = (8, 16, 32)
SIZES = [(16, 16), (8, 8), (4, 4)]
PRIORS = grid_priors([base_anchors(s, (8.0,), (1.0,)) for s in STRIDES], SIZES, STRIDES)


def test_the_threshold_is_mean_plus_deviation_of_the_candidates() -> None:
    """Reference: computed for one object, candidate by candidate."""
    box = torch.tensor([[30.0, 22.0, 96.0, 90.0]])
    overlaps, centers, start, candidates = box_iou(PRIORS.boxes, box)[:, 0], PRIORS.centers, 0, []
    for count in PRIORS.counts:
        far = (centers[start : start + count] - torch.tensor([63.0, 56.0])).norm(dim=1)
        candidates += (far.argsort()[:9] + start).tolist()
        start += count
    values = torch.tensor([float(overlaps[i]) for i in candidates])
    threshold = values.mean() + values.std()
    inside = [bool((centers[i] > box[0, :2]).all() and (centers[i] < box[0, 2:]).all()) for i in candidates]
    expected = {i for i, value, within in zip(candidates, values, inside) if value >= threshold and within}
    matched = match_atss(PRIORS.boxes, PRIORS.counts, box)
    assert len(expected) > 1
    assert set((matched == 0).nonzero().squeeze(1).tolist()) == expected


def test_an_object_lives_on_the_level_of_its_size() -> None:
    boxes = torch.tensor([[32.0, 32.0, 96.0, 96.0], [0.0, 0.0, 128.0, 128.0]])
    matched = match_atss(PRIORS.boxes, PRIORS.counts, boxes)
    fine, middle, _ = torch.split(matched, PRIORS.counts)
    assert set(fine.unique().tolist()) == {NEGATIVE, 0}
    assert 1 in middle and 1 not in fine


def test_centers_outside_the_object_are_no_positives() -> None:
    thin = torch.tensor([[33.0, 0.0, 39.0, 128.0]])  # between two columns of centers
    assert (match_atss(PRIORS.boxes[: PRIORS.counts[0]], PRIORS.counts[:1], thin) == NEGATIVE).all()


def test_best_of_gives_a_prior_to_the_larger_overlap() -> None:
    overlaps = torch.tensor([[0.5, 0.6, 0.0], [0.7, 0.2, 0.9]])
    index = torch.tensor([[0, 1], [0, 2]])
    assert best_of(overlaps, index, torch.tensor([[True, True], [True, False]])).tolist() == [1, 0, NEGATIVE]
    assert best_of(overlaps, index, torch.zeros(2, 2, dtype=torch.bool)).tolist() == [NEGATIVE] * 3


def test_no_objects_and_levels_smaller_than_k() -> None:
    assert (match_atss(PRIORS.boxes, PRIORS.counts, torch.zeros(0, 4)) == NEGATIVE).all()
    one = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    assert match_atss(PRIORS.boxes[:3], [2, 1], one).shape == (3,)
    assert match_atss(PRIORS.boxes[:0], [0], one).shape == (0,)


def test_targets_leave_out_what_is_not_valid() -> None:
    """Alone, the second image would be padded to 64 x 96: its targets are those of a pyramid of this size."""
    objects = Instances(torch.tensor([[8.0, 4.0, 60.0, 58.0]]), torch.tensor([2]))
    valid = torch.stack([valid_prior_mask(SIZES, STRIDES, size) for size in [(128, 128), (50, 90)]])
    targets = atss_targets(PRIORS, [objects, objects], valid, background=5)
    assert (targets.labels[1][~valid[1]] == IGNORE).all()
    small = [(8, 12), (4, 6), (2, 3)]
    alone = grid_priors([base_anchors(s, (8.0,), (1.0,)) for s in STRIDES], small, STRIDES)
    matched = match_atss(alone.boxes, alone.counts, objects.boxes)
    assert torch.equal(targets.matched[1][valid[1]], matched)
    assert set(targets.labels[1][valid[1]].unique().tolist()) == {2, 5}


def test_positives_are_counted_at_least_once_an_image() -> None:
    objects = Instances(torch.tensor([[8.0, 4.0, 60.0, 58.0]]), torch.tensor([2]))
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    valid = torch.ones(2, len(PRIORS), dtype=torch.bool)
    some = atss_targets(PRIORS, [objects, nothing], valid, background=5)
    assert float(some.num_pos) == int((some.labels == 2).sum()) + 1
    assert float(atss_targets(PRIORS, [nothing, nothing], valid, background=5).num_pos) == 2
    assert torch.equal(some.boxes[0][some.labels[0] == 2].unique(dim=0), objects.boxes)
