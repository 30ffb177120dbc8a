"""From whatever a person holds (paths, PIL, arrays, tensors) to results, for every detector alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pkdzoo.data.collate import collate
from pkdzoo.data.reading import SUFFIXES, UnreadableImage, read_image, to_rgb, to_tensor
from pkdzoo.data.transforms import Sample, resize_keep_ratio
from pkdzoo.registry import nearest
from pkdzoo.results import Result
from pkdzoo.structures import Detections, Instances

if TYPE_CHECKING:
    from pkdzoo.models.base import Detector
    from pkdzoo.models.trace import Inference


@dataclass
class Picture:
    """One input, decoded: uint8 (3, H, W) RGB and where it came from, or why there is none."""

    pixels: Tensor | None
    path: str | None = None
    error: str | None = None


def is_single(images: Any) -> bool:
    """Whether the input is one picture, for which one result is returned, and not several."""
    if isinstance(images, (str, Path)):
        return not Path(images).is_dir()
    return isinstance(images, Image.Image) or (isinstance(images, (np.ndarray, Tensor)) and images.ndim <= 3)


def pictures_in(folder: str | Path) -> list[Path]:
    """Picture files of a folder, by name.

    Raises:
        ValueError: when there is none.
    """
    found = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"{folder} has no pictures; looked for {', '.join(SUFFIXES)}")
    return found


def each(images: Any) -> Iterator[Any]:
    """The single pictures of an input, one after the other."""
    if is_single(images):
        return iter([images])
    if isinstance(images, (str, Path)):
        return iter(pictures_in(images))
    if isinstance(images, Iterable):
        return iter(images)
    raise TypeError(f"predict takes paths, PIL pictures, numpy arrays and tensors, not {type(images).__name__}")


def decode(image: Any) -> Picture:
    """Pixels of one input; a file that cannot be read gives a picture with an error."""
    if isinstance(image, (str, Path)):
        try:
            return Picture(read_image(image), str(image))
        except UnreadableImage as error:
            return Picture(None, str(image), str(error))
    if isinstance(image, Image.Image):
        return Picture(to_tensor(to_rgb(ImageOps.exif_transpose(image))))
    if isinstance(image, np.ndarray):
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"a numpy picture is uint8 RGB (H, W, 3), got {image.dtype} {image.shape}")
        return Picture(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image.numel() == 0:
            raise ValueError(
                f"a tensor picture is uint8 RGB (3, H, W), got {image.dtype} {tuple(image.shape)}; "
                "of floats in 0..1 write (image * 255).to(torch.uint8)"
            )
        return Picture(image.cpu())
    raise TypeError(f"predict takes paths, PIL pictures, numpy arrays and tensors, not {type(image).__name__}")


def to_original(found: Detections, scale: tuple[float, float], size: tuple[int, int]) -> Detections:
    """Detections of a resized picture in pixels of the original.

    Args:
        found: in pixels of the resized picture.
        scale: (width, height) factors from the original to it.
        size: (height, width) of the original; boxes end there.
    """
    boxes = found.boxes / found.boxes.new_tensor([*scale, *scale])
    boxes = torch.stack([boxes[:, i].clamp(0, size[1 - i % 2]) for i in range(4)], dim=1)
    masks = found.masks
    if masks is not None and tuple(masks.shape[-2:]) != tuple(size):
        masks = torch.nn.functional.interpolate(masks[None].float(), size=size, mode="bilinear")[0] > 0.5
    return replace(found, boxes=boxes, masks=masks)


def predict(
    model: Detector,
    images: Any,
    score: float | None = None,
    iou: float | None = None,
    top: int | None = None,
    classes: Sequence[str | int] | None = None,
    batch_size: int = 1,
) -> Result | list[Result]:
    """See :meth:`pkdzoo.Detector.predict`."""
    results = predict_stream(model, images, score, iou, top, classes, batch_size)
    if not is_single(images):
        return list(results)
    result = next(results)
    if result.error is not None:
        raise UnreadableImage(result.path or "picture", result.error.removeprefix(f"{result.path}: "))
    return result


def predict_stream(
    model: Detector,
    images: Any,
    score: float | None = None,
    iou: float | None = None,
    top: int | None = None,
    classes: Sequence[str | int] | None = None,
    batch_size: int = 1,
) -> Iterator[Result]:
    """See :meth:`pkdzoo.Detector.predict_stream`."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least one picture goes into a pass")
    changes = {k: v for k, v in (("score", score), ("iou", iou), ("top", top)) if v is not None}
    inference = replace(model.inference, **changes)  # type: ignore[arg-type]
    wanted = None if classes is None else class_indices(model, classes)
    pictures = (decode(image) for image in each(images))
    # What is wrong with the arguments is said above, at once; the generator below starts with its first result.
    results = _batches(model, pictures, inference, wanted, batch_size)
    if score is None:
        return results
    # The published threshold is one of class scores; centerness lowers them afterwards. Who names a score means the
    # one that is reported.
    return (result[result.scores > score] for result in results)


def _batches(
    model: Detector, pictures: Iterator[Picture], inference: Inference, wanted: Tensor | None, batch_size: int
) -> Iterator[Result]:
    while group := list(islice(pictures, batch_size)):  # never more than one batch of pixels in memory
        yield from predict_batch(model, group, inference, wanted)


def class_indices(model: Detector, classes: Sequence[str | int]) -> Tensor:
    """Label numbers of class names or numbers.

    Raises:
        ValueError: for a class the detector does not know.
    """
    indices = []
    for wanted in [classes] if isinstance(classes, str) else classes:
        index = model.label_names.index(wanted) if wanted in model.label_names else wanted
        if not isinstance(index, int) or not 0 <= index < model.num_classes:
            raise ValueError(f"no class {wanted!r}. {nearest(str(wanted), model.label_names)}")
        indices.append(index)
    return torch.tensor(indices)


@torch.inference_mode()
def predict_batch(
    model: Detector, pictures: list[Picture], inference: Inference, classes: Tensor | None = None
) -> list[Result]:
    """Results of a few decoded pictures in one pass; the model's mode is put to eval and back."""
    none = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    resized = [resize_keep_ratio(p.pixels, *model.resize) for p in pictures if p.pixels is not None]
    found: Iterator[tuple[Detections, tuple[float, float]]] = iter([])
    if resized:
        batch = collate([Sample(image, none) for image, _ in resized]).to(model.pixel_mean.device)
        detections = model.detect(batch, inference)
        found = iter(zip(detections, [scale for _, scale in resized]))
    results = []
    for picture in pictures:
        if picture.pixels is None:
            results.append(Result.failed(picture.path, picture.error or "unreadable", model.label_names))
            continue
        size = (picture.pixels.shape[-2], picture.pixels.shape[-1])
        boxes, scale = next(found)
        if classes is not None:
            boxes = boxes[torch.isin(boxes.labels, classes.to(boxes.labels.device))]
        kept = None if picture.path else Image.fromarray(picture.pixels.permute(1, 2, 0).numpy())
        original = to_original(boxes, scale, size)
        results.append(Result.of(original, model.label_names, size, path=picture.path, picture=kept))
    return results
