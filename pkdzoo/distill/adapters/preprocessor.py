"""How a model of transformers takes its images, from its ``preprocessor_config.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pkdzoo.hub.files import PREPROCESSOR, SETTINGS
from pkdzoo.utils.strict_json import read_strict_json

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std of pixels 0..1
LARGEST = 4096  # side of an image in pixels


class Preprocessor(NamedTuple):
    """How images are prepared.

    Attributes:
        size: (height, width) in pixels that every image is squashed to.
        mean: mean of each channel, of raw pixels 0-255.
        std: standard deviation of each channel, likewise.
        resize: (short, long) side of the images before, in evaluation; None if it is not stated.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: tuple[int, int] | None = None


def read_preprocessor(
    path: Path, size: Any, default: Any, divisor: int, normalizes: bool, option: str = "teacher_args"
) -> Preprocessor:
    """Read a preprocessor's config; what it leaves out is as in the library.

    Args:
        path: of the file, which may be missing.
        size: (height, width) that replaces the file's; None does not.
        default: (height, width) where neither states one.
        divisor: of the sides.
        normalizes: whether the library applies ImageNet's mean and std where the file does not say.
        option: the recipe's field for ``size``, for messages.

    Raises:
        ValueError: for a size that is not two multiples of the divisor, and statistics that are no numbers.
    """
    content = read_strict_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, and not the object that a preprocessor saves")
    sides = size if size is not None else _stated_size(content.get("size") or default)
    return Preprocessor(checked_size(sides, divisor, option), *_statistics(content, normalizes), _resize(content))


def preprocessor_config(preprocessor: Preprocessor) -> dict[str, Any]:
    """The content of the file, for RT-DETR's image processor."""
    size = {"height": preprocessor.size[0], "width": preprocessor.size[1]}
    mean, std = ([value / 255 for value in part] for part in (preprocessor.mean, preprocessor.std))
    normalizes = (set(mean), set(std)) != ({0.0}, {1.0})
    content = {"image_processor_type": "RTDetrImageProcessor", "do_resize": True, "size": size}
    content |= {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": normalizes}
    content |= {"image_mean": mean, "image_std": std} if normalizes else {}
    return content | ({SETTINGS: {"resize": list(preprocessor.resize)}} if preprocessor.resize else {})


def checked_size(size: Any, divisor: int, option: str) -> tuple[int, int]:
    """(height, width) of the images that a model takes.

    Raises:
        ValueError: for what is not two positive multiples of the divisor.
    """
    sides = list(size) if isinstance(size, (list, tuple)) else []
    whole = [side for side in sides if isinstance(side, int) and not isinstance(side, bool)]
    if len(sides) == len(whole) == 2 and all(0 < side <= LARGEST and side % divisor == 0 for side in whole):
        return whole[0], whole[1]
    near = [min(max(1, round(side / divisor)), LARGEST // divisor) * divisor for side in whole]
    raise ValueError(
        f"input_size is {size}, and the model takes images whose height and width are multiples of {divisor} up to "
        f"{LARGEST}: write {option}={{'input_size': {near if len(near) == len(sides) == 2 else [20 * divisor] * 2}}}"
    )


def _stated_size(size: Any) -> Any:
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return [size["height"], size["width"]]
    return [size, size] if isinstance(size, int) else size


def _statistics(content: Mapping[str, Any], normalizes: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of raw pixels."""
    factor = content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1
    mean, std = (0.0,) * 3, (1.0,) * 3
    if content.get("do_normalize", normalizes):
        mean, std = content.get("image_mean", IMAGENET[0]), content.get("image_std", IMAGENET[1])
    if not (_are_numbers([factor], 1) and _are_numbers(mean, 3) and _are_numbers(std, 3) and min(*std, factor) > 0):
        raise ValueError(
            f"{PREPROCESSOR} has mean {mean}, std {std} and rescale_factor {factor}: write three numbers of each, "
            "every std above 0, and a factor above 0"
        )
    return tuple(value / factor for value in mean), tuple(value / factor for value in std)


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) == count
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    )


def _resize(content: Mapping[str, Any]) -> tuple[int, int] | None:
    own = content.get(SETTINGS)
    sides = own.get("resize") if isinstance(own, Mapping) else None
    if not (isinstance(sides, list) and len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)):
        return None
    return sides[0], sides[1]
