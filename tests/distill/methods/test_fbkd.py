"""FBKD equals mmrazor's losses and connectors, and its one-stage version its formulas."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from helpers.kd_reference import sampled_error, tiny_batch, tiny_detector
from helpers.reference import load, uniform, weight

import pkdzoo
from pkdzoo.distill.methods.fbkd import FBKD, Level
from pkdzoo.layers.non_local import NonLocal

CASES = load("kd/fbkd_loss")["cases"]
RULES = (
    (r"channel_wise_adaptation\.", "channel."),
    (r"spatial_wise_adaptation\.", "spatial."),
    (r"adaptation_layers\.", "feat."),
    (r"non_local_adaptation\.", "non_local."),
    (r"g\.0\.0\.conv\.", "value."),
    (r"phi\.0\.0\.conv\.", "key."),
    (r"theta\.conv\.", "query."),
    (r"conv_out\.conv\.", "out."),
    (r"conv_out\.bn\.", "norm."),
)


def level_for(case: dict[str, Any]) -> Level:
    """The reference's connectors under our names; mmrazor pools by 2 and then by its own number."""
    config = case["config"]
    pool = 2 * config.get("maxpool_stride", 2)
    level = Level(config["in_channels"], config["in_channels"], config.get("reduction", 2), pool, 0.5)
    state = {}
    for side in ("student", "teacher"):
        for key, shape in case["state_dict"][side].items():
            ours = key
            for pattern, replacement in RULES:
                ours = re.sub(pattern, replacement, ours)
            state[ours] = torch.from_numpy(weight(f"fbkd.{case['name']}.{side}.{key}", shape))
    level.load_state_dict(state)
    return level.train()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_equals_mmrazor(case: dict[str, Any]) -> None:
    student = torch.from_numpy(uniform(f"fbkd.{case['name']}.s", case["shape"])).requires_grad_()
    teacher = torch.from_numpy(uniform(f"fbkd.{case['name']}.t", case["shape"]))
    model = tiny_detector()
    weights = FBKD(model, model).weights
    terms = level_for(case)(student, teacher)
    loss = sum(weights[name] * term for name, term in terms.items())
    assert float(loss.detach()) == pytest.approx(case["loss"], rel=1e-5)
    loss.backward()
    assert sampled_error(student.grad, case["grad"]) < 1e-4


def test_non_local_block_starts_as_the_identity() -> None:
    block, x = NonLocal(16, 8, 2), torch.randn(2, 16, 6, 7)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.norm.weight.grad.abs().sum() > 0


def test_non_local_block_is_attention_over_pooled_cells() -> None:
    block, x = NonLocal(4, 3, 2).double(), torch.randn(1, 4, 4, 6, dtype=torch.float64)
    torch.nn.init.ones_(block.norm.weight)
    keys, values = (
        torch.nn.functional.max_pool2d(conv(x), 2).flatten(2)[0] for conv in (block.key, block.value)
    )  # (3, 6)
    queries = block.query(x).flatten(2)[0]  # (3, 24)
    mixed = (queries.T @ keys / 6) @ values.T  # (24, 3)
    expected = x + block.norm(block.out(mixed.T.reshape(1, 3, 4, 6)))
    assert torch.allclose(block(x), expected)


def test_defaults_and_options() -> None:
    student, teacher = tiny_detector(), tiny_detector(seed=1)
    method = FBKD(student, teacher)
    assert [level.student_non_local.pool for level in method.levels] == [8, 4, 2, 2]
    assert [level.student_non_local.query.out_channels for level in method.levels] == [16, 16, 32, 32]
    five = FBKD(student, teacher, levels=5, pooling=(16, 8, 4, 4))
    assert [level.teacher_non_local.pool for level in five.levels] == [16, 8, 4, 4, 4]
    with pytest.raises(ValueError, match="finest level"):
        FBKD(student, teacher, pooling=())


