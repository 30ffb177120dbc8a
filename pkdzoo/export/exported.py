"""Exported files as detectors: the same predictions, results and evaluation, by the runtime that is deployed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pkdzoo.export.sessions import open_session
from pkdzoo.inference.options import DEFAULT_THRESHOLD, PredictOptions
from pkdzoo.inference.predictor import predict, predict_stream
from pkdzoo.inference.result import Result
from pkdzoo.models._saved_config import newer_version, read_saved
from pkdzoo.structures import Batch, Detections, Letterbox, PixelNorm, PostProcess
from pkdzoo.utils.strict_json import MAX_BYTES, parse_strict_json
from pkdzoo.utils.text import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ExportedDetector:
    """A file of ``pkdzoo export`` that predicts as the detector that it was made of.

    Attributes:
        name: registered name of the detector.
        loaded_from: path of the file.
        label_names: item i is the name of label i.
        num_classes: their number.
        resize: (short, long) side of the images in pixels.
        letterbox: canvas of the images, or None.
        canvas: (height, width) of the padded images of a graph of fixed size; None leaves them open.
        batch: number of images of a graph of fixed size; None leaves it open.
        fixed_limits: True: the graph has dropped what is beyond its own number of detections.
        resizes_itself: False: images are resized before they are given to the graph.
        pixel_mean: (channels,), of which only length and device count: the graph normalizes the pixels.
        postprocess_config: the thresholds in the graph.

    Args:
        path: ends in ``.onnx`` (onnxruntime) or ``.xml`` (OpenVINO).
        threads: of the CPU; None leaves the choice to the runtime.

    Raises:
        FileNotFoundError: when there is none.
        ImportError: without the runtime.
        ValueError: for a file that the runtime refuses, that lacks the metadata, or that gives no detections.

    Example:
        >>> import numpy as np, pkdzoo
        >>> from pkdzoo.export import ExportedDetector, export_onnx
        >>> path = export_onnx(pkdzoo.create_detector("retina_r10w16"), "detector.onnx")
        >>> len(ExportedDetector(path).predict(np.zeros((64, 96, 3), np.uint8)))
        0
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        self.session = open_session(path, threads)
        facts = _read_metadata(Path(path), self.session.metadata)
        saved, resize = read_saved(facts["config"]), facts["resize"]
        self.name, self.loaded_from = saved.architecture, str(path)
        self.label_names, self.num_classes = tuple(saved.labels), saved.classes
        self.resize: tuple[int, int] = saved.settings["resize"]
        self.letterbox: Letterbox | None = saved.settings.get("letterbox")
        self.postprocess_config: PostProcess = saved.settings["postprocess"]
        self.pixel_mean = torch.zeros(len(saved.settings.get("pixel_norm", PixelNorm()).mean))
        self.fixed_limits, self.resizes_itself = True, False
        self.canvas: tuple[int, int] | None = None
        self.batch: int | None = None
        if "canvas" in resize:
            height, width = (int(side) for side in resize["canvas"])
            self.canvas, self.batch = (height, width), int(facts["batch"])

    def detect(self, batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """Detections of a batch in pixels of ``batch.images``.

        Args:
            batch: raw images; a graph of fixed size takes them in parts of its number of images.
            config: higher thresholds and fewer detections than those in the graph; None means the graph's own.

        Raises:
            ValueError: for images larger than a graph of fixed size takes, and for settings that the graph cannot
                follow any more.
        """
        config = config or self.postprocess_config
        self._check(config)
        found = [one for inputs in self.inputs_of(batch) for one in self._run(inputs)]
        return [self._select(one, config) for one in found[: len(batch.sizes)]]

    def inputs_of(self, batch: Batch) -> Iterator[dict[str, NDArray[Any]]]:
        """Inputs of the graph for a batch; of a graph of fixed size as often as needed, the last image repeated.

        Raises:
            ValueError: for images larger than a graph of fixed size takes.
        """
        images = batch.images.round().clamp(0, 255).to(torch.uint8).cpu()
        images = images if self.canvas is None else _pad(images, self.canvas)
        sizes, step = torch.tensor(batch.sizes, dtype=torch.int64), self.batch or len(images)
        index = torch.arange(-(-len(images) // step) * step).clamp(max=len(images) - 1)
        for part in torch.split(index, step):
            yield {"images": np.ascontiguousarray(images[part].numpy()), "sizes": sizes[part].numpy()}

    def predict(self, images: Any, **options: Unpack[PredictOptions]) -> Result | list[Result]:
        """As :meth:`pkdzoo.Detector.predict`; thresholds below those in the file are refused."""
        return predict(self, images, self._options(options))

    def predict_stream(self, images: Any, **options: Unpack[PredictOptions]) -> Iterator[Result]:
        """As :meth:`pkdzoo.Detector.predict_stream`; thresholds below those in the file are refused."""
        return predict_stream(self, images, self._options(options))

    def _options(self, options: PredictOptions) -> PredictOptions:
        own = self.postprocess_config
        if self.canvas is not None and options.get("sizes") is not None:
            raise ValueError(f"sizes={options['sizes']!r}: {self.loaded_from} takes one size: leave sizes out")
        defaults: PredictOptions = {"threshold": max(DEFAULT_THRESHOLD, own.score_threshold)}
        return {**defaults, **options}

    def _check(self, config: PostProcess) -> None:
        """Refuse settings that would need candidates which the graph has dropped."""
        own, again = self.postprocess_config, f"export {self.name} again with"
        if config.score_threshold < own.score_threshold:
            raise ValueError(
                f"threshold {config.score_threshold:g} is below that in {self.loaded_from}, "
                f"{own.score_threshold:g}: {again} --threshold {config.score_threshold:g}"
            )
        if config.nms_threshold != own.nms_threshold:
            raise ValueError(
                f"NMS in {self.loaded_from} has the threshold {own.nms_threshold:g}: leave nms_threshold out, or "
                f"{again} --nms-threshold {config.nms_threshold:g}"
            )
        if config.max_detections > own.max_detections:
            raise ValueError(
                f"{self.loaded_from} gives at most {counted(own.max_detections, 'detection')} per image: "
                f"write fewer, or {again} "
                f"--max-detections {config.max_detections}"
            )

    def _select(self, detections: Detections, config: PostProcess) -> Detections:
        """Those with a reported score above another threshold than the graph's, and at most as many as asked for."""
        if config.score_threshold != self.postprocess_config.score_threshold:
            detections = detections[detections.scores > config.score_threshold]
        return detections[: config.max_detections]

    def _run(self, inputs: dict[str, NDArray[Any]]) -> list[Detections]:
        """Detections of the images of one call of the graph."""
        results = self.session.run(inputs["images"], inputs["sizes"])
        rows = {name: torch.from_numpy(np.array(values)) for name, values in results.items()}
        found = []
        for i in range(len(inputs["images"])):
            own = slice(0, int(rows["counts"][i]))
            masks = rows["masks"][i, own] if "masks" in rows else None
            labels = rows["labels"][i, own].long()
            boxes, scores = rows["boxes"][i, own].float(), rows["scores"][i, own].float()
            found.append(Detections(boxes, scores, labels, mask_probabilities=masks))
        return found


def _pad(images: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Images (B, 3, H, W) padded to a canvas."""
    height, width = images.shape[-2:]
    if height > canvas[0] or width > canvas[1]:
        raise ValueError(
            f"images of {width} x {height} pixels are larger than the graph's {canvas[1]} x {canvas[0]}: scale them, "
            "or export with a larger --size"
        )
    return torch.nn.functional.pad(images, (0, canvas[1] - width, 0, canvas[0] - height))


def _read_metadata(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The metadata of a file, its JSON parsed.

    Raises:
        ValueError: for what is missing or no JSON, and for a file without detections.
    """
    again = "write the file again with `pkdzoo export`"
    missing = [key for key in ("config", "outputs", "resize") if key not in metadata]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)} in its metadata, so its images are unknown: {again}")
    if metadata["outputs"] != "detections":
        raise ValueError(f"{path} gives {metadata['outputs'][:20]!r}: {again} --what detections")
    facts: dict[str, Any] = {"batch": metadata.get("batch", "1")}
    for key in ("config", "resize"):
        data = metadata[key].encode("utf-8", "surrogatepass")
        facts[key] = parse_strict_json(data[: MAX_BYTES + 1], f"the {key} in the metadata of {path}")
        if not isinstance(facts[key], dict):
            raise ValueError(f"the {key} in the metadata of {path} is no JSON object: {again}")
    canvas = facts["resize"].get("canvas", [1, 1])
    whole = isinstance(canvas, list) and len(canvas) == 2 and all(type(side) is int and side > 0 for side in canvas)
    if not whole or not re.fullmatch(r"[1-9]\d{0,5}", facts["batch"], re.ASCII):
        newer = newer_version(facts["config"])
        raise ValueError(f"canvas or batch in the metadata of {path} is no whole number{newer}: {again}")
    return facts
