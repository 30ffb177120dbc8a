"""A Distiller on images without annotations: what is learned from them, and that no other loss counts them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.kd_reference import tiny_batch, tiny_detector
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN

import pkdzoo
from pkdzoo.distill import METHODS, Distiller
from pkdzoo.structures import Batch

TAKES = ("cwd", "fbkd", "mgd", "mse", "norm_cwd", "norm_kl", "pkd")


def unlabeled(count: int = 3, seed: int = 5) -> Batch:
    images = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 255
    return Batch(images, [(64, 64)] * count)


def both() -> Batch:
    return replace(tiny_batch(), unlabeled=unlabeled())


def pair(**methods: dict) -> Distiller:
    torch.manual_seed(0)
    return Distiller(tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16", seed=1), methods)


def test_losses_of_labeled_images_are_the_same_to_the_last_bit() -> None:
    for student in ("gfl_r10w16", "faster_rcnn_r10w16"):
        distiller = Distiller(tiny_detector(student), tiny_detector(student, seed=1), {"pkd": {}}).eval()
        torch.manual_seed(0)
        alone = distiller(tiny_batch())
        torch.manual_seed(0)
        found = distiller(both())
        assert set(found) - set(alone) == {"loss_pkd_unlabeled"}
        assert all(torch.equal(found[key], value) for key, value in alone.items()), student


def test_the_loss_is_the_methods_own_on_those_images() -> None:
    distiller = pair(pkd={"weight": 4.0})
    distiller.unlabeled_weight = 0.25
    found, batch = distiller(both()), unlabeled()
    traces = [model.trace(batch, "features") for model in (distiller.student, distiller.teacher)]
    expected = distiller.methods["pkd"](*traces, batch)["loss_pkd"]
    torch.testing.assert_close(found["loss_pkd_unlabeled"], 0.25 * expected)
    found["loss_pkd_unlabeled"].backward()
    grads = {name for name, p in distiller.student.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.startswith("backbone.") for name in grads) and not any(name.startswith("head.") for name in grads)


def test_logs_of_both_stand_beside_each_other() -> None:
    distiller = pair(pkd={})
    distiller(both())
    assert sorted(distiller.logs) == [f"pkd/{kind}{k}" for kind in ("r", "unlabeled_r") for k in range(4)]
    assert distiller.logs["pkd/r0"] != distiller.logs["pkd/unlabeled_r0"]
    distiller(tiny_batch())
    assert sorted(distiller.logs) == [f"pkd/r{k}" for k in range(4)]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_learns_from_unlabeled_images_or_sees_labeled_ones_alone(name) -> None:
    distiller = pair(**{name: {}, **({} if name in TAKES else {"pkd": {}})})
    assert distiller.check_unlabeled() == [name if name in TAKES else "pkd"]
    found = {key for key in distiller(both()) if key.endswith("_unlabeled")}
    assert found and all(key.startswith(f"loss_{name if name in TAKES else 'pkd'}") for key in found)


def test_options_decide_for_methods_of_several_kinds() -> None:
    assert pair(fgd={"parts": "global"}).check_unlabeled() == ["fgd"]
    assert "loss_fgd_global_unlabeled" in pair(fgd={"parts": "global"})(both())
    with pytest.raises(ValueError, match="only cwd: write pkd beside it"):
        pair(cwd={"where": "cls"}).check_unlabeled()


def test_schedules_and_the_last_epoch_count_for_unlabeled_images_too() -> None:
    distiller = pair(pkd={"schedule": "warmup:10"})
    distiller.set_progress(step=0, total=20)
    assert distiller(both())["loss_pkd_unlabeled"].item() == 0.0
    distiller = pair(pkd={"stop_epoch": 2})
    distiller.set_progress(epoch=2, epochs=4)
    found = distiller(both())
    assert found["loss_pkd"].item() == 0.0 and "loss_pkd_unlabeled" not in found


def test_what_cannot_take_them_says_so() -> None:
    with pytest.raises(ValueError, match=r"compares feature maps alone, .* only ld, crosskd: write pkd"):
        pair(ld={}, crosskd={})(both())
    with pytest.raises(ValueError, match="unlabeled_weight=-1"):
        Distiller(tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16"), {"pkd": {}}, unlabeled_weight=-1)
    net = nn.Conv2d(3, 64, 8, stride=8)

    def forward(net, images, instances):
        maps = net(images)
        return {"loss_mine": maps.square().mean()}, [maps]

    mine = Distiller(pkdzoo.Student(net, forward, num_classes=3), tiny_detector("gfl_r10w16"), {"pkd": {}})
    with pytest.raises(ValueError, match="gives its maps with its losses alone"):
        mine(both())


def test_a_student_of_torchvision_takes_them() -> None:
    backbone = BackboneWithFPN(resnet18(), {"layer2": "0", "layer3": "1"}, [128, 256], 64)
    anchors = AnchorGenerator(((32,), (64,), (128,)), ((1.0,),) * 3)
    student = pkdzoo.Student.torchvision(RetinaNet(backbone, num_classes=3, anchor_generator=anchors))
    teacher = tiny_detector("gfl_r10w16")
    found = Distiller(student, teacher, {"pkd": {"levels": 2}})(both())
    assert "loss_pkd_unlabeled" in found and torch.isfinite(found["loss_pkd_unlabeled"])


def test_a_teacher_that_squashes_its_images_takes_them() -> None:
    net = nn.Conv2d(3, 64, 8, stride=8)
    teacher = pkdzoo.Teacher(net, lambda net, x: [net(x)], (0.5,) * 3, (0.2,) * 3, strides=(8,), input_size=(96, 96))
    found = Distiller(tiny_detector("gfl_r10w16"), teacher, {"pkd": {"levels": 1}})(both())
    assert torch.isfinite(found["loss_pkd_unlabeled"])


def test_batch_norms_see_both() -> None:
    student = tiny_detector("gfl_r10w16", norm="bn").train()
    distiller = Distiller(student, tiny_detector("gfl_r10w16", seed=1), {"pkd": {}})
    norm = next(m for m in student.modules() if isinstance(m, nn.BatchNorm2d))
    distiller(both())
    assert int(norm.num_batches_tracked) == 2
