"""The base class of all detectors: images in, a feature pyramid, losses or detections out.

Every forward pass goes through ``Detector.trace``, which returns all intermediate results up to the requested depth.
Losses, detections and distillation methods are computed from this trace.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import torch
from torch import Tensor, nn

from pkdzoo.hub.card_licenses import with_initial_license
from pkdzoo.hub.card_metrics import check_stated
from pkdzoo.hub.files import PREPROCESSOR, preprocessor, save_folder
from pkdzoo.hub.upload import push_folder, write_repository
from pkdzoo.layers.folding import fold_norms
from pkdzoo.models._builder import open_saved
from pkdzoo.models._card import describe_card
from pkdzoo.models._checks import check_batch, check_instances, with_one_type
from pkdzoo.models._config import describe
from pkdzoo.models._eval_mode import eval_mode
from pkdzoo.models._interface import ZooModel
from pkdzoo.models._prediction_methods import PredictionMethods
from pkdzoo.models._training_methods import TrainingMethods
from pkdzoo.models._uncompiled import Uncompiled
from pkdzoo.models.backbones.timm import TimmBackbone
from pkdzoo.models.rpn import ProposalConfig
from pkdzoo.models.trace import DEPTHS, Depth, HeadTrace, LossTrace, Trace
from pkdzoo.structures import Batch, Detections, FeaturePyramid, Instances, Letterbox, PixelNorm, PostProcess
from pkdzoo.utils.precision import float32_or_wider
from pkdzoo.utils.text import counted

if TYPE_CHECKING:
    from typing_extensions import Self


class Detector(PredictionMethods, TrainingMethods, ZooModel):
    """A backbone and a neck; the subclasses add heads.

    Args:
        backbone: gives feature maps of decreasing resolution.
        neck: turns them into a feature pyramid.
        num_classes: C.
        pixel_norm: pixel statistics and channel order of the input; None means ``PixelNorm()``.
        postprocess_config: settings of the step from head outputs to detections; None means ``PostProcess()``.
        resize: (short, long): images are scaled until the short side has this length in pixels, or the long side has
            its own, whichever comes first.
        letterbox: how images are fitted onto a square canvas, for detectors that were trained so; None: they are only
            resized, and their padding is zero after normalization.

    Example:
        >>> import torch, pkdzoo
        >>> model = pkdzoo.create_detector("retina_r10w16", num_classes=2)
        >>> batch = pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)])
        >>> trace = model.trace(batch, upto="head")
        >>> [tuple(level.shape) for level in trace.features.levels][:2], trace.outputs.cls[0].shape[1]
        ([(1, 64, 8, 12), (1, 64, 4, 6)], 18)
    """

    two_stage: bool = False  # PKD's published loss weight depends on it
    test_proposing: ProposalConfig | None = None  # of a two-stage detector: proposals for detection
    canvas: tuple[int, int] | None = None  # (height, width) of the only padded images that it takes: none here
    resizes_itself: bool = False  # True for networks of other libraries that are given each image at its own size
    fixed_limits: bool = False  # True for exported files, whose graphs give no more than their own number of detections
    has_graph: bool = True  # False for models of other libraries, which export them
    has_features_alone: bool = True  # False for modules that give their maps with their losses alone

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        num_classes: int,
        pixel_norm: PixelNorm | None = None,
        postprocess_config: PostProcess | None = None,
        resize: tuple[int, int] = (800, 1333),
        letterbox: Letterbox | None = None,
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
        self.letterbox = letterbox
        self._pixel_norm = pixel_norm
        self.channel_order = pixel_norm.channel_order
        # Not persistent: they follow from the registered entry, and mmdetection's files do not have them.
        self.register_buffer("pixel_mean", torch.tensor(pixel_norm.mean), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_norm.std), persistent=False)
        self.name = type(self).__name__
        self.overrides: dict[str, Any] = {}  # build arguments that differ from those of the registered name
        self.label_names: tuple[str, ...] = tuple(f"class_{i}" for i in range(num_classes))
        self.optimized = False  # True after optimize(), which changes the keys of the state dict
        self.loaded_from: str | None = None  # source of the weights; None for random weights

    # -- one pass ------------------------------------------------------------------------------------------------

    def normalize(self, batch: Batch) -> Tensor:
        """Normalize raw RGB images (B, 3, H, W) by :meth:`standardize` and set their padding to zero."""
        images = self.standardize(batch.images)
        padded = (images.shape[-2], images.shape[-1])
        if any(size != padded for size in batch.sizes):
            images = self.blank_padding(images, torch.tensor(batch.sizes, device=images.device))
        return images

    def standardize(self, images: Tensor) -> Tensor:
        """Raw RGB images (B, 3, H, W) in this detector's channel order, minus its mean, over its std; padding too."""
        channels = len(self.pixel_mean)
        if images.shape[1] != channels:
            raise ValueError(f"this detector takes images of {counted(channels, 'channel')}, got {images.shape[1]}")
        if self.channel_order == "bgr":
            images = images.flip(1)
        pixels = (images - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None]
        return pixels.to(self.pixel_mean.dtype)  # model.half() and model.bfloat16() convert the buffers

    @staticmethod
    def blank_padding(images: Tensor, sizes: Tensor) -> Tensor:
        """Set the padding of images (B, channels, H, W) to zero; ``sizes`` (B, 2) are their heights and widths."""
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device) < sizes[:, :1]
        columns = torch.arange(width, device=images.device) < sizes[:, 1:]
        # not a product with the mask: padding may hold NaN
        return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], images, 0.0)

    def extract_features(self, batch: Batch) -> FeaturePyramid:
        """The feature pyramid of a batch of raw images."""
        maps = self.backbone(self.normalize(batch))
        pyramid = cast(FeaturePyramid, self.neck(maps))
        pyramid.backbone = list(maps)
        return pyramid

    @overload
    def trace(self, batch: Batch, upto: Literal["features"], tap: int | None = None) -> Trace[Self]: ...
    @overload
    def trace(self, batch: Batch, upto: Literal["head"], tap: int | None = None) -> HeadTrace[Self]: ...
    @overload
    def trace(self, batch: Batch, upto: Literal["loss"] = "loss", tap: int | None = None) -> LossTrace[Self]: ...
    @overload
    def trace(self, batch: Batch, upto: Depth, tap: int | None = None) -> Trace[Self]: ...

    def trace(self, batch: Batch, upto: Depth = "loss", tap: int | None = None) -> Trace[Self]:
        """Run the detector up to a depth and return everything that was computed.

        Args:
            batch: raw images; with instances where losses are asked for.
            upto: ``features``, ``head`` or ``loss``.
            tap: keep the towers' maps after this block (0: the pyramid itself); dense heads with towers only.

        Returns:
            A :class:`Trace`, :class:`HeadTrace` or :class:`LossTrace` of :mod:`pkdzoo.models.trace`.

        Raises:
            TypeError: for anything else than a Batch.
            ValueError: for an unknown depth, losses without instances, or a tap of a detector without towers.
        """
        check_batch(batch)
        if upto not in DEPTHS:
            raise ValueError(f"upto={upto!r}: write one of {', '.join(map(repr, DEPTHS))}")
        if upto == "loss" and batch.instances is None:
            raise ValueError("losses need Batch.instances; for detections write model.predict(images)")
        if tap is not None and self.two_stage:
            raise ValueError(f"tap={tap}: a two-stage detector has no towers to tap, leave it out")
        features = self.extract_features(batch)
        if upto == "features":
            return Trace(self, features)
        if upto == "head" or batch.instances is None:
            return self.run_head(features, batch, tap)
        check_instances(batch.instances, batch.meta, self.num_classes)
        objects = [each.without_crowd() for each in batch.instances]
        return self.run_losses(features, batch, with_one_type(objects, float32_or_wider(features.levels[0]).dtype), tap)

    def run_head(self, features: FeaturePyramid, batch: Batch, tap: int | None = None) -> HeadTrace[Self]:
        """The rest of a pass up to the head."""
        raise NotImplementedError

    def run_losses(
        self, features: FeaturePyramid, batch: Batch, instances: list[Instances], tap: int | None = None
    ) -> LossTrace[Self]:
        """The rest of a pass up to the losses; ``instances`` are those of the batch without crowds."""
        raise NotImplementedError

    def postprocess(self, trace: Trace[Self], batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """Detections of each image.

        Args:
            trace: of a pass with ``upto="head"`` or ``"loss"``.
            batch: the same images.
            config: thresholds; None means ``self.postprocess_config``.

        Returns:
            Detections in pixels of ``batch.images``.

        Raises:
            ValueError: for a trace of features alone.
        """
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is the training objective.

        Train and eval mode give the same values, except for random parts of training: Swin's stochastic depth and
        the sampling of anchors and regions.

        Raises:
            TypeError: for anything else than a Batch; the message says what to write for detections.
        """
        if not isinstance(batch, Batch):
            raise TypeError(
                f"calling a detector gives its losses of a pkdzoo.Batch, not of a {type(batch).__name__}: "
                "for detections write model.predict(image)"
            )
        return self.trace(batch).losses

    # -- training and prediction -----------------------------------------------------------------------------------

    def train(self, mode: bool = True, **options: Any) -> Self:
        """Switch to training mode, or with ``mode=False`` to eval mode; nothing is trained.

        Raises:
            TypeError: for data or other options; the message says how a detector is trained.
        """
        if options or not isinstance(mode, bool):
            raise TypeError(
                "model.train() only switches to training mode and takes no data: to train, write "
                "model.fit(DATA), or `pkdzoo train RECIPE.py --data DIR`"
            )
        return super().train(mode)

    def set_epoch(self, epoch: int) -> None:
        """Set the current epoch, counted from 0, for detectors whose targets depend on it (TOOD); others ignore it."""

    def optimize(self, channels_last: bool = True) -> Self:
        """Make prediction faster: fold frozen norms into the preceding convolutions. This cannot be undone.

        Detections stay the same up to rounding. An optimized detector cannot be trained or saved, and no checkpoint
        can be loaded into it: save it first. Can be combined with ``torch.compile``.

        Args:
            channels_last: also use the channels-last memory format (NHWC), which is faster on CPUs and tensor cores.

        Returns:
            The same detector, in eval mode and with frozen parameters.

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
        """Fold the norms, see :meth:`optimize`; detectors with layers of another library override it to do nothing."""
        if isinstance(self.backbone, TimmBackbone):
            self.backbone.fuse()
        fold_norms(self)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile backbone, neck and heads in place by ``torch.compile``; the arguments are its own.

        ``predict`` and training use the compiled parts. ``torch.compile(model)`` returns a wrapper that compiles losses
        only: its ``predict`` is that of the model inside, which is not compiled, and gives a warning.

        Example:
            >>> import pkdzoo
            >>> model = pkdzoo.create_detector("retina_r10w16")
            >>> model.compile(dynamic=True)  # the next prediction compiles, and the ones after it are faster
        """
        for part in self.children():
            part.compile(*args, **kwargs)

    @torch.inference_mode()
    def detect(self, batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """Detections of each image in pixels of ``batch.images``; runs in eval mode and then restores the mode."""
        with eval_mode(self):
            return self.postprocess(self.trace(batch, upto="head"), batch, config)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write weights, config and preprocessor settings; ``create_detector("local-dir:FOLDER")`` reads them.

        Args:
            folder: is created if it does not exist.

        Returns:
            The folder.
        """
        config = describe(self)
        return save_folder(folder, self.state_dict(), config, {PREPROCESSOR: preprocessor(config)})

    @classmethod
    def from_pretrained(
        cls,
        place: str | Path,
        *,
        revision: str | None = None,
        num_classes: int | None = None,
        label_names: str | Sequence[str] | None = None,
        cache_dir: str | Path | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> Self:
        """Load a saved detector of this class; the arguments are those of :func:`pkdzoo.from_pretrained`.

        Raises:
            ValueError: for a saved detector of another class, and as :func:`pkdzoo.from_pretrained`.
        """
        model = open_saved(place, revision, num_classes, label_names, cache_dir, token, local_files_only, overrides)
        if not isinstance(model, cls):
            raise ValueError(
                f"{place} holds a {type(model).__name__}, not {cls.__name__}: write pkdzoo.from_pretrained"
            )
        return model

    def push_to_hub(
        self,
        repository: str,
        license: str,
        data: str | None = None,
        data_license: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        source: str = "",
        init_license: str | None = None,
        **kwargs: Any,
    ) -> str:
        """Upload this detector with a model card to the Hugging Face Hub.

        Args:
            repository: ``org/name``; is created if it does not exist.
            license: license of the weights, e.g. ``Apache-2.0``.
            data: name of the training data set, e.g. ``coco``; class names do not tell it.
            data_license: license of the data set; known data sets, such as COCO, have their own.
            metrics: results of an evaluation in percent, by the names of ``model.evaluate()``.
            source: the command that measured them.
            init_license: license of the weights that the training started from, if they state none.
            kwargs: ``private``, ``token``, ``revision``, ``message``, ``create_pr``: see
                :func:`pkdzoo.hub.upload.push_folder`.

        Returns:
            The URL of the commit.

        Raises:
            ValueError: for an unknown license, or one that the weights that the training started from do not allow;
                for metrics of other names, in another unit or of other weights.
            pkdzoo.hub.upload.UploadError: for an upload that fails.
        """
        check_stated(metrics or {})
        card = describe_card(
            self, license, data, data_license, metrics=metrics or {}, source=source, repository=repository
        )
        card = with_initial_license(card, init_license)
        with tempfile.TemporaryDirectory() as folder:
            write_repository(folder, self.state_dict(), describe(self), card)
            return push_folder(folder, repository, **kwargs)

    def extra_repr(self) -> str:
        return f"{self.name}, {counted(self.num_classes, 'class')}"


for _name in ("detect", "predict", "predict_stream"):
    setattr(Detector, _name, Uncompiled(getattr(Detector, _name)))
