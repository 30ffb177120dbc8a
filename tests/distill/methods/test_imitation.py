"""Plain and masked imitation, and the two KL methods, through the Distiller."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.kd_reference import tiny_batch, tiny_detector

import pkdzoo
from pkdzoo.distill.imitation import masked_mean, squared_difference
from pkdzoo.losses import cwd, norm_kl


def losses_of(methods: dict[str, Any], batch: pkdzoo.Batch | None = None, **teacher: Any) -> dict[str, float]:
    distiller = pkdzoo.Distiller(tiny_detector(), tiny_detector(seed=1, **teacher), methods)
    losses = distiller(batch or tiny_batch())
    sum(losses.values()).backward()
    return {name: float(loss.detach()) for name, loss in losses.items()}


def levels_of(batch: pkdzoo.Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    with torch.no_grad():
        maps = [tiny_detector(seed=seed).trace(batch, "features").features.levels for seed in (0, 1)]
    return list(zip(*maps))


def test_mse_is_the_sum_over_levels_of_the_mean() -> None:
    expected = sum(float((s - t).square().mean()) for s, t in levels_of(tiny_batch())[:4])
    assert losses_of({"mse": {"weight": 70.0}})["loss_mse"] == pytest.approx(70 * expected, rel=1e-5)
    assert losses_of({"mse": {}})["loss_mse"] == pytest.approx(10 * expected, rel=1e-5)


def test_normalized_mse_is_pkd() -> None:
    found = losses_of({"mse": {"normalize": True}, "pkd": {}})
    assert found["loss_mse"] == pytest.approx(found["loss_pkd"], rel=1e-5)


def test_a_teacher_of_other_width_gets_a_projection() -> None:
    distiller = pkdzoo.Distiller(tiny_detector(), tiny_detector(seed=1, width=32), {"mse": {}, "gt_mask": {}})
    assert len(distiller.connectors()) == 2 * 4 * 2
    losses = distiller(tiny_batch())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in distiller.connectors())
    assert not pkdzoo.Distiller(tiny_detector(), tiny_detector(seed=1), {"mse": {}}).connectors()


def test_masked_mean_by_hand() -> None:
    values = torch.arange(16.0).view(1, 2, 2, 4)
    mask = torch.tensor([[[[1.0, 0, 0, 0], [0, 0, 0, 1.0]]]])
    assert float(masked_mean(values, mask)) == (0 + 8 + 7 + 15) / 4
    assert float(masked_mean(values, torch.zeros_like(mask))) == 0


def test_gt_mask_looks_at_objects_only() -> None:
    batch = tiny_batch()
    whole = torch.tensor([[0.0, 0.0, 128.0, 96.0]])
    batch.instances = [pkdzoo.Instances(whole, torch.tensor([0]))] * 2
    everywhere = losses_of({"gt_mask": {}, "mse": {}}, batch)
    assert everywhere["loss_gt_mask"] == pytest.approx(everywhere["loss_mse"], rel=1e-5)
    batch.instances = [pkdzoo.Instances(torch.zeros(0, 4), torch.zeros(0).long())] * 2
    assert losses_of({"gt_mask": {}}, batch)["loss_gt_mask"] == 0


def test_gt_mask_by_size_uses_one_level() -> None:
    batch = tiny_batch()
    box = torch.tensor([[8.0, 8.0, 24.0, 24.0]])
    batch.instances = [pkdzoo.Instances(box, torch.tensor([0]))] * 2
    student, teacher = levels_of(batch)[0]
    expected = 10 * float((student - teacher).square()[:, :, 1:3, 1:3].mean())
    assert losses_of({"gt_mask": {"boxes": "size"}}, batch)["loss_gt_mask"] == pytest.approx(expected, rel=1e-5)
    assert losses_of({"gt_mask": {}}, batch)["loss_gt_mask"] > expected
    normalized = losses_of({"gt_mask": {"normalize": True, "weight": 1.0}}, batch)["loss_gt_mask"]
    assert 0 < normalized != pytest.approx(expected)


def test_kl_methods() -> None:
    pairs = levels_of(tiny_batch())
    found = losses_of({"cwd": {"temperature": 2.0}, "norm_kl": {}})
    assert found["loss_cwd"] == pytest.approx(10 * sum(float(cwd(s, t, 2.0)) for s, t in pairs), rel=1e-5)
    assert found["loss_norm_kl"] == pytest.approx(10 * sum(float(norm_kl(s, t)) for s, t in pairs[:4]), rel=1e-4)


def test_cwd_of_class_logits() -> None:
    student, teacher = tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16", seed=1)
    batch = tiny_batch()
    losses = pkdzoo.Distiller(student, teacher, {"cwd": {"where": "cls"}})(batch)
    with torch.no_grad():
        outputs = [model.trace(batch, "head").outputs for model in (student, teacher)]
    expected = 5 * sum(float(cwd(s, t)) for s, t in zip(outputs[0].cls, outputs[1].cls))
    assert float(losses["loss_cwd"].detach()) == pytest.approx(expected, rel=1e-4)
    teacher = pkdzoo.create_detector("gfl_r10w16", num_classes=5)
    with pytest.raises(ValueError, match="3 classes and the teacher 5"):
        pkdzoo.Distiller(student, teacher, {"cwd": {"where": "cls"}})
    with pytest.raises(ValueError, match="has none"):
        pkdzoo.Distiller(student, Maps(), {"cwd": {"where": "cls"}})
    with pytest.raises(ValueError, match="strides and priors per location"):
        pkdzoo.Distiller(tiny_detector("retina_r10w16"), student, {"cwd": {"where": "cls"}})
    # its RPN has three anchors per location where the student has three classes: equal in shape alone
    with pytest.raises(ValueError, match="one-stage and a two-stage"):
        pkdzoo.Distiller(student, tiny_detector("faster_rcnn_r10w16"), {"cwd": {"where": "cls"}})


class Maps(pkdzoo.Detector):
    """A detector without a head."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Identity(), torch.nn.Identity(), 3)


@pytest.mark.parametrize("method", ["mse", "gt_mask", "cwd", "norm_kl", "fgd", "fbkd", "pkd"])
def test_feature_methods_never_run_the_teachers_head(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = tiny_detector(), tiny_detector("faster_rcnn_r10w16", seed=1)
    monkeypatch.setattr(teacher, "run_head", None)
    losses = pkdzoo.Distiller(student, teacher, {method: {}})(tiny_batch())
    added = [name for name in losses if name.startswith(f"loss_{method}")]
    assert added
    sum(losses[name] for name in added).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.neck.output[:4].parameters())


def test_teacher_gets_no_gradient_and_half_maps_are_widened() -> None:
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4, requires_grad=True)
    for normalize in (False, True):
        found = squared_difference(student.half().requires_grad_(), teacher.half(), normalize)
        assert found.dtype == torch.float32
        found.sum().backward()
    assert teacher.grad is None
