"""Class names and category ids of known data sets, and the labels of a file's categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pkdzoo.utils.text import quote_some

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
DEEPPCB_NAMES: tuple[str, ...] = ("open", "short", "mousebite", "spur", "copper", "pin-hole")  # on circuit boards

KNOWN: dict[str, tuple[str, ...]] = {
    "coco": COCO_NAMES,
    "shapes": SHAPES_NAMES,
    "bccd": BCCD_NAMES,
    "deeppcb": DEEPPCB_NAMES,
}


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


def check_names(names: Sequence[str]) -> None:
    """Check that class names which a user gives tell the classes apart.

    Raises:
        ValueError: for an empty name, and for a name that occurs twice.
    """
    empty = [str(label) for label, name in enumerate(names) if not name.strip()]
    if empty:
        raise ValueError(f"label_names: the name of class {', '.join(empty)} is empty: write one name per class")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"label_names: {quote_some(twice)} occurs twice: write a name of its own for each class")


def coco_ids(names: tuple[str, ...]) -> dict[int, int] | None:
    """COCO's category id of each label; None for other class names than COCO's."""
    return dict(enumerate(COCO_IDS)) if tuple(names) == COCO_NAMES else None


def unique_names(categories: Iterable[tuple[int, str]]) -> list[str]:
    """Names of categories (id, name); a name that occurs twice gets its id, as in ``red (1)``."""
    pairs = list(categories)
    count = Counter(name for _, name in pairs)
    return [f"{name} ({number})" if count[name] > 1 else name for number, name in pairs]


def match_labels(
    categories: Sequence[tuple[int, str]], label_names: Sequence[str] | None, skip_other_classes: bool, path: Path
) -> tuple[list[str], dict[int, int]]:
    """Names by label, and the label of each category id.

    Raises:
        ValueError: a category that is not in ``label_names``; with ``skip_other_classes`` a name that no category has;
            two categories with one id, or with one name where names decide the label.
    """
    ids = [number for number, _ in categories]
    if len(set(ids)) < len(ids):
        twice = sorted({number for number in ids if ids.count(number) > 1})
        raise ValueError(f"{path}: category id {quote_some(twice)} occurs twice in 'categories'; ids must be unique")
    names = [name for _, name in categories]
    if label_names is None:
        return unique_names(categories), {number: label for label, number in enumerate(ids)}
    expected = list(label_names)
    twice_named = sorted({n for n in names if names.count(n) > 1} | {n for n in expected if expected.count(n) > 1})
    if twice_named:
        raise ValueError(
            f"{path}: the class name {quote_some(twice_named)} occurs twice, so names cannot decide the label"
        )
    unknown, absent = [n for n in names if n not in expected], [n for n in expected if n not in names]
    if skip_other_classes and absent:
        raise ValueError(f"{path} has no class {quote_some(absent)}; its classes are {quote_some(names, 100)}")
    if unknown and not skip_other_classes:
        lacking = f" (and the file has no {quote_some(absent)})" if absent else ""
        raise ValueError(
            f"{path} has classes that are not in label_names: {quote_some(unknown)}{lacking}. Rename them in the file, "
            "build the model with the file's classes, or pass skip_other_classes=True to leave their boxes out"
        )
    return expected, {number: expected.index(name) for number, name in categories if name in expected}
