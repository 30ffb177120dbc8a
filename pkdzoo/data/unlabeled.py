"""Images without annotations: the files of a folder, and the samples that a step takes beside the labeled ones.

A distillation method that compares feature maps needs no boxes, so a student can learn from its teacher on such images,
too. They never become images without objects: in a batch they are apart, see ``Batch.unlabeled``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from pkdzoo.data.augment import MixTransform
from pkdzoo.data.batching import collate
from pkdzoo.data.formats.base import walk_files
from pkdzoo.data.formats.coco import decode_name
from pkdzoo.data.formats.read import read_image_names
from pkdzoo.data.image_dataset import ImageDataset
from pkdzoo.data.image_files import SUFFIXES, UnreadableImage, check_whole, is_image_name, is_other_image, read_size
from pkdzoo.data.image_names import match_columns
from pkdzoo.data.image_reader import Decode
from pkdzoo.data.transforms import Sample, Transform
from pkdzoo.structures import Batch, Instances
from pkdzoo.utils.files import sha256_of_bytes, sha256_of_file
from pkdzoo.utils.text import counted, quote_some

THREADS = 8  # files read at a time
SHOWN = 5  # file names in a message
TAIL = 256  # bytes at the end of a file that are compared first

Samples = tuple[list[Sample], list[Sample]]  # labeled and unlabeled ones of a batch
Drawn = tuple[int, tuple[int, ...]]  # a labeled image, and the unlabeled ones of its batch


def image_files_in(folder: str | Path) -> tuple[list[str], list[str]]:
    """Image files of a folder and its subfolders, and images of formats that are not decoded; paths inside the folder.

    Raises:
        ValueError: it is no folder, or has no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: write the path of a folder of images")
    files = walk_files(folder)
    names, others = [n for n in files if is_image_name(n)], [n for n in files if is_other_image(n)]
    if not names:
        raise ValueError(f"{folder} has no images; looked for {', '.join(SUFFIXES)}, in its subfolders too")
    return names, others


class SplitFiles:
    """The image files of an annotated split, of which only the names are read.

    Args:
        annotations: of any format, as ``CocoDataset`` takes them.
        image_dir: folder of the images.

    Raises:
        ValueError: for invalid annotations; the message names the file.
    """

    def __init__(self, annotations: str | Path, image_dir: str | Path) -> None:
        self.image_dir = Path(image_dir)
        self._columns, _ = match_columns(read_image_names(annotations), self.image_dir)

    def __len__(self) -> int:
        return len(self._columns.image_ids)

    def file_name(self, index: int) -> str:
        """Path of an image inside ``image_dir``."""
        return self._columns.file_name(index)


class UnlabeledImages(ImageDataset):
    """The images of a folder and its subfolders, without annotations.

    Files of the same bytes as a labeled image are left out: one of the validation or test split would be trained on,
    and one of the training split is in the training already. Files that cannot be read are an error before training;
    one that becomes unreadable later is replaced by the next one, as for labeled images.

    Args:
        folder: of the images.
        labeled: data sets whose images are left out, by name, e.g. ``{"train": train, "val": val}``; ``SplitFiles``
            where nothing but the names of the images is needed.
        min_image_size: leave out images whose short side is smaller, in pixels.
        transform: see ``CocoDataset``; it is applied to samples without objects.
        seed: see ``transform``. Random choices depend on (seed, epoch, image).
        decode: see ``CocoDataset``.
        cache: bytes of shared memory in which images are kept once they were read.

    Attributes:
        left_out: names of the files that were left out, by reason.

    Raises:
        ValueError: no folder, no image, no image left, or files that cannot be read; the message names them.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import UnlabeledImages, make_shapes, open_dataset
        >>> root = make_shapes(tempfile.mkdtemp(), train=3, val=1, size=(64, 96))
        >>> images = UnlabeledImages(root, labeled={"val": open_dataset(root, "val")})
        >>> len(images), len(images[0].instances)
        (3, 0)
        >>> images.left_out
        {'of the same bytes as an image of the val split': ['val2017/000010000001.jpg']}
    """

    def __init__(
        self,
        folder: str | Path,
        labeled: Mapping[str, ImageDataset | SplitFiles] | None = None,
        *,
        min_image_size: int = 0,
        transform: Transform | MixTransform | None = None,
        seed: int = 0,
        decode: Decode = "exact",
        cache: int = 0,
    ) -> None:
        folder = Path(folder)
        names, others = image_files_in(folder)
        self.left_out: dict[str, list[str]] = {"of formats that are not read": others} if others else {}
        for split, dataset in (labeled or {}).items():
            same = files_of_same_bytes(folder, names, dataset)
            names = self._without(names, same, f"of the same bytes as an image of the {split} split")
        sizes = read_sizes(folder, names)
        small = {name for name, size in zip(names, sizes) if min(size) < min_image_size}
        sizes = [size for name, size in zip(names, sizes) if name not in small]
        names = self._without(names, small, f"smaller than {min_image_size} pixels")
        if not names:
            reasons = "; ".join(f"{len(files)} {why}" for why, files in self.left_out.items())
            raise ValueError(f"no unlabeled image of {folder} is left: {reasons}. Write another folder")
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        # flat arrays: a list of many texts would be copied into every loader process
        self._names = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        # below those of labeled images, so that both draw different random numbers
        ids = -1 - np.arange(len(names), dtype=np.int64)
        super().__init__(
            folder,
            ids,
            np.array(sizes, dtype=np.int32),
            transform=transform,
            seed=seed,
            on_error="skip",
            decode=decode,
            cache=cache,
        )

    def _without(self, names: list[str], dropped: Iterable[str], reason: str) -> list[str]:
        """The names that stay; the others are noted with the reason."""
        gone = set(dropped)
        if gone:
            self.left_out[reason] = [name for name in names if name in gone]
        return [name for name in names if name not in gone]

    def file_name(self, index: int) -> str:
        """Path of an image inside ``image_dir``."""
        return decode_name(self._names[self._ends[index] : self._ends[index + 1]])

    def load_instances(self, index: int) -> Instances:
        """No objects: none are known."""
        return Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

    def digest(self) -> str:
        """SHA-256 over the names and sizes of the images; pixels are not read."""
        return sha256_of_bytes(self._names.tobytes(), self._ends.tobytes(), np.ascontiguousarray(self.sizes).tobytes())

    def describe(self) -> str:
        """How many images there are, and which were left out for what reason, as one line."""
        parts = [f"{len(files)} {why} ({quote_some(files, 3)})" for why, files in self.left_out.items()]
        gone = f"; left out: {'; '.join(parts)}" if parts else ""
        return f"{self.image_dir}: {counted(len(self), 'image')} without labels{gone}"


