"""Prediction for every detector: batches, test-time augmentation, and boxes in pixels of the original image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from pkdzoo.data.batching import collate
from pkdzoo.data.image_files import UnreadableImage
from pkdzoo.data.image_resize import resize_keep_ratio
from pkdzoo.data.letterbox import DIVISOR, LetterboxResize
from pkdzoo.data.transforms import Sample
from pkdzoo.inference.options import (
    DEFAULT_THRESHOLD,
    MERGE_NMS_THRESHOLD,
    MIN_SIZE,
    OVERLAP,
    PredictOptions,
    check_options,
    is_whole,
)
from pkdzoo.inference.result import Result
from pkdzoo.inference.sources import DecodedImage, decode_ahead, is_several_files, is_single, iterate_images
from pkdzoo.inference.tiles import make_tiles, merge_tiles
from pkdzoo.ops.boxes import clip_boxes, has_area
from pkdzoo.ops.nms import concatenate, suppress
from pkdzoo.structures import Batch, Detections, Instances, Letterbox, PostProcess
from pkdzoo.utils.suggest import did_you_mean
from pkdzoo.utils.text import counted

# Detections of all classes before those of the wanted ones are selected: more than a dense detector has candidates.
ALL_CLASSES_LIMIT = 10_000


class DetectorLike(Protocol):
    """The part of a detector that prediction uses."""

    label_names: tuple[str, ...]
    num_classes: int
    resize: tuple[int, int]
    letterbox: Letterbox | None
    canvas: tuple[int, int] | None
    resizes_itself: bool
    fixed_limits: bool
    pixel_mean: Tensor
    postprocess_config: PostProcess

    def detect(self, batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """Detections of a batch in pixels of ``batch.images``."""
        ...


@dataclass(frozen=True)
class View:
    """One version of an image for test-time augmentation.

    Attributes:
        resize: (short, long) side in pixels; None: the image keeps its size, for detectors that resize it themselves.
        flip: whether the image is flipped horizontally.
        canvas: (height, width) that the image is scaled to fit, instead of ``resize``; None for detectors of any size.
    """

    resize: tuple[int, int] | None
    flip: bool = False
    canvas: tuple[int, int] | None = None


@dataclass(frozen=True)
class Selection:
    """Which detections of an image or a tile are reported.

    Attributes:
        config: thresholds, and the number of detections.
        classes: labels that are reported; only these count for ``config.max_detections``. None means all.
        merge_threshold: IoU of the NMS between views and between tiles, 0..1.
    """

    config: PostProcess
    classes: Tensor | None = None
    merge_threshold: float = MERGE_NMS_THRESHOLD


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into tiles.

    Attributes:
        side: of a tile in pixels.
        overlap: of neighbors, as a share of the side.
        batch_size: tiles per forward pass.
        max_detections: of an image; None means no limit but the detector's own per tile.
    """

    side: int
    overlap: float
    batch_size: int
    max_detections: int | None


def predict(model: DetectorLike, images: Any, options: PredictOptions) -> Result | list[Result]:
    """See :meth:`pkdzoo.Detector.predict`."""
    results = predict_stream(model, images, options)
    if not is_single(images):
        # The frames of a video would fill the memory, and they cannot be read again one by one.
        return [result if result.frame is None else replace(result, image=None) for result in results]
    result = next(results)
    if result.error is not None:
        raise UnreadableImage(result.path or "image", result.error.removeprefix(f"{result.path}: "))
    return result


