"""Class names and category ids of known data sets."""

from __future__ import annotations

# In the order of the data set's ``categories``; detectors here number them 0 to 79.
COCO_NAMES: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
# COCO's own ids, 1 to 90, have gaps: ten classes were dropped before the data set was published.
COCO_IDS: tuple[int, ...] = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))

SHAPES_NAMES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "moon")  # of pkdzoo.data.make_shapes
BCCD_NAMES: tuple[str, ...] = ("RBC", "WBC", "Platelets")  # blood cells: red, white, platelets

KNOWN: dict[str, tuple[str, ...]] = {"coco": COCO_NAMES, "shapes": SHAPES_NAMES, "bccd": BCCD_NAMES}


def label_names(labels: str | tuple[str, ...]) -> tuple[str, ...]:
    """Class names of a known data set; a tuple of names is returned as it is.

    Raises:
        ValueError: for the name of an unknown data set.
    """
    if not isinstance(labels, str):
        return tuple(labels)
    if labels not in KNOWN:
        raise ValueError(f"unknown class names {labels!r}: write one of {', '.join(KNOWN)}, or a tuple of names")
    return KNOWN[labels]


def coco_ids(names: tuple[str, ...]) -> dict[int, int] | None:
    """COCO's category id of each label; None for other class names than COCO's."""
    return dict(enumerate(COCO_IDS)) if tuple(names) == COCO_NAMES else None
