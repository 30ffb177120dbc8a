"""Data sets in several formats, transforms, batches, and a generated data set.

Names are imported at first use: the tools that only read annotations and image files run without importing torch.
"""

from typing import TYPE_CHECKING

from pkdzoo.utils.lazy import lazy_attributes

if TYPE_CHECKING:
    from pkdzoo.data.augment import MixTransform
    from pkdzoo.data.batching import collate
    from pkdzoo.data.dataset import CocoDataset, open_dataset
    from pkdzoo.data.headers import check_headers
    from pkdzoo.data.image_dataset import TooManyUnreadable
    from pkdzoo.data.image_files import UnreadableImage
    from pkdzoo.data.image_io import read_image
    from pkdzoo.data.image_resize import resize_keep_ratio
    from pkdzoo.data.load_report import LoadReport
    from pkdzoo.data.locate import find_split
    from pkdzoo.data.sampler import AspectBatchSampler
    from pkdzoo.data.synthetic import make_shapes
    from pkdzoo.data.transforms import (
        Compose,
        RandomCrop,
        RandomFlip,
        RandomZoom,
        Resize,
        Sample,
        eval_transform,
        train_transform,
    )
    from pkdzoo.data.unlabeled import UnlabeledImages

__all__ = [
    "AspectBatchSampler",
    "CocoDataset",
    "Compose",
    "LoadReport",
    "MixTransform",
    "RandomCrop",
    "RandomFlip",
    "RandomZoom",
    "Resize",
    "Sample",
    "TooManyUnreadable",
    "UnlabeledImages",
    "UnreadableImage",
    "check_headers",
    "collate",
    "eval_transform",
    "find_split",
    "make_shapes",
    "open_dataset",
    "read_image",
    "resize_keep_ratio",
    "train_transform",
]

if not TYPE_CHECKING:  # a type checker would take every name of the package for existing
    __getattr__ = lazy_attributes(
        __name__,
        {
            "AspectBatchSampler": "pkdzoo.data.sampler",
            "CocoDataset": "pkdzoo.data.dataset",
            "Compose": "pkdzoo.data.transforms",
            "LoadReport": "pkdzoo.data.load_report",
            "MixTransform": "pkdzoo.data.augment",
            "RandomCrop": "pkdzoo.data.transforms",
            "RandomFlip": "pkdzoo.data.transforms",
            "RandomZoom": "pkdzoo.data.transforms",
            "Resize": "pkdzoo.data.transforms",
            "Sample": "pkdzoo.data.transforms",
            "TooManyUnreadable": "pkdzoo.data.image_dataset",
            "UnlabeledImages": "pkdzoo.data.unlabeled",
            "UnreadableImage": "pkdzoo.data.image_files",
            "check_headers": "pkdzoo.data.headers",
            "collate": "pkdzoo.data.batching",
            "find_split": "pkdzoo.data.locate",
            "make_shapes": "pkdzoo.data.synthetic",
            "open_dataset": "pkdzoo.data.dataset",
            "read_image": "pkdzoo.data.image_io",
            "resize_keep_ratio": "pkdzoo.data.image_resize",
            "eval_transform": "pkdzoo.data.transforms",
            "train_transform": "pkdzoo.data.transforms",
        },
    )