def predict_stream(model: DetectorLike, images: Any, options: PredictOptions) -> Iterator[Result]:
    """See :meth:`pkdzoo.Detector.predict_stream`."""
    options = {"threshold": DEFAULT_THRESHOLD, **options}
    check_options(options)
    channels = len(model.pixel_mean)
    if channels != 3:
        raise ValueError(
            f"predict reads RGB images, and this detector takes {counted(channels, 'channel')}: write "
            f"model.detect(pkdzoo.Batch(images, sizes)) with images of (B, {channels}, H, W)"
        )
    batch_size = options.get("batch_size", 1)
    threshold, classes = options.get("threshold"), options.get("classes")
    config = changed_config(model.postprocess_config, options)
    labels = None if classes is None else class_indices(model, classes)
    merge_threshold = options.get("nms_threshold")
    if merge_threshold is None:  # a detector without NMS has an IoU of 1, which would leave every object twice
        merge_threshold = config.nms_threshold if config.nms_threshold < 1 else MERGE_NMS_THRESHOLD
    views = make_views(model, options.get("flip", False), options.get("sizes"))
    side, workers = options.get("tiles"), options.get("workers", 1 if is_several_files(images) else 0)
    decoded = decode_ahead(iterate_images(images), workers, batch_size if side is None else 1)
    # Invalid arguments have raised by now; the generator below starts only with its first result.
    if side is None:
        results = _predict_batches(model, decoded, Selection(config, labels, merge_threshold), batch_size, views)
    else:
        overlap = options.get("overlap")
        tiling = Tiling(side, OVERLAP if overlap is None else overlap, batch_size, options.get("max_detections"))
        config = replace(config, max_detections=max(config.max_detections, model.postprocess_config.max_detections))
        selection = Selection(config, labels, merge_threshold)
        results = (_predict_in_tiles(model, item, selection, views, tiling) for item in decoded)
    if threshold is None:
        return results
    # The detector's own threshold applies to class scores, which centerness lowers afterward. A threshold that the
    # caller names applies to the reported score.
    return (result[result.scores > threshold] for result in results)


def changed_config(config: PostProcess, options: PredictOptions) -> PostProcess:
    """The detector's thresholds with those of the options in their place."""
    changes: dict[str, Any] = {
        "score_threshold": options.get("threshold"),
        "nms_threshold": options.get("nms_threshold"),
        "max_detections": options.get("max_detections"),
    }
    return replace(config, **{key: value for key, value in changes.items() if value is not None})


def class_indices(model: DetectorLike, classes: Any) -> Tensor:
    """Labels of class names or labels, or of a single one.

    Raises:
        ValueError: for a class that the detector does not have, or for no class.
    """
    single = isinstance(classes, str) or is_whole(classes)
    if not single and (isinstance(classes, (bytes, Mapping)) or not hasattr(classes, "__iter__")):
        raise ValueError(f"no class {classes!r}: write names or labels of classes, e.g. {model.label_names[:2]}")
    names = [classes] if single else list(classes)
    if not names:
        raise ValueError(f"classes={classes!r} is empty: leave it out to report all classes")
    return torch.tensor([_class_index(model, name) for name in names])


def _class_index(model: DetectorLike, name: Any) -> int:
    if isinstance(name, str) and name in model.label_names:
        return model.label_names.index(name)
    if isinstance(name, bool) or not is_whole(name) or not 0 <= int(name) < model.num_classes:
        raise ValueError(f"no class {name!r}. {did_you_mean(str(name), model.label_names)}")
    return int(name)


def own_size(model: DetectorLike) -> tuple[int, int] | None:
    """(short, long) side that images of a detector are resized to; None for one that resizes them itself."""
    return None if model.resizes_itself else model.resize


def make_views(model: DetectorLike, flip: bool, sizes: Any) -> list[View]:
    """The versions of each image: every size and, with ``flip``, every size flipped as well.

    Args:
        model: its own size is used where ``sizes`` is None; the ratio of its sides applies to every size.
        flip: add the flipped versions.
        sizes: short sides in pixels, or one of them.

    Raises:
        ValueError: for no size, a size below 32 pixels, or for a letterbox one that is no multiple of 32; for any size
            of a detector that resizes images itself.
    """
    flips = (False, True) if flip else (False,)
    if model.resizes_itself:
        if sizes is not None:
            raise ValueError(f"sizes={sizes!r}: this detector brings every image to its own size: leave sizes out")
        return [View(None, flipped) for flipped in flips]
    short, long = model.resize
    short_sides = [short] if sizes is None else [int(sizes)] if is_whole(sizes) else list(sizes)
    if not short_sides or any(size < MIN_SIZE for size in short_sides):
        raise ValueError(f"sizes={sizes!r}: write short sides in pixels from {MIN_SIZE} up, e.g. sizes=(600, 800)")
    if sizes is not None and model.letterbox is not None and any(size % DIVISOR for size in short_sides):
        raise ValueError(f"sizes={sizes!r}: the sides of a letterbox are multiples of {DIVISOR}, e.g. sizes=(576, 640)")
    return [
        View((size, round(long * size / short)), flipped, model.canvas) for size in short_sides for flipped in flips
    ]


