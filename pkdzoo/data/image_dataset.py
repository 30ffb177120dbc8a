"""The images of a data set: read, transformed by (seed, epoch, image), with unreadable ones replaced or refused.

``CocoDataset`` adds boxes, ``UnlabeledImages`` has none.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from pkdzoo.data.augment import MixTransform
from pkdzoo.data.image_files import UnreadableImage
from pkdzoo.data.image_reader import Decode, ImageReader
from pkdzoo.data.transforms import Sample, Transform, with_image
from pkdzoo.ops.reduce import max_over_ranks
from pkdzoo.structures import Instances

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_UNREADABLE = 0.01  # share of the images that training may skip


class TooManyUnreadable(RuntimeError):
    """Raised when more images cannot be read than a training run may skip.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import TooManyUnreadable, make_shapes, open_dataset
        >>> root = make_shapes(tempfile.mkdtemp(), train=1, val=1, size=(64, 96))
        >>> for path in (root / "train2017").iterdir():
        ...     _ = path.write_bytes(b"no image")
        >>> dataset = open_dataset(root, "train", on_error="skip")
        >>> try:
        ...     sample = dataset[0]
        ... except TooManyUnreadable:
        ...     print("check the data first")
        check the data first
    """


def item_seed(seed: int, epoch: int, image_id: int) -> int:
    """The seed of one image's random choices in one epoch; neighboring arguments give unrelated seeds."""
    digest = hashlib.blake2b(struct.pack("<qqq", seed, epoch, image_id), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class ImageDataset(Dataset[Sample]):
    """Images of a folder as samples; subclasses know their file names and objects.

    Args:
        image_dir: folder of the images.
        image_ids: (n,) int64.
        sizes: (n, 2) int32, (height, width).
        transform: applied to each sample with a generator seeded by (seed, epoch, image id); a :class:`MixTransform` to
            each batch, with a generator of its first image.
        seed: see ``transform``.
        on_error: ``"raise"`` or ``"skip"``.
        max_unreadable: share of images, 0..1, that may be skipped.
        decode: see ``CocoDataset``.
        cache: bytes of shared memory in which images are kept once they were read.
    """

    def __init__(
        self,
        image_dir: str | Path,
        image_ids: NDArray[np.int64],
        sizes: NDArray[np.int32],
        *,
        transform: Transform | MixTransform | None = None,
        seed: int = 0,
        on_error: str = "raise",
        max_unreadable: float = MAX_UNREADABLE,
        decode: Decode = "exact",
        cache: int = 0,
    ) -> None:
        self.image_dir = Path(image_dir)
        self.image_ids, self.sizes = image_ids, sizes
        self.seed = seed
        self.on_error, self.max_unreadable = on_error, max_unreadable
        self._decode, self._cache_bytes = decode, cache
        self.transform = transform
        self._frozen = False  # becomes True only in a worker's own copy
        # Shared with the workers, also with those that live longer than an epoch.
        self._epoch = _shared(1, torch.int64)
        self._unreadable = _shared(len(self), torch.uint8)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def transform(self) -> Transform | MixTransform | None:
        """Applied to each sample or batch. Setting another one empties the cache, which may hold resized images."""
        return self._transform

    @transform.setter
    def transform(self, transform: Transform | MixTransform | None) -> None:
        self._transform = transform
        self.reader = ImageReader(self.sizes, transform, self._decode, self._cache_bytes)

    def with_transform(self, transform: Transform | MixTransform | None) -> Self:
        """The same images with another transform and without a cache; annotations are shared, not read again."""
        other = copy.copy(self)
        other._cache_bytes = 0
        other.transform = transform
        return other

    def file_name(self, index: int) -> str:
        """Path of an image inside ``image_dir``."""
        raise NotImplementedError

    def aspect_groups(self) -> Tensor:
        """(n,) uint8: 0 for portrait images (higher than wide), 1 for the others."""
        return torch.from_numpy((self.sizes[:, 1] >= self.sizes[:, 0]).astype(np.uint8))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that random choices depend on, also in workers that are already running."""
        self._epoch.fill_(epoch)

    def load_instances(self, index: int) -> Instances:
        """Objects of one image, in pixels of the original image."""
        raise NotImplementedError

    def load(self, index: int) -> Sample:
        """Load an image and its objects without a transform; the image may have been resized already, see ``decode``.

        Raises:
            UnreadableImage: with the file's name.
        """
        size = (int(self.sizes[index, 0]), int(self.sizes[index, 1]))
        image = self.reader.read(index, self.image_dir / self.file_name(index), size)
        meta = {
            "image_id": int(self.image_ids[index]),
            "file_name": self.file_name(index),
            "original_size": size,
            "scale": (1.0, 1.0),
            "flipped": False,
        }
        sample = Sample(image, self.load_instances(index), meta)
        return sample if sample.size == size else with_image(sample, size, image)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        sample = self._readable(index % len(self))
        if self.transform is None:
            return sample
        if isinstance(self.transform, MixTransform):
            return self._mixed([sample], self.transform)[0]
        return self.transform(sample, self._generator(sample))

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """The samples of one batch, as torch's loaders ask for them; a :class:`MixTransform` mixes their images."""
        if not isinstance(self.transform, MixTransform):
            return [self[index] for index in indices]
        return self._mixed([self._readable(index % len(self)) for index in indices], self.transform)

    def _mixed(self, samples: list[Sample], transform: MixTransform) -> list[Sample]:
        """Transformed samples of a batch; images are drawn from the data set until there are enough partners."""
        rng, epoch = self._generator(samples[0]), int(self._epoch)
        missing = max(0, transform.pool - len(samples)) if transform.mixes(epoch) else 0
        drawn = torch.randint(len(self), (missing,), generator=rng).tolist()
        return transform([*samples, *(self._readable(index) for index in drawn)], rng, epoch, len(samples))

    def _generator(self, sample: Sample) -> torch.Generator:
        return torch.Generator().manual_seed(item_seed(self.seed, int(self._epoch), sample.meta["image_id"]))

    def _readable(self, index: int) -> Sample:
        if get_worker_info() is not None and not self._frozen:
            # A full garbage collection writes into every object's header, which copies about 75 MB of the parent's
            # memory into each forked worker. Objects from before the fork need no collection in the worker.
            gc.freeze()
            self._frozen = True
        while True:
            try:
                return self.load(index)
            except UnreadableImage:
                if self.on_error == "raise":
                    raise
                self._unreadable[index] = 1
                self.check_skipped()  # also ends the loop where no image can be read
                index = (index + 1) % len(self)

    @property
    def skipped(self) -> int:
        """Number of different images that could not be read so far, over all workers of this process.

        After :meth:`share_skipped` it includes those of the other processes.
        """
        return int(self._unreadable.sum())

    def share_skipped(self, device: torch.device) -> None:
        """Mark the images that any process could not read; all processes call it.

        Args:
            device: on which the processes exchange tensors.
        """
        self._unreadable.copy_(max_over_ranks(self._unreadable.to(device)))  # in place: the workers share it

    def check_skipped(self) -> None:
        """Check that no more images were skipped than allowed.

        Raises:
            TooManyUnreadable: with the first files and reasons.
        """
        count = self.skipped
        if count <= self.max_unreadable * len(self) and count < len(self):
            return
        reasons = []
        for index in self._unreadable.nonzero().flatten().tolist()[:5]:
            try:
                self.load(index)
            except UnreadableImage as error:
                reasons.append(str(error))
        raise TooManyUnreadable(
            f"{count} of {len(self)} images cannot be read, more than {self.max_unreadable:.0%}: " + "; ".join(reasons)
        )


def real_paths(dataset: ImageDataset) -> list[str]:
    """The path of each image's file without symbolic links; each folder is resolved once, and no file is read."""
    folders: dict[str, str] = {}
    paths = []
    for index in range(len(dataset)):
        folder, name = os.path.split(os.path.join(dataset.image_dir, dataset.file_name(index)))
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        path = os.path.join(folders[folder], name)
        paths.append(os.path.realpath(path) if os.path.islink(path) else path)
    return paths


def _shared(count: int, dtype: torch.dtype) -> Tensor:
    zeros = torch.zeros(count, dtype=dtype)
    zeros.share_memory_()  # type: ignore[no-untyped-call]
    return zeros
