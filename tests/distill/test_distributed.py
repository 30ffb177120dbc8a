"""Two processes against one: statistics over ranks, and prototypes that all ranks share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers.kd_reference import tiny_batch, tiny_detector
from helpers.processes import on_each

import pkdzoo
from pkdzoo.distill.methods.crosskd import CrossKD
from pkdzoo.losses import normalize_channels, pearson, pearson_correlation

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")


def everything() -> dict[str, Any]:
    """All that is compared below, in one go: starting processes is what takes the time."""
    assert dist.get_world_size() == 2
    rank = dist.get_rank()
    return {"maps": split_maps(rank), "batch": split_batch(rank), "prototypes": search_prototypes(rank)}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found."""
    return on_each(everything, tmp_path_factory.mktemp("ranks"))


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 6, 5, 7, generator=generator) * 3 + 200
    teacher = torch.randn(4, 6, 5, 7, generator=generator)
    student[:, 2] = 0.1  # without variation
    return student.requires_grad_(), teacher


def split_maps(rank: int) -> dict[str, Any]:
    student, teacher = maps()
    own = slice(0, 1) if rank == 0 else slice(1, 4)  # ranks may have unequal shares
    found: dict[str, Any] = {}
    for name, loss in (
        ("pearson", pearson(student[own], teacher[own], sync=True)),
        (
            "plain",
            2
            * 0.5
            * (normalize_channels(student[own], True) - normalize_channels(teacher[own], True)).square().sum()
            / student.numel(),
        ),
    ):
        found[name] = loss.detach(), torch.autograd.grad(loss, student)[0]
    found["r"] = pearson_correlation(student[own], teacher[own], sync=True)[1]
    found["local"] = pearson(student[own], teacher[own]).detach()
    return found


def test_statistics_over_ranks(ranks: list[dict[str, Any]]) -> None:
    ranks = [rank["maps"] for rank in ranks]
    student, teacher = maps()
    expected, r = pearson_correlation(student, teacher)
    gradient = torch.autograd.grad(expected, student)[0]
    for name in ("pearson", "plain"):
        loss = sum(rank[name][0] for rank in ranks) / 2
        found = sum(rank[name][1] for rank in ranks) / 2  # as DistributedDataParallel averages
        assert torch.allclose(loss, expected, rtol=1e-5), name
        assert torch.allclose(found, gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())), name
        assert (found[:, 2] == 0).all()
    assert all(torch.allclose(rank["r"], r, rtol=1e-5) for rank in ranks)
    for rank, own in zip(ranks, (slice(0, 1), slice(1, 4))):
        assert torch.equal(rank["local"], pearson(student[own], teacher[own]).detach())


def whole_batch() -> pkdzoo.Batch:
    """Four images of one size, three objects in each of them."""
    parts = [tiny_batch(seed=seed) for seed in (0, 1)]
    instances = [parts[0].instances[0]] * 4
    return pkdzoo.Batch(torch.cat([p.images for p in parts]), [(96, 128)] * 4, instances)


def distilled(batch: pkdzoo.Batch) -> tuple[dict[str, float], torch.Tensor]:
    """Losses of distillation, and their gradient in one convolution of the student's pyramid."""
    methods = {"crosskd": {"sync": True}, "pkd": {"sync": True, "levels": 5}}
    distiller = pkdzoo.Distiller(tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16", seed=1), methods).double()
    batch.images = batch.images.double()
    losses = {k: v for k, v in distiller(batch).items() if "crosskd" in k or "pkd" in k}
    sum(losses.values()).backward()
    return {k: float(v.detach()) for k, v in losses.items()}, distiller.student.neck.output[0].conv.weight.grad


def split_batch(rank: int) -> tuple[dict[str, float], torch.Tensor]:
    batch = whole_batch()
    own = slice(2 * rank, 2 * rank + 2)
    return distilled(pkdzoo.Batch(batch.images[own], batch.sizes[own], batch.instances[own]))


def test_crosskd_and_pkd_agree_with_one_process(ranks: list[dict[str, Any]]) -> None:
    ranks = [rank["batch"] for rank in ranks]
    losses, gradient = distilled(whole_batch())
    assert len(losses) == 3
    for name, value in losses.items():
        assert sum(rank[0][name] for rank in ranks) / 2 == pytest.approx(value, rel=1e-5), name
    found = (ranks[0][1] + ranks[1][1]) / 2
    assert torch.allclose(found, gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()))


def search_prototypes(rank: int) -> dict[str, torch.Tensor]:
    student, teacher = tiny_detector("faster_rcnn_r10w16"), tiny_detector("faster_rcnn_r10w16", seed=1)
    options = {"smallest": 10.0, "prototypes": 3}
    distiller = pkdzoo.Distiller(student, teacher, {"global_knowledge": options})
    distiller.on_epoch_start(0, [tiny_batch(seed=10 * rank + i) for i in range(2 + rank)])
    return distiller.methods["global_knowledge"].state_dict()


def test_all_ranks_end_with_the_same_prototypes_of_all_images(ranks: list[dict[str, Any]]) -> None:
    ranks = [rank["prototypes"] for rank in ranks]
    for key in ("student_prototypes", "teacher_prototypes", "known"):
        assert torch.equal(ranks[0][key], ranks[1][key])
    student, teacher = tiny_detector("faster_rcnn_r10w16"), tiny_detector("faster_rcnn_r10w16", seed=1)
    alone = pkdzoo.Distiller(student, teacher, {"global_knowledge": {"smallest": 10.0, "prototypes": 3}})
    loader = [tiny_batch(seed=seed) for seed in (0, 1, 10, 11, 12)]
    alone.on_epoch_start(0, loader)
    expected = alone.methods["global_knowledge"].state_dict()
    assert torch.allclose(ranks[0]["student_prototypes"], expected["student_prototypes"])


def test_alignment_is_each_process_own_by_default() -> None:
    model = tiny_detector()
    assert not CrossKD(model, tiny_detector(seed=1)).sync