def scale_to_original(
    detections: Detections,
    scale: tuple[float, float],
    size: tuple[int, int],
    offset: tuple[int, int] = (0, 0),
    clip: bool = True,
) -> Detections:
    """Convert detections from pixels of a resized image to pixels of the original.

    Args:
        detections: in pixels of the resized image or of its canvas; masks as ``mask_probabilities``, which are relative
            to their box.
        scale: (width, height) factors from the original to the resized image.
        size: (height, width) of the original.
        offset: (left, top) of the resized image on its canvas.
        clip: clip boxes to the original. False: they may reach beyond it, as mmdetection's RTMDet was evaluated.
    """
    boxes = (detections.boxes - detections.boxes.new_tensor([*offset, *offset])) if any(offset) else detections.boxes
    boxes = boxes / boxes.new_tensor([*scale, *scale])
    if clip:
        boxes = clip_boxes(boxes, size)
    return replace(detections, boxes=boxes, masks=None)  # masks of the resized image have another size


def scale_back(detections: Detections, meta: Mapping[str, Any]) -> Detections:
    """:func:`scale_to_original` with the numbers that the test transforms keep in a sample's ``meta``.

    Boxes of a centered letterbox that lie wholly on its border are dropped.
    """
    offset, clip = meta.get("offset", (0, 0)), meta.get("clip", True)
    scaled = scale_to_original(detections, meta["scale"], meta["original_size"], offset, clip)
    if "offset" in meta and clip:
        return scaled[has_area(scaled.boxes)]
    return scaled


