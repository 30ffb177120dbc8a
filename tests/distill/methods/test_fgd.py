"""FGD equals its authors' code; its masks are what a hand would draw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.kd_reference import sampled_error, tiny_batch, tiny_detector
from helpers.reference import boxes_for, load, uniform, weight

import pkdzoo
from pkdzoo.distill.masks import channel_attention, spatial_attention
from pkdzoo.distill.methods.fgd import FGD, object_weights
from pkdzoo.distill.pairing import PyramidShape
from pkdzoo.layers.non_local import GlobalContext

CASES = load("kd/fgd_loss")["cases"]
KEYS = {"conv_mask": "attention", "channel_add_conv_X.0": "reduce", "channel_add_conv_X.1": "norm",
        "channel_add_conv_X.3": "expand"}  # fmt: skip


def load_contexts(method: FGD, case: dict[str, Any]) -> None:
    """The reference's weights under our names."""
    for side in ("student", "teacher"):
        state = {}
        for key, shape in case["state_dict"].items():
            if f"_{side[0]}." not in key:
                continue
            module, leaf = key.rsplit(".", 1)
            name = KEYS[module.replace(f"conv_{side[0]}", "conv_X").replace(f"mask_{side[0]}", "mask")]
            state[f"{name}.{leaf}"] = torch.from_numpy(weight(f"fgd.{case['name']}.{key}", shape))
        getattr(method, f"{side}_context")[0].load_state_dict(state)


def method_for(case: dict[str, Any]) -> FGD:
    config = case["config"]
    model = tiny_detector()
    model.pyramid_shape = PyramidShape((case["shape"][1],), (8,))  # type: ignore[assignment]
    method = FGD(
        model,
        model,
        alpha=config["alpha_fgd"],
        beta=config["beta_fgd"],
        gamma=config["gamma_fgd"],
        lambda_=config["lambda_fgd"],
        temperature=config["temp"],
        levels=1,
        boxes_on="image",
    )
    load_contexts(method, case)
    return method


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_equals_the_authors_code(case: dict[str, Any]) -> None:
    method = method_for(case)
    student = torch.from_numpy(uniform(f"fgd.{case['name']}.s", case["shape"])).requires_grad_()
    teacher = torch.from_numpy(uniform(f"fgd.{case['name']}.t", case["shape"]))
    objects, sizes = [], []
    for i, (h, w) in enumerate(case["image_shapes"]):
        boxes, labels = (part[i] for part in boxes_for(h, w))
        objects.append(pkdzoo.Instances(torch.from_numpy(boxes), torch.from_numpy(labels)))
        sizes.append((float(h), float(w)))
    loss = method.focal(student, teacher, objects, sizes) + method.global_(student, teacher, 0)
    assert float(loss.detach()) == pytest.approx(case["loss"], rel=1e-5)
    loss.backward()
    assert sampled_error(student.grad, case["grad"]) < 1e-4


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("retina_r10w16", (1e-3, 5e-4, 5e-4, 5e-6, 0.5)),
        ("gfl_r10w16", (1e-3, 5e-4, 5e-4, 5e-6, 0.5)),
        ("fcos_r10w16", (1.6e-3, 8e-4, 8e-4, 8e-6, 0.8)),
        ("faster_rcnn_r10w16", (5e-5, 2.5e-5, 5e-5, 5e-7, 0.5)),
    ],
)
def test_published_settings(name: str, settings: tuple[float, ...]) -> None:
    model = tiny_detector(name)
    method = FGD(model, model)
    s = method.settings
    assert (s.alpha, s.beta, s.gamma, s.lambda_, s.temperature) == settings
    assert len(method.pairs) == (4 if name.startswith("faster") else 5)
    assert FGD(model, model, beta=7).settings.beta == 7


