"""From single images to results, for every detector alike: passes, views of an image, and back to its own pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from pkdzoo.data.batching import collate
from pkdzoo.data.image_io import UnreadableImage
from pkdzoo.data.transforms import Sample, resize_keep_ratio
from pkdzoo.inference.result import Result
from pkdzoo.inference.sources import DecodedImage, decode, each, is_single
from pkdzoo.ops.nms import concatenate, suppress
from pkdzoo.structures import Batch, Detections, Instances, PostProcess
from pkdzoo.utils.suggest import did_you_mean

SMALLEST = 32  # pixels of a short side that views may have


class Predictable(Protocol):
    """What prediction needs of a detector."""

    label_names: tuple[str, ...]
    num_classes: int
    resize: tuple[int, int]
    pixel_mean: Tensor
    postprocess_config: PostProcess

    def detect(self, batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """Detections of a batch in pixels of ``batch.images``."""
        ...


@dataclass(frozen=True)
class PredictOptions:
    """What a call to ``predict`` asks for; None is the detector's own. The words are :meth:`Detector.predict`'s."""

    threshold: float | None = None
    nms_threshold: float | None = None
    max_detections: int | None = None
    classes: Sequence[str | int] | None = None
    batch_size: int = 1
    flip: bool = False
    sizes: Sequence[int] | None = None


@dataclass(frozen=True)
class View:
    """One look at an image: scaled to (short, long) sides, mirrored or not."""

    resize: tuple[int, int]
    flip: bool = False


def predict(model: Predictable, images: Any, options: PredictOptions) -> Result | list[Result]:
    """See :meth:`pkdzoo.Detector.predict`."""
    results = predict_stream(model, images, options)
    if not is_single(images):
        # A video's frames would fill the memory, and cannot be asked for again one by one.
        return [result if result.frame is None else replace(result, image=None) for result in results]
    result = next(results)
    if result.error is not None:
        raise UnreadableImage(result.path or "image", result.error.removeprefix(f"{result.path}: "))
    return result


def predict_stream(model: Predictable, images: Any, options: PredictOptions) -> Iterator[Result]:
    """See :meth:`pkdzoo.Detector.predict_stream`."""
    channels = len(model.pixel_mean)
    if channels != 3:
        raise ValueError(
            f"predict reads RGB images, and this detector takes {channels} channels: write "
            f"model.detect(pkdzoo.Batch(images, sizes)) with images of (B, {channels}, H, W)"
        )
    if options.batch_size < 1:
        raise ValueError(f"batch_size={options.batch_size}: at least one image goes into a pass")
    given: dict[str, Any] = {
        "score_threshold": options.threshold,
        "nms_threshold": options.nms_threshold,
        "max_detections": options.max_detections,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    config = replace(model.postprocess_config, **changes)
    wanted = None if options.classes is None else class_indices(model, options.classes)
    views = views_of(model, options.flip, options.sizes)
    decoded = (decode(image) for image in each(images))
    # What is wrong with the arguments is said above, at once; the generator below starts with its first result.
    results = _batches(model, decoded, config, wanted, options.batch_size, views)
    threshold = options.threshold
    if threshold is None:
        return results
    # The published threshold is one of class scores; centerness lowers them afterwards. Who names a score means the
    # one that is reported.
    return (result[result.scores > threshold] for result in results)


def _batches(
    model: Predictable,
    images: Iterator[DecodedImage],
    config: PostProcess,
    wanted: Tensor | None,
    batch_size: int,
    views: Sequence[View],
) -> Iterator[Result]:
    while group := list(islice(images, batch_size)):  # never more than one batch of pixels in memory
        yield from predict_batch(model, group, config, wanted, views)


def class_indices(model: Predictable, classes: Sequence[str | int]) -> Tensor:
    """Label numbers of class names or numbers.

    Raises:
        ValueError: for a class the detector does not know, or none at all.
    """
    indices = []
    if not len(classes):
        raise ValueError(f"classes={classes!r} names none: leave it out to have all of them")
    for wanted in [classes] if isinstance(classes, str) else classes:
        index = model.label_names.index(wanted) if wanted in model.label_names else wanted
        if not isinstance(index, int) or not 0 <= index < model.num_classes:
            raise ValueError(f"no class {wanted!r}. {did_you_mean(str(wanted), model.label_names)}")
        indices.append(index)
    return torch.tensor(indices)


def views_of(model: Predictable, flip: bool, sizes: Sequence[int] | None) -> list[View]:
    """The looks at each image: every size as it is and, with ``flip``, mirrored.

    Args:
        model: its own size counts where none is given, and the ratio of its sides for those that are.
        flip: look at the mirror image too.
        sizes: short sides in pixels.

    Raises:
        ValueError: for no size, or one below 32 pixels.
    """
    short, long = model.resize
    given = [short] if sizes is None else list(sizes)
    if not given or any(size < SMALLEST for size in given):
        raise ValueError(f"sizes={sizes!r}: write short sides in pixels from {SMALLEST} up, e.g. sizes=(600, 800)")
    return [
        View((size, round(long * size / short)), mirrored)
        for size in given
        for mirrored in ((False, True) if flip else (False,))
    ]


def to_original(found: Detections, scale: tuple[float, float], size: tuple[int, int]) -> Detections:
    """Detections of a resized image in pixels of the original.

    Args:
        found: in pixels of the resized image; masks as ``mask_probabilities``, which follow their box.
        scale: (width, height) factors from the original to it.
        size: (height, width) of the original; boxes end there.
    """
    boxes = found.boxes / found.boxes.new_tensor([*scale, *scale])
    boxes = torch.stack([boxes[:, i].clamp(0, size[1 - i % 2]) for i in range(4)], dim=1)
    return replace(found, boxes=boxes, masks=None)  # drawn at another size, they would be of no image


def mirrored(found: Detections, width: float) -> Detections:
    """Detections of a mirror image in pixels of the image, which is ``width`` wide."""
    x1, y1, x2, y2 = found.boxes.unbind(1)
    cells = None if found.mask_probabilities is None else found.mask_probabilities.flip(-1)
    return replace(found, boxes=torch.stack([width - x2, y1, width - x1, y2], dim=1), mask_probabilities=cells)


def look(model: Predictable, images: Sequence[Tensor], view: View, config: PostProcess) -> list[Detections]:
    """What one view finds in a few images, in pixels of each as it is given: uint8 (3, H, W)."""
    none = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    resized = [resize_keep_ratio(image, *view.resize) for image in images]
    samples = [Sample(image.flip(-1) if view.flip else image, none) for image, _ in resized]
    detections = model.detect(collate(samples).to(model.pixel_mean.device), config)
    found = []
    for image, (small, scale), boxes in zip(images, resized, detections):
        boxes = mirrored(boxes, small.shape[-1]) if view.flip else boxes
        found.append(to_original(boxes, scale, (image.shape[-2], image.shape[-1])))
    return found


@torch.inference_mode()
def predict_batch(
    model: Predictable,
    decoded: list[DecodedImage],
    config: PostProcess,
    classes: Tensor | None = None,
    views: Sequence[View] = (),
) -> list[Result]:
    """Results of a few decoded images, one pass a view; the model's mode is put to eval and back.

    Detections of several views are united, and suppressed once more as those of one view are: per class, with the
    same ``nms_threshold`` and ``max_detections``. Of boxes that overlap the best one stays as it is, with its own mask
    (mmdetection's DetTTAModel does the same).

    Args:
        model: any detector of three channels.
        decoded: images as read, or with an error.
        config: thresholds.
        classes: labels that are reported; ``max_detections`` counts only these.
        views: none means one, the detector's own.
    """
    images = [item.pixels for item in decoded if item.pixels is not None]
    passing = (
        config
        if classes is None
        else replace(config, max_detections=max(config.max_detections, model.postprocess_config.max_detections))
    )
    looks = [look(model, images, view, passing) for view in views or [View(model.resize)]] if images else []
    found = iter([_united(parts, config, classes) for parts in zip(*looks)])
    results = []
    for item in decoded:
        source = {"path": item.path, "frame": item.frame, "time": item.time}
        if item.pixels is None:
            results.append(Result.failed(item.path, item.error or "unreadable", model.label_names))
            continue
        size = (item.pixels.shape[-2], item.pixels.shape[-1])
        kept = None if item.reopens else Image.fromarray(item.pixels.permute(1, 2, 0).numpy())
        results.append(Result.of(next(found), model.label_names, size, image=kept, **source))
    return results


def _united(parts: Sequence[Detections], config: PostProcess, classes: Tensor | None) -> Detections:
    if classes is not None:
        parts = [part[torch.isin(part.labels, classes.to(part.labels.device))] for part in parts]
    if len(parts) == 1:
        return parts[0][: config.max_detections]
    return suppress(concatenate(list(parts)), config.nms_threshold, config.max_detections)