def flip_detections(detections: Detections, width: float) -> Detections:
    """Convert detections of a horizontally flipped image, ``width`` pixels wide, to pixels of the image itself."""
    x1, y1, x2, y2 = detections.boxes.unbind(1)
    masks = None if detections.mask_probabilities is None else detections.mask_probabilities.flip(-1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    return replace(detections, boxes=boxes, mask_probabilities=masks)


def detect_view(model: DetectorLike, images: Sequence[Tensor], view: View, config: PostProcess) -> list[Detections]:
    """Detections in one version of each image (uint8 (3, H, W)), in pixels of the original images.

    Some detectors clip boxes only after NMS; what is left without area is no detection.
    """
    samples = [view_of(image, view, model.letterbox) for image in images]
    detections = model.detect(collate(samples).to(model.pixel_mean.device), config)
    original = []
    for sample, per_image in zip(samples, detections):
        if view.flip:
            left = sample.meta.get("offset", (0, 0))[0]
            per_image = flip_detections(per_image, sample.meta["width"] + 2 * left)
        per_image = scale_back(per_image, sample.meta)
        original.append(per_image[has_area(per_image.boxes)])
    return original


def view_of(image: Tensor, view: View, letterbox: Letterbox | None) -> Sample:
    """One version of an image (uint8 (3, H, W)); ``meta`` has ``width``, of the resized image without a border."""
    no_objects = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    height, width = image.shape[-2:]
    meta: dict[str, Any] = {"original_size": (height, width)}
    if letterbox is None:
        small, scale = (
            (image, (1.0, 1.0)) if view.resize is None else resize_keep_ratio(image, *view.resize, view.canvas)
        )
        meta |= {"scale": scale, "width": small.shape[-1]}
        return Sample(small.flip(-1) if view.flip else small, no_objects, meta)
    assert view.resize is not None, "a detector with a letterbox does not resize images itself"
    source = Sample(image.flip(-1) if view.flip else image, no_objects, meta)
    sample = LetterboxResize(view.resize, letterbox)(source, torch.Generator())
    return replace(sample, meta={**sample.meta, "width": round(width * sample.meta["scale"][0])})


@torch.inference_mode()
def predict_batch(
    model: DetectorLike,
    decoded: list[DecodedImage],
    selection: Selection,
    views: Sequence[View] = (),
) -> list[Result]:
    """Results of a few decoded images, with one forward pass per view; the model's mode stays as it was.

    The detections of several views are concatenated and go through NMS once more, per class, with the same
    ``max_detections``. Of overlapping boxes the best one stays unchanged, with its own mask, as in mmdetection's
    DetTTAModel.

    Args:
        model: any detector of three channels.
        decoded: decoded images, or errors in their place.
        selection: which detections are reported.
        views: versions of each image; none means one, of the detector's own size.
    """
    images = [item.pixels for item in decoded if item.pixels is not None]
    found = iter(detect_images(model, images, selection, views))
    return [_result_of(item, None if item.pixels is None else next(found), model.label_names) for item in decoded]


def detect_images(
    model: DetectorLike,
    images: Sequence[Tensor],
    selection: Selection,
    views: Sequence[View] = (),
) -> list[Detections]:
    """Detections of images (uint8 (3, H, W)) in their own pixels; the arguments are those of :func:`predict_batch`."""
    view_config = selection.config
    if selection.classes is not None:  # those of other classes are dropped later, and must not take the place of these
        limit = model.postprocess_config.max_detections if model.fixed_limits else ALL_CLASSES_LIMIT
        view_config = replace(view_config, max_detections=max(view_config.max_detections, limit))
    all_views = views or [View(own_size(model), canvas=model.canvas)]
    per_view = [detect_view(model, images, view, view_config) for view in all_views] if images else []
    return [_merge_views(parts, selection) for parts in zip(*per_view)]


def _result_of(item: DecodedImage, detections: Detections | None, label_names: tuple[str, ...]) -> Result:
    """The result of one image; ``detections`` are None for one that could not be read."""
    if item.pixels is None or detections is None:
        return Result.failed(item.path, item.error or "unreadable", label_names)
    size = (item.pixels.shape[-2], item.pixels.shape[-1])
    kept_image = None if item.reopens else Image.fromarray(item.pixels.permute(1, 2, 0).numpy())
    source = {"path": item.path, "frame": item.frame, "time": item.time}
    return Result.of(detections, label_names, size, image=kept_image, **source)


@torch.inference_mode()
def _predict_in_tiles(
    model: DetectorLike,
    item: DecodedImage,
    selection: Selection,
    views: Sequence[View],
    tiling: Tiling,
) -> Result:
    """The result of one image that is cut into tiles; one batch of tiles is scaled at a time."""
    if item.pixels is None:
        return _result_of(item, None, model.label_names)
    size = (item.pixels.shape[-2], item.pixels.shape[-1])
    tiles, parts = make_tiles(size, tiling.side, tiling.overlap), []
    for start in range(0, len(tiles), tiling.batch_size):
        group = tiles[start : start + tiling.batch_size]
        images = [item.pixels[:, tile.top : tile.bottom, tile.left : tile.right] for tile in group]
        parts += detect_images(model, images, selection, views)
    merged = merge_tiles(parts, tiles, size, selection.merge_threshold, tiling.max_detections)
    return _result_of(item, merged, model.label_names)


def _predict_batches(
    model: DetectorLike,
    images: Iterator[DecodedImage],
    selection: Selection,
    batch_size: int,
    views: Sequence[View],
) -> Iterator[Result]:
    error: Exception | None = None
    while error is None:
        group: list[DecodedImage] = []  # at most one batch of pixels in memory
        try:
            for image in islice(images, batch_size):
                group.append(image)
        except Exception as reason:
            error = reason
        if group:
            yield from predict_batch(model, group, selection, views)
        elif error is None:
            return
    raise error


def _merge_views(parts: Sequence[Detections], selection: Selection) -> Detections:
    if selection.classes is not None:
        parts = [part[torch.isin(part.labels, selection.classes.to(part.labels.device))] for part in parts]
    limit = selection.config.max_detections
    if len(parts) == 1:
        return parts[0][:limit]
    return suppress(concatenate(list(parts)), selection.merge_threshold, limit)
