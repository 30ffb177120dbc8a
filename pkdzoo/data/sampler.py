"""Batches of images with similar aspect ratios, so that batches have little padding; the same in every process.

As in mmdetection's ``AspectRatioBatchSampler``, images are in two groups (wider than high, or not), a batch is complete
when its group has enough images, and the rest is joined at the end. Here the order depends on ``(seed, epoch)`` alone,
and every process iterates over the same list: Accelerate gives batch k to process ``k mod N``. It needs the attributes
``batch_size`` and ``drop_last``, and only the last batch may be short.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, cycle, islice

import torch
from torch import Tensor
from torch.utils.data import Sampler

from pkdzoo.utils.text import counted


class AspectBatchSampler(Sampler[list[int]]):
    """Batch sampler grouped by aspect ratio.

    Call ``set_epoch`` before each epoch; otherwise every epoch has the same order. Accelerate's prepared loader calls
    it as well, with its own count that starts at 0 after a resume: set the epoch of the loader too
    (``loader.set_epoch(epoch)``).

    Args:
        groups: group of each image, e.g. ``dataset.aspect_groups()``.
        batch_size: images per batch.
        shuffle: draw a new order each epoch; otherwise the order is that of the data set.
        drop_last: leave out the last batch if it is short.
        seed: determines the order, together with the epoch.

    Raises:
        ValueError: ``batch_size`` below 1, or no batch at all.

    Example:
        >>> from pkdzoo.data import AspectBatchSampler
        >>> sampler = AspectBatchSampler([0, 1, 0, 1, 0, 0], batch_size=2)  # groups: dataset.aspect_groups()
        >>> sampler.set_epoch(3)
        >>> len(sampler), [len(batch) for batch in sampler]
        (3, [2, 2, 2])
    """

    def __init__(
        self,
        groups: Sequence[int] | Tensor,
        batch_size: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        self.groups = torch.as_tensor(groups, dtype=torch.uint8)
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.seed, self.epoch = seed, 0
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: a batch has at least one image")
        if len(self) == 0:
            raise ValueError(
                f"{counted(len(self.groups), 'image makes', 'images make')} no full batch of "
                f"{batch_size}: lower batch_size, or drop_last=False"
            )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order."""
        self.epoch = epoch

    def __len__(self) -> int:
        count = len(self.groups)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def order(self) -> list[int]:
        """The images of this epoch in random order, before they are grouped."""
        count = len(self.groups)
        if not self.shuffle:
            return list(range(count))
        # With a plain sum, (seed + 1, epoch) and (seed, epoch + 1) would give the same order.
        rng = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        return torch.randperm(count, generator=rng).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        groups = self.groups.tolist()
        waiting: dict[int, list[int]] = {}
        for index in self.order():
            batch = waiting.setdefault(groups[index], [])
            batch.append(index)
            if len(batch) == self.batch_size:
                yield waiting.pop(groups[index])
        rest = [index for group in sorted(waiting) for index in waiting[group]]
        for start in range(0, len(rest), self.batch_size):
            batch = rest[start : start + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch


class PairedBatchSampler(Sampler[list[tuple[int, tuple[int, ...]]]]):
    """The batches of labeled images, each image with the numbers of the unlabeled images that go with its batch.

    Labeled batches are those of ``labeled``. Unlabeled images are used in turn, also over several epochs: batch k of
    epoch e takes the part number ``e * batches per epoch + k`` of an endless list of random orders. Each order has all
    images; if ``count`` does not divide their number, images of its first batches complete its last one. Both depend on
    (seed, epoch) alone, and a resumed run continues both.

    The numbers stand beside every labeled image, because Accelerate completes the last batch of some processes with
    images of other batches. Those of a batch's first image count, so every batch has equally many.

    Args:
        labeled: sampler of the labeled images.
        groups: group of each unlabeled image, as for :class:`AspectBatchSampler`.
        count: unlabeled images per batch.

    Raises:
        ValueError: ``count`` below 1, or no unlabeled image.

    Example:
        >>> from pkdzoo.data.sampler import AspectBatchSampler, PairedBatchSampler
        >>> sampler = PairedBatchSampler(AspectBatchSampler([0] * 4, batch_size=2), groups=[0] * 6, count=3)
        >>> batches = list(sampler)
        >>> [len(batch) for batch in batches], sorted(number for batch in batches for number in batch[0][1])
        ([2, 2], [0, 1, 2, 3, 4, 5])
    """

    def __init__(self, labeled: AspectBatchSampler, groups: Sequence[int] | Tensor, count: int) -> None:
        if count < 1 or not len(groups):
            raise ValueError(f"{count} of {len(groups)} unlabeled images per batch: there must be at least one of each")
        self.labeled, self.count = labeled, count
        self.batch_size, self.drop_last = labeled.batch_size, labeled.drop_last
        # another seed than that of the labeled images, which would be in the same order
        self.unlabeled = AspectBatchSampler(groups, min(count, len(groups)), seed=-1 - labeled.seed)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines both orders."""
        self.labeled.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.labeled)

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
        number = self.labeled.epoch * len(self)
        current, order = -1, [[0]]
        for batch in self.labeled:
            turn, place = divmod(number, len(self.unlabeled))
            if turn != current:
                self.unlabeled.set_epoch(turn)
                current, order = turn, list(self.unlabeled)
            drawn = tuple(islice(chain(order[place], cycle(chain.from_iterable(order))), self.count))
            yield [(index, drawn) for index in batch]
            number += 1