def test_attention_golden_values() -> None:
    teacher = (0.7 * torch.arange(24, dtype=torch.float64)).cos().view(2, 2, 2, 3)
    where = spatial_attention(teacher, 0.5)
    expected = torch.tensor([1.181905, 0.689507, 0.685504, 1.199100, 1.452071, 0.791914], dtype=torch.float64)
    assert torch.allclose(where[0, 0].flatten(), expected, atol=2e-6)
    assert float(where[1].sum()) == pytest.approx(6, rel=1e-6)
    which = channel_attention(teacher, 0.5)[..., 0, 0]
    expected = torch.tensor([[1.158463, 0.841537], [0.928863, 1.071137]], dtype=torch.float64)
    assert torch.allclose(which, expected, atol=2e-6)


def test_weights_of_cells_drawn_by_hand() -> None:
    # an image of 40 x 50 on 4 x 5 cells: 10 pixels a cell. The first box touches cells (0..1, 0..1), the second
    # (1..3, 1..1); where both are, the smaller one counts more. Ends belong to a box: 19 -> ceil(1.9) = 2, inclusive.
    boxes = torch.tensor([[1.0, 2.0, 9.0, 10.0], [11.0, 12.0, 29.0, 9.5]])
    objects = [
        pkdzoo.Instances(boxes, torch.tensor([0, 0])),
        pkdzoo.Instances(torch.zeros(0, 4), torch.zeros(0).long()),
    ]
    fg, bg = object_weights(objects, [(40.0, 50.0)] * 2, (4, 5))
    quarter, third = 1 / 4, 1 / 3
    assert torch.allclose(
        fg[0, 0],
        torch.tensor([
            [quarter, quarter, 0, 0, 0],
            [quarter, third, third, third, 0],
            [0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0],
        ]),
    )  # fmt: skip
    assert torch.allclose(bg[0, 0], (fg[0, 0] == 0).float() / 14)
    assert (fg[1] == 0).all()
    assert torch.allclose(bg[1], torch.tensor(1 / 20))


def test_an_object_that_fills_the_map_leaves_no_background() -> None:
    objects = [pkdzoo.Instances(torch.tensor([[0.0, 0.0, 50.0, 40.0]]), torch.tensor([0]))]
    fg, bg = object_weights(objects, [(40.0, 50.0)], (4, 5))
    assert torch.allclose(fg, torch.tensor(1 / 30))  # 6 x 5 cells with the ends, some of them outside
    assert (bg == 0).all()


def test_context_block_starts_as_the_identity() -> None:
    block, x = GlobalContext(16), torch.randn(2, 16, 5, 6)
    assert torch.equal(block(x), x)
    block(x).sum().backward()
    assert block.expand.weight.grad.abs().sum() > 0


def test_global_part_starts_as_plain_imitation_and_trains_both_blocks() -> None:
    student, teacher = tiny_detector(), tiny_detector(seed=1)
    batch = tiny_batch()
    distiller = pkdzoo.Distiller(student, teacher, {"fgd": {"parts": "global", "lambda_": 1.0}})
    losses = distiller(batch)
    assert "loss_fgd_focal" not in losses
    maps = [model.trace(batch, "features").features.levels for model in (student, teacher)]
    plain = sum((s - t).square().sum() / 2 for s, t in zip(*maps))
    assert float(losses["loss_fgd_global"].detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
    losses["loss_fgd_global"].backward()
    method = distiller.methods["fgd"]
    for blocks in (method.student_context, method.teacher_context):
        assert all(block.expand.bias.grad.abs().sum() > 0 for block in blocks)


def test_normalized_global_part_starts_as_pkd() -> None:
    student, teacher = tiny_detector(), tiny_detector(seed=1)
    methods = {"fgd": {"parts": "global", "normalize": True}, "pkd": {"levels": 5}}
    losses = pkdzoo.Distiller(student, teacher, methods)(tiny_batch())
    assert float(losses["loss_fgd_global"].detach()) == pytest.approx(float(losses["loss_pkd"].detach()), rel=1e-5)
    with pytest.raises(ValueError, match='parts="global"'):
        FGD(student, teacher, normalize=True)


def test_a_batch_without_objects_and_a_teacher_of_other_width() -> None:
    batch = tiny_batch()
    batch.instances = [pkdzoo.Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))] * 2
    teacher = tiny_detector(seed=1, width=32)
    losses = pkdzoo.Distiller(tiny_detector(), teacher, {"fgd": {}})(batch)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
