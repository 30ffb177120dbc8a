"""What every detector is: pixels in, a pyramid, losses or detections out, and a trace of one pass.

``trace`` is the one way through a detector. It runs as deep as it is asked to and leaves everything behind that it
computed; losses, detections and distillation all read from it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from pkdzoo.hub.files import PREPROCESSOR, preprocessor, save_folder
from pkdzoo.hub.upload import push_folder, write_repository
from pkdzoo.inference.options import PredictOptions
from pkdzoo.inference.predictor import predict, predict_stream
from pkdzoo.inference.result import Result
from pkdzoo.layers.folding import fold_norms
from pkdzoo.models._builder import open_saved
from pkdzoo.models._card import describe_card
from pkdzoo.models._config import describe
from pkdzoo.models._interface import ZooModel
from pkdzoo.models.trace import DEPTHS, Depth, Trace
from pkdzoo.structures import Batch, Detections, FeaturePyramid, Instances, PixelNorm, PostProcess

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class Detector(ZooModel):
    """A backbone, a neck and what a family puts on top.

    Args:
        backbone: gives maps of falling resolution.
        neck: makes a pyramid of them.
        num_classes: C.
        pixel_norm: statistics and channel order of its input.
        postprocess_config: how detections are made of head outputs.
        resize: (short, long) side in pixels that images are scaled to.

    Example:
        >>> import torch, pkdzoo
        >>> model = pkdzoo.create_detector("retina_r10w16", num_classes=2)
        >>> batch = pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)])
        >>> trace = model.trace(batch, upto="head")
        >>> [tuple(level.shape) for level in trace.features.levels][:2], trace.outputs.cls[0].shape[1]
        ([(1, 64, 8, 12), (1, 64, 4, 6)], 18)
    """

    two_stage: bool = False  # PKD's published weight depends on it

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        num_classes: int,
        pixel_norm: PixelNorm | None = None,
        postprocess_config: PostProcess | None = None,
        resize: tuple[int, int] = (800, 1333),
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: a detector needs at least one class")
        pixel_norm = pixel_norm or PixelNorm()
        self.backbone = backbone
        self.neck = neck
        self.num_classes = num_classes
        self.postprocess_config = postprocess_config or PostProcess()
        self.resize = resize
        self.channel_order = pixel_norm.channel_order
        # Not persistent: they are facts of the entry, and foreign files do not have them.
        self.register_buffer("pixel_mean", torch.tensor(pixel_norm.mean), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_norm.std), persistent=False)
        self.name = type(self).__name__
        self.overrides: dict[str, Any] = {}  # arguments in which it differs from what its name stands for
        self.label_names: tuple[str, ...] = tuple(f"class_{i}" for i in range(num_classes))
        self.optimized = False  # True after optimize(): its state dict is not its architecture's any more
        self.loaded_from: str | None = None  # where the weights came from; None as long as they are random

    # -- one pass ------------------------------------------------------------------------------------------------

    def normalize(self, batch: Batch) -> Tensor:
        """Raw RGB pixels -> this detector's own statistics and channel order, zeros outside each image."""
        images = self.standardize(batch.images)
        whole = (images.shape[-2], images.shape[-1])
        if any(size != whole for size in batch.sizes):
            images = self.blank_padding(images, torch.tensor(batch.sizes, device=images.device))
        return images

    def standardize(self, images: Tensor) -> Tensor:
        """Raw RGB pixels (B, 3, H, W) -> this detector's own statistics and channel order, padding included."""
        channels = len(self.pixel_mean)
        if images.shape[1] != channels:
            raise ValueError(f"this detector takes images of {channels} channels, got {images.shape[1]}")
        if self.channel_order == "bgr":
            images = images.flip(1)
        return (images - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None]

    @staticmethod
    def blank_padding(images: Tensor, sizes: Tensor) -> Tensor:
        """Zeros outside each image of ``sizes`` (B, 2), height and width, of a batch (B, channels, H, W)."""
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device) < sizes[:, :1]
        columns = torch.arange(width, device=images.device) < sizes[:, 1:]
        # where, not a product: padding may hold anything, NaN too
        return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], images, 0.0)

    def extract_features(self, batch: Batch) -> FeaturePyramid:
        """The pyramid of a batch of raw images."""
        return cast(FeaturePyramid, self.neck(self.backbone(self.normalize(batch))))

    def trace(self, batch: Batch, upto: Depth = "loss", tap: int | None = None) -> Trace:
        """Run as deep as ``upto`` says and keep what was computed.

        Args:
            batch: raw images; with instances where losses are asked for.
            upto: ``features``, ``head`` or ``loss``.
            tap: keep the towers' maps after this block (0: the pyramid itself); dense heads with towers only.

        Raises:
            ValueError: for an unknown depth, or losses without instances.
        """
        if upto not in DEPTHS:
            raise ValueError(f"upto={upto!r}: write one of {', '.join(map(repr, DEPTHS))}")
        if upto == "loss" and batch.instances is None:
            raise ValueError("losses need Batch.instances; for detections write model.predict(images)")
        trace = Trace(self, self.extract_features(batch))
        if upto != "features":
            self.run_head(trace, batch, tap)
        if upto == "loss":
            assert batch.instances is not None
            check_instances(batch, self.num_classes)
            self.run_losses(trace, batch, [instances.without_crowd() for instances in batch.instances])
        return trace

    def run_head(self, trace: Trace, batch: Batch, tap: int | None = None) -> None:
        """Fill outputs, priors (and taps, proposals) of a trace that has features."""
        raise NotImplementedError

    def run_losses(self, trace: Trace, batch: Batch, instances: list[Instances]) -> None:
        """Fill targets and losses of a trace that has outputs."""
        raise NotImplementedError

    def postprocess(self, trace: Trace, batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """Detections of each image.

        Args:
            trace: of a pass that went ``upto="head"``.
            batch: the same images.
            config: thresholds; None means the detector's own.

        Returns:
            Detections in pixels of ``batch.images``.
        """
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, each already weighted: their sum is the objective. The same in train and in eval mode,
        but for what draws or drops at random while it trains (a Swin's paths, the sampling of regions).
        """
        return self.trace(batch).losses

    # -- around it -----------------------------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Tell the detector how far training is; most do not care. One just built is in its late phase."""

    def optimize(self, channels_last: bool = True) -> Self:
        """Make prediction faster, in place and for good: frozen norms are folded into the convolutions before them.

        The same detections up to rounding. What is gone is the norms themselves, so an optimised detector can be
        neither trained, saved nor loaded into: save first. ``torch.compile`` goes well with it.

        Args:
            channels_last: keep convolutions in NHWC too, which processors and tensor cores compute faster.

        Returns:
            The same detector, in eval mode, its parameters frozen.

        Example:
            >>> import pkdzoo
            >>> model = pkdzoo.create_detector("retina_r10w16", norm="frozen_bn").optimize()
            >>> model.backbone.bn1
            Identity()
        """
        self.eval().requires_grad_(False)
        self.fold()
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.optimized = True
        return self

    def fold(self) -> None:
        """What :meth:`optimize` does to the layers; a detector made of foreign layers does nothing."""
        fold_norms(self)

    @torch.inference_mode()
    def detect(self, batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """Detections of a batch in pixels of ``batch.images``; runs in eval mode and puts the mode back."""
        training = self.training
        self.eval()
        try:
            return self.postprocess(self.trace(batch, upto="head"), batch, config)
        finally:
            self.train(training)

    def predict(self, images: Any, **options: Unpack[PredictOptions]) -> Result | list[Result]:
        """Detect objects in one image or in many.

        Args:
            images: one result is returned for a path, a link (http or https), a PIL image, a numpy array (H, W, 3)
                uint8 RGB or a tensor (3, H, W) uint8 RGB. A list is returned for a folder, a wildcard
                (``"photos/*.jpg"``), a video (one result per frame; needs ``pip install pkdzoo[video]``), and a list or
                any iterable of these.
            options: ``threshold``, ``nms_threshold``, ``max_detections``, ``classes``, ``batch_size``, ``flip`` and
                ``sizes``; :class:`pkdzoo.inference.PredictOptions` documents them.

        Returns:
            A Result with boxes in pixels of the original image, or a list of results. In a list, an image that cannot
            be read gives a Result whose ``error`` tells why. The results keep their images where no file holds them,
            except for the frames of a video; for many images write :meth:`predict_stream`.

        Raises:
            UnreadableImage: a single image cannot be read.
            TypeError: an unknown option; the message suggests the closest name.
            ValueError: an empty folder, an unknown class, an array that is no image, or a detector with other than
                three channels.

        Example:
            >>> import numpy as np, pkdzoo
            >>> model = pkdzoo.create_detector("retina_r10w16")
            >>> result = model.predict(np.zeros((64, 96, 3), np.uint8), threshold=0.5)
            >>> result.size, len(result)
            ((64, 96), 0)
        """
        return predict(self, images, options)

    def predict_stream(self, images: Any, **options: Unpack[PredictOptions]) -> Iterator[Result]:
        """Detect objects in any number of images, one by one; one batch of images is in memory at a time.

        Args:
            images: as for :meth:`predict`; a generator may be endless. Every fifth frame of a video is
                ``pkdzoo.inference.read_video("street.mp4", every=5)``.
            options: ``threshold``, ``nms_threshold``, ``max_detections``, ``classes``, ``batch_size``, ``flip`` and
                ``sizes``; :class:`pkdzoo.inference.PredictOptions` documents them.

        Returns:
            An iterator of results. An image that cannot be read, even a single one, gives a Result whose ``error``
            tells why.

        Raises:
            TypeError: at once, for an unknown option.
            ValueError: at once, for an empty folder, an unknown class, or a detector with other than three channels.

        Example:
            >>> import numpy as np, pkdzoo
            >>> model = pkdzoo.create_detector("retina_r10w16")
            >>> frames = (np.full((64, 96, 3), shade, np.uint8) for shade in range(3))
            >>> [len(result) for result in model.predict_stream(frames, threshold=0.5)]
            [0, 0, 0]
        """
        return predict_stream(self, images, options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config, tensors and preprocessor settings; ``create_detector("local-dir:FOLDER")`` reads them.

        Args:
            folder: made when missing.

        Returns:
            The folder.
        """
        config = describe(self)
        return save_folder(folder, self.state_dict(), config, {PREPROCESSOR: preprocessor(config)})

    @classmethod
    def from_pretrained(cls, place: str | Path, **kwargs: Any) -> Detector:
        """A saved detector; see :func:`pkdzoo.from_pretrained`, which has the arguments.

        Raises:
            ValueError: when it is another kind of detector than this class.
        """
        own: dict[str, Any] = {
            "revision": None,
            "num_classes": None,
            "label_names": None,
            "cache_dir": None,
            "token": None,
        }
        own |= {"local_files_only": False}
        given = {key: kwargs.pop(key, value) for key, value in own.items()}
        model = open_saved(place, overrides=kwargs, **given)
        if not isinstance(model, cls):
            raise ValueError(f"{place} holds a {type(model).__name__}, no {cls.__name__}: write pkdzoo.from_pretrained")
        return model

    def push_to_hub(
        self,
        repository: str,
        license: str,
        data: str | None = None,
        data_license: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        source: str = "",
        **kwargs: Any,
    ) -> str:
        """Publish this detector with a card.

        Args:
            repository: ``org/name``; made when missing.
            license: of the weights, e.g. ``Apache-2.0``.
            data: name of the data set; None means COCO for a detector of COCO's classes.
            data_license: of that data set.
            metrics: as an evaluation gives them.
            source: the command that measured them.
            kwargs: ``private``, ``token``, ``revision``, ``message``, ``create_pr``: see
                :func:`pkdzoo.hub.upload.push_folder`.

        Returns:
            The commit's address.

        Raises:
            ValueError: when a licence is unknown.
            pkdzoo.hub.upload.UploadError: when the Hub said no.
        """
        card = describe_card(
            self, license, data, data_license, metrics=metrics or {}, source=source, repository=repository
        )
        with tempfile.TemporaryDirectory() as folder:
            write_repository(folder, self.state_dict(), describe(self), card)
            return push_folder(folder, repository, **kwargs)

    def extra_repr(self) -> str:
        return f"{self.name}, {self.num_classes} classes"


def check_instances(batch: Batch, num_classes: int) -> None:
    """Refuse objects that no loss can mean, before they train a detector wrongly in silence.

    Raises:
        ValueError: for a label outside ``0 .. C-1``, or a box that is not finite or has no area, with its image.
    """
    assert batch.instances is not None
    boxes = torch.cat([objects.boxes for objects in batch.instances])
    labels = torch.cat([objects.labels for objects in batch.instances])
    stray = (labels < 0) | (labels >= num_classes)
    shapeless = ~boxes.isfinite().all(dim=1) | (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
    if not (stray | shapeless).any():  # the one look that waits for the device
        return
    for i, objects in enumerate(batch.instances):
        where = batch.meta[i].get("file_name", f"image {i}") if batch.meta else f"image {i} of the batch"
        start = sum(len(other) for other in batch.instances[:i])
        for g in range(len(objects)):
            if stray[start + g]:
                label = int(objects.labels[g])
                raise ValueError(
                    f"{where}: label {label}, but the detector has {num_classes} classes, 0 to {num_classes - 1}"
                )
            if shapeless[start + g]:
                box = [round(x, 2) for x in objects.boxes[g].tolist()]
                raise ValueError(
                    f"{where}: box {box} has no area; xyxy in pixels, x1 < x2 and y1 < y2: drop or mend it"
                )


def options(kind: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    """Take the fields of a dataclass out of ``given`` and return them (for build functions with many arguments)."""
    return {name: given.pop(name) for name in list(given) if name in kind.__dataclass_fields__}