def test_the_one_stage_version_equals_its_formulas() -> None:
    """Written out with numpy, term by term: channel attention in the mask, six times the weights, five levels."""
    student, teacher = tiny_detector(), tiny_detector(seed=1)
    distiller = pkdzoo.Distiller(student, teacher, {"fbkd": {"version": "one_stage"}}).double()
    method, batch = distiller.methods["fbkd"], tiny_batch()
    batch.images = batch.images.double()
    assert [level.student_non_local.pool for level in method.levels] == [8, 4, 2, 2, 2]
    for level in method.levels:  # otherwise the blocks are the identity
        for block in (level.student_non_local, level.teacher_non_local):
            torch.nn.init.ones_(block.norm.weight)
    maps = [model.extract_features(batch).levels for model in (student, teacher)]
    expected = dict.fromkeys(("feat", "channel", "spatial", "non_local"), 0.0)

    def softmax(x: np.ndarray) -> np.ndarray:
        powers = np.exp(x / 0.1 - (x / 0.1).max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    for level, s, t in zip(method.levels, *maps, strict=True):
        with torch.no_grad():
            projected, mean = level.feat(s).numpy(), level.channel(s.mean(dim=(2, 3))).numpy()
            plane = level.spatial(s.mean(dim=1, keepdim=True)).numpy()
            blocks = level.non_local(level.student_non_local(s)) - level.teacher_non_local(t)
        s, t = s.detach().numpy(), t.detach().numpy()
        count, channels, height, width = t.shape
        mask = np.zeros_like(t)
        for x in (s, t):
            strength = np.abs(x).mean(axis=1).reshape(count, -1)
            mask += (height * width * softmax(strength)).reshape(count, 1, height, width) / 2
        weight = sum(channels * softmax(np.abs(x).mean(axis=(2, 3))) for x in (s, t)) / 2
        expected["feat"] += 4.2e-4 * np.sqrt((mask * weight[:, :, None, None] * (t - projected) ** 2).sum())
        expected["channel"] += 2.4e-2 * np.sqrt(((t.mean(axis=(2, 3)) - mean) ** 2).sum())
        expected["spatial"] += 2.4e-2 * np.sqrt(((t.mean(axis=1, keepdims=True) - plane) ** 2).sum())
        expected["non_local"] += 4.2e-4 * np.sqrt((blocks.numpy() ** 2).sum())
    losses = distiller(batch)
    for name, value in expected.items():
        assert float(losses[f"loss_fbkd_{name}"].detach()) == pytest.approx(value, rel=1e-4), name


def test_versions_differ_and_options_override_them() -> None:
    student, teacher = tiny_detector(), tiny_detector(seed=1)
    two, one = FBKD(student, teacher), FBKD(student, teacher, version="one_stage", spatial_weight=1.0, levels=3)
    assert list(two.weights.values()) == [7e-5, 4e-3, 4e-3, 7e-5] and len(two.levels) == 4
    assert list(one.weights.values()) == [4.2e-4, 2.4e-2, 1.0, 4.2e-4] and len(one.levels) == 3
    assert [two.levels[0].temperature, one.levels[0].temperature] == [0.5, 0.1]
    wide = FBKD(student, tiny_detector(seed=1, width=32), version="one_stage").levels[0]
    assert wide.mask(torch.rand(1, 64, 4, 5), torch.rand(1, 32, 4, 5)).shape == (1, 32, 4, 5)
    with pytest.raises(ValueError, match="'two_stage', 'one_stage'"):
        FBKD(student, teacher, version="both")


def test_every_connector_learns_and_none_is_saved_with_the_student() -> None:
    student = tiny_detector()
    distiller = pkdzoo.Distiller(student, tiny_detector(seed=1, width=32), {"fbkd": {}}).train()
    losses = distiller(tiny_batch())
    assert {name for name in losses if "fbkd" in name} == {
        "loss_fbkd_feat", "loss_fbkd_channel", "loss_fbkd_spatial", "loss_fbkd_non_local"
    }  # fmt: skip
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in distiller.connectors())
    assert not any("fbkd" in key for key in student.state_dict())


def test_a_twin_has_no_infinite_slope() -> None:
    distiller = pkdzoo.Distiller(tiny_detector(), tiny_detector(), {"fbkd": {}})
    level = distiller.methods["fbkd"].levels[0]
    torch.nn.init.dirac_(level.feat.weight)
    torch.nn.init.zeros_(level.feat.bias)
    losses = distiller(tiny_batch())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.grad is not None)
