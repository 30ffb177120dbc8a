"""Data sets (COCO, Pascal VOC, YOLO), transforms, batches, and a generated data set."""

from pkdzoo.data.collate import collate
from pkdzoo.data.dataset import CocoDataset, TooManyUnreadable
from pkdzoo.data.image_io import UnreadableImage, read_image
from pkdzoo.data.load_report import LoadReport
from pkdzoo.data.locate import find_split, open_dataset
from pkdzoo.data.sampler import AspectBatchSampler
from pkdzoo.data.synthetic import make_shapes
from pkdzoo.data.transforms import (
    Compose,
    RandomCrop,
    RandomFlip,
    RandomZoom,
    Resize,
    Sample,
    resize_keep_ratio,
    test_transform,
    train_transform,
)

__all__ = [
    "AspectBatchSampler",
    "CocoDataset",
    "Compose",
    "LoadReport",
    "RandomCrop",
    "RandomFlip",
    "RandomZoom",
    "Resize",
    "Sample",
    "TooManyUnreadable",
    "UnreadableImage",
    "collate",
    "find_split",
    "make_shapes",
    "open_dataset",
    "read_image",
    "resize_keep_ratio",
    "test_transform",
    "train_transform",
]
