"""Data sets (COCO, Pascal VOC, YOLO), transforms, batches, and a generated data set. Never imports a model."""

from pkdzoo.data.coco import CocoDataset, TooManyUnreadable
from pkdzoo.data.collate import collate
from pkdzoo.data.inputs import Picture
from pkdzoo.data.layout import find_split, open_dataset
from pkdzoo.data.reading import UnreadableImage, read_image
from pkdzoo.data.report import LoadReport
from pkdzoo.data.sampler import AspectBatchSampler
from pkdzoo.data.shapes import make_shapes
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
from pkdzoo.data.video import Frame, read_video

__all__ = [
    "AspectBatchSampler",
    "CocoDataset",
    "Compose",
    "Frame",
    "LoadReport",
    "Picture",
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
    "read_video",
    "resize_keep_ratio",
    "test_transform",
    "train_transform",
]
