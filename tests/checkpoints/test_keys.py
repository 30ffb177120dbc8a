"""Renaming of keys, wrappers around state dicts, and strict loading."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pkdzoo.checkpoints import load_strictly, select_matching, to_our_keys
from pkdzoo.checkpoints.mmdet import BODY_RULES, tower_rules
from pkdzoo.checkpoints.wrappers import unwrap

ONE = torch.ones(1)


def test_first_rule_that_fits() -> None:
    rules = [(r"head\.old\.(.*)", r"head.new.\1"), (r"head\..*", None), (r"(.*)", r"x.\1")]
    assert list(to_our_keys({"head.old.w": ONE, "head.gone": ONE, "a.b": ONE}, rules)) == ["head.new.w", "x.a.b"]


def test_keys_that_no_rule_takes_are_listed() -> None:
    state = {f"strange.{i}": ONE for i in range(30)}
    with pytest.raises(ValueError, match=r"30 keys .* match no rule .*strange\.0, .* and 18 more"):
        to_our_keys(state, BODY_RULES)


def test_two_keys_cannot_become_one() -> None:
    with pytest.raises(ValueError, match=r"two keys of the checkpoint are renamed to 'a'"):
        to_our_keys({"x": ONE, "y": ONE}, [(r"[xy]", "a")])


def test_a_pattern_is_matched_whole() -> None:
    with pytest.raises(ValueError, match=r"match(es)? no rule"):
        to_our_keys({"prefix.head.w": ONE}, [(r"head\.w", "w")])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("data_preprocessor.mean", None),
        ("backbone.layer1.0.conv1.weight", "backbone.layer1.0.conv1.weight"),
        ("backbone.layer2.0.conv2_offset.weight", "backbone.layer2.0.conv2.offset.weight"),
        ("backbone.layer2.0.conv2.conv_offset.bias", "backbone.layer2.0.conv2.offset.bias"),
        ("neck.lateral_convs.0.conv.bias", "neck.lateral.0.conv.bias"),
        ("neck.fpn_convs.4.gn.weight", "neck.output.4.norm.weight"),
        ("bbox_head.cls_convs.3.gn.bias", "head.cls_tower.blocks.3.norm.bias"),
    ],
)
def test_names_of_bodies_and_towers(theirs: str, ours: str | None) -> None:
    rules = [*tower_rules("bbox_head.cls_convs", "head.cls_tower"), *BODY_RULES]
    assert list(to_our_keys({theirs: ONE}, rules)) == ([] if ours is None else [ours])


def test_wrappers() -> None:
    plain = {"a": ONE, "b.c": ONE}
    razor = {f"architecture.{key}": value for key, value in plain.items()}
    for content in (
        plain,
        {"state_dict": plain, "meta": {}},
        {"model": plain, "epoch": 3},
        {"state_dict": {f"module.{key}": value for key, value in plain.items()}},
        {
            "state_dict": {
                **razor,
                "teacher.a": ONE,
                "distiller.connectors.a.weight": ONE,
                "data_preprocessor.mean": ONE,
            }
        },
        {
            "state_dict": {
                **{f"architecture.model.{key}": value for key, value in plain.items()},  # mmrazor 0.x
                "distiller.teacher.model.a": ONE,
            }
        },
        {"state_dict": {**plain, "teacher.a": ONE, "teacher_model.b": ONE}},
        {**plain, "note": "a string beside tensors"},
    ):
        assert list(unwrap(content)) == ["a", "b.c"]
    # unknown keys next to a student are kept, so that strict loading reports them
    assert list(unwrap({"state_dict": {**razor, "teacher.a": ONE, "strange.weight": ONE}})) == [
        "a",
        "b.c",
        "strange.weight",
    ]
    with pytest.raises(ValueError, match="no tensors in the checkpoint; its keys are epoch, meta"):
        unwrap({"epoch": 3, "meta": {}})


def test_loading_is_strict_and_leaves_the_model_alone_when_it_fails() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    broken = {**state, "extra": ONE, "0.bias": torch.zeros(5)}
    del broken["1.weight"]
    with pytest.raises(
        ValueError,
        match=r"1 missing: 1\.weight; 1 unexpected: extra; 1 of another shape: 0\.bias: file \(5,\), model \(2,\)",
    ):
        load_strictly(model, broken)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    quantized = {**state, "0.weight": torch.ones(2, 1, 1, 1, dtype=torch.int8)}
    with pytest.raises(ValueError, match=r"1 of integers: 0\.weight: file int8, model float32"):
        load_strictly(model, quantized)
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"1 tensor with NaN or infinite values: 1\.running_var\."):
            load_strictly(model, {**state, "1.running_var": torch.tensor([1.0, value])})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    del state["1.num_batches_tracked"]  # not needed, and old files do not have it
    load_strictly(model, {**state, "attn.relative_position_index": ONE})
    assert torch.equal(model[0].weight, state["0.weight"])
    assert "attn.relative_position_index" not in select_matching(model, {**state, "attn.relative_position_index": ONE})
