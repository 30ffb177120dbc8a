"""Names and channel orders of Swin files."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pkdzoo.checkpoints import to_our_keys
from pkdzoo.checkpoints.mmdet import BODY_RULES
from pkdzoo.checkpoints.swin import from_original
from pkdzoo.models.backbones import build_backbone
from pkdzoo.models.backbones.swin import PatchMerging


def test_merging_of_the_original() -> None:
    """The original's merging, as in its code, gives the same result as ours with converted weights."""
    torch.manual_seed(0)
    norm, reduction = nn.LayerNorm(4 * 5), nn.Linear(4 * 5, 10, bias=False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    state = {f"layers.0.downsample.norm.{key}": value for key, value in norm.state_dict().items()}
    state["layers.0.downsample.reduction.weight"] = reduction.weight
    ours = PatchMerging(5)
    translated = from_original(state)
    ours.load_state_dict({key.removeprefix("stages.0.merge."): value for key, value in translated.items()})
    x = torch.randn(2, 6, 8, 5)
    cells = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    torch.testing.assert_close(ours(x), reduction(norm(torch.cat(cells, dim=-1))))


def original_name(key: str) -> str:
    for ours, theirs in (
        ("stages.", "layers."),
        (".merge.", ".downsample."),
        (".fc", ".mlp.fc"),
        ("patch_embed.conv", "patch_embed.proj"),
        ("attn.bias_table", "attn.relative_position_bias_table"),
    ):
        key = key.replace(ours, theirs)
    return key


def test_a_file_of_the_original_fills_the_backbone() -> None:
    model = build_backbone("swin_t")
    own = {key: value for key, value in model.state_dict().items() if not key.startswith("norm")}
    state = {original_name(key): value for key, value in own.items()}
    state |= {key: torch.zeros(1) for key in ("norm.weight", "norm.bias", "head.weight", "head.bias")}
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    translated = from_original(state)
    assert {key: value.shape for key, value in translated.items()} == {k: v.shape for k, v in own.items()}
    for key, value in translated.items():
        assert torch.equal(value, own[key]) or ".merge." in key
    with pytest.raises(ValueError, match=r"match(es)? no rule"):
        from_original({"features.0.weight": torch.zeros(1)})


def test_rules_leave_other_backbones_alone() -> None:
    names = [f"backbone.{key}" for key in build_backbone("r18").state_dict()]
    assert list(to_our_keys({name: torch.zeros(1) for name in names}, BODY_RULES)) == names
