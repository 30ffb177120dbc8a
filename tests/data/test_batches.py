"""Padding once, batches of like images, and the same batches on every process."""

from __future__ import annotations

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard

from pkdzoo.data import AspectBatchSampler, Sample, collate
from pkdzoo.structures import Instances


def sample(height: int, width: int, number: int = 0) -> Sample:
    image = torch.full((3, height, width), 7 + number, dtype=torch.uint8)
    return Sample(
        image, Instances(torch.zeros(number, 4), torch.zeros(number, dtype=torch.int64)), {"image_id": number}
    )


def test_collate_pads_once_with_zeros():
    batch = collate([sample(40, 65, 0), sample(33, 20, 2)])
    assert batch.images.shape == (2, 3, 64, 96)
    assert batch.images.dtype == torch.float32
    assert batch.sizes == [(40, 65), (33, 20)]
    assert batch.images[0, :, :40, :65].unique().tolist() == [7]
    assert batch.images[1].sum() == 9 * 3 * 33 * 20
    assert [len(i) for i in batch.instances] == [0, 2]
    assert [m["image_id"] for m in batch.meta] == [0, 2]


def test_collate_divisor_and_nothing():
    assert collate([sample(32, 64)]).images.shape[-2:] == (32, 64)
    assert collate([sample(33, 64)], divisor=1).images.shape[-2:] == (33, 64)
    with pytest.raises(ValueError, match="at least one image"):
        collate([])


GROUPS = [k % 3 == 0 for k in range(50)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_are_alike_and_leave_nothing_out(shuffle):
    sampler = AspectBatchSampler(GROUPS, 4, shuffle=shuffle)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 13
    assert sorted(k for batch in batches for k in batch) == list(range(50))
    assert [len(batch) for batch in batches] == [4] * 12 + [2]
    mixed = [batch for batch in batches if len({GROUPS[k] for k in batch}) > 1]
    assert len(mixed) <= 1


def test_drop_last():
    sampler = AspectBatchSampler(GROUPS, 4, drop_last=True)
    assert [len(batch) for batch in sampler] == [4] * len(sampler) == [4] * 12


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        sampler = AspectBatchSampler(GROUPS, 4, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert all(a != b for k, a in enumerate(orders) for b in orders[:k])


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    list(AspectBatchSampler(GROUPS, 4))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_images_evenly(processes):
    whole = list(AspectBatchSampler(GROUPS, 4, drop_last=True))
    shards = [
        list(BatchSamplerShard(AspectBatchSampler(GROUPS, 4, drop_last=True), processes, rank))
        for rank in range(processes)
    ]
    assert {len(shard) for shard in shards} == {12 // processes}
    assert [shards[k % processes][k // processes] for k in range(12)] == whole
    padded = [list(BatchSamplerShard(AspectBatchSampler(GROUPS, 4), processes, rank)) for rank in range(processes)]
    assert len({len(shard) for shard in padded}) == 1
    assert all(len(batch) == 4 for shard in padded for batch in shard)
    assert {k for shard in padded for batch in shard for k in batch} == set(range(50))


def test_two_processes_see_what_one_sees_at_twice_the_batch():
    flat = [0] * 48
    single = list(AspectBatchSampler(flat, 8, seed=9))
    halves = [list(BatchSamplerShard(AspectBatchSampler(flat, 4, seed=9), 2, rank)) for rank in range(2)]
    assert [a + b for a, b in zip(*halves)] == single


def test_impossible_settings():
    with pytest.raises(ValueError, match="at least one image"):
        AspectBatchSampler(GROUPS, 0)
    with pytest.raises(ValueError, match="3 images make no full batch of 4"):
        AspectBatchSampler([0, 1, 1], 4, drop_last=True)