def files_of_same_bytes(folder: Path, names: Sequence[str], dataset: ImageDataset | SplitFiles) -> set[str]:
    """Names of the files of a folder that are, byte for byte, images of a data set.

    Many images of a large data set have the same size in bytes, so their ends are compared first; only files with the
    same end are read as a whole.
    """
    by_size: dict[int, list[Path]] = {}
    for index in range(len(dataset)):
        path = dataset.image_dir / dataset.file_name(index)
        if path.is_file():
            by_size.setdefault(path.stat().st_size, []).append(path)
    ends: dict[int, dict[bytes, list[Path]]] = {}
    hashes: dict[tuple[int, bytes], set[str]] = {}
    found = set()
    for name in names:
        path = folder / name
        size = path.stat().st_size if path.is_file() else -1
        if size not in by_size:
            continue
        if size not in ends:
            ends[size] = {}
            for other in by_size[size]:
                ends[size].setdefault(last_bytes(other), []).append(other)
        end = last_bytes(path)
        if end not in ends[size]:
            continue
        if (size, end) not in hashes:
            hashes[size, end] = {sha256_of_file(other) for other in ends[size][end]}
        if sha256_of_file(path) in hashes[size, end]:
            found.add(name)
    return found


def last_bytes(path: Path) -> bytes:
    """The end of a file, at most ``TAIL`` bytes."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        return file.read(TAIL)


def read_sizes(folder: Path, names: Sequence[str]) -> list[tuple[int, int]]:
    """(height, width) of image files, from their headers; that a file is whole is checked by its last bytes.

    Raises:
        ValueError: with the first files that cannot be read, and the reasons.
    """

    def look_at(name: str) -> tuple[int, int] | str:
        try:
            check_whole(folder / name)
            return read_size(folder / name)
        except (UnreadableImage, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(look_at, names))
    broken = [text for text in found if isinstance(text, str)]
    if broken:
        more = f"; and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        raise ValueError(
            f"{len(broken)} of {len(names)} unlabeled images cannot be read: {'; '.join(broken[:SHOWN])}{more}. Put "
            "whole files there, or take them out of the folder"
        )
    return [size for size in found if not isinstance(size, str)]


class PairedDataset(Dataset[Sample]):
    """Labeled images and, beside those of each batch, unlabeled ones, as ``PairedBatchSampler`` draws them."""

    def __init__(self, labeled: ImageDataset, unlabeled: UnlabeledImages) -> None:
        self.labeled, self.unlabeled = labeled, unlabeled

    def __len__(self) -> int:
        return len(self.labeled)

    def __getitems__(self, items: Sequence[Drawn]) -> Samples:
        """The samples of one batch, as torch's loaders ask for them."""
        return (
            self.labeled.__getitems__([index for index, _ in items]),
            self.unlabeled.__getitems__(list(items[0][1])),
        )


def collate_both(samples: Samples) -> Batch:
    """The batch of the labeled samples, with that of the unlabeled ones as its ``unlabeled``."""
    labeled, unlabeled = samples
    return replace(collate(labeled), unlabeled=replace(collate(unlabeled), instances=None))
