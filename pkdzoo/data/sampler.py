"""Batches of images that lie alike, so that little of a batch is padding; the same ones on every machine.

The rule is mmdetection's ``AspectRatioBatchSampler``: two groups (wider than high, or not), a batch leaves
when its group has gathered enough, what is left over at the end is joined. Here the order is a function of
``(seed, epoch)`` alone, and every process walks the same list: Accelerate deals batch k to process
``k mod N``, which needs ``batch_size`` and ``drop_last`` and that only the last batch may be short.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler


class AspectBatchSampler(Sampler[list[int]]):
    """Batch sampler grouped by aspect ratio.

    ``set_epoch`` before each epoch; forgetting it repeats one order for ever. Accelerate's prepared loader
    calls it too, with a count of its own that starts at 0 after a resume: tell that loader the epoch as well
    (``loader.set_epoch(epoch)``).

    Args:
        groups: group of each image, e.g. ``dataset.aspect_groups()``.
        batch_size: images a batch.
        shuffle: draw a new order each epoch; otherwise the order of the data set.
        drop_last: leave out the last batch where it is short. It may not leave out everything.
        seed: together with the epoch, decides the order.

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
                f"{len(self.groups)} images make no full batch of {batch_size}: lower batch_size, or drop_last=False"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        count = len(self.groups)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def order(self) -> list[int]:
        """The images of this epoch in the order they are drawn, before they are grouped."""
        count = len(self.groups)
        if not self.shuffle:
            return list(range(count))
        # Two numbers into one seed: the epoch must not be able to undo the seed, as a plain sum lets it.
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
