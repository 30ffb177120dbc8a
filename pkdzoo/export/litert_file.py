"""A detector as a LiteRT file (.tflite), converted by Google's litert-torch.

Its converter has no counterpart of NMS with a result of fixed shape, of RoIAlign or of deformable convolutions. Files
therefore hold the feature pyramid, or the boxes and scores of all priors, for an NMS of the application.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from pkdzoo.export.graphs import Graph, What
from pkdzoo.export.program import FixedSize, check_suffix, graph_of
from pkdzoo.export.sessions import import_package
from pkdzoo.models.detector import Detector
from pkdzoo.utils.files import atomic_path

METADATA = "pkdzoo.json"  # name of our metadata in the archive at the end of the file


class _Named(nn.Module):
    """A graph whose results have names, and whose sizes are int32, which the format has everywhere."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.inner = graph  # a traced module has a graph of its own

    def forward(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.inner.outputs, self.inner(images, sizes.long())))


def export_litert(model: Detector, path: str | Path, fixed: FixedSize, what: What = "dense") -> Path:
    """Write a detector as a LiteRT file for images of one size.

    Its signature has the inputs ``images`` (B, 3, H, W) uint8, RGB, and ``sizes`` (B, 2) int32, and the outputs of
    :func:`pkdzoo.export.export_onnx`. The metadata is ``pkdzoo.json`` in a zip archive at the end of the file, where
    LiteRT keeps associated files: ``unzip -p detector.tflite pkdzoo.json``.

    Args:
        model: the detector, which is not changed.
        path: the file to write; it ends in ``.tflite``.
        fixed: shape of the images; the format has no open sizes.
        what: ``dense`` (boxes and scores of all priors; one-stage detectors) or ``features``.

    Returns:
        The path.

    Raises:
        ImportError: without the extra ``litert``.
        ValueError: for another suffix, for ``detections``, for a detector that does not have ``what``, and for one with
            an operation that the converter does not know; the message names it.

    Example:
        >>> import pkdzoo
        >>> from pkdzoo.export import FixedSize, export_litert
        >>> model = pkdzoo.create_detector("fcos_r18w24", pretrained=True)
        >>> path = export_litert(model, "detector.tflite", FixedSize(640, 640))  # doctest: +SKIP
    """
    check_suffix(path, ".tflite")
    check_litert(what)
    graph, metadata = graph_of(model, what, None, None, None, fixed)  # before the import: it may refuse the detector
    litert = import_package("litert_torch", "litert")
    images = torch.zeros(fixed.batch, len(model.pixel_mean), fixed.height, fixed.width, dtype=torch.uint8)
    sizes = torch.tensor([[fixed.height, fixed.width]] * fixed.batch, dtype=torch.int32)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the converter reports its progress
            converted = litert.convert(_Named(graph).eval(), sample_kwargs={"images": images, "sizes": sizes})
    except RuntimeError as error:
        unknown = re.search(r"Lowering not found: ([\w.]+)", str(error))
        if unknown is None:
            raise
        raise ValueError(
            f"LiteRT's converter does not know {unknown[1]}, which {model.name} has: export it as onnx or openvino, "
            "or take a detector without it, e.g. rtmdet_s or gfl_r18"
        ) from error
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        converted.export(str(temporary))
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(METADATA, json.dumps(metadata, ensure_ascii=False))
    return Path(path)


def check_litert(what: str) -> None:
    """Refuse what the format cannot hold.

    Raises:
        ValueError: for ``detections``.
    """
    if what == "detections":
        raise ValueError(
            "LiteRT's converter has no NMS with a result of fixed shape: write dense instead of detections, and "
            "suppress the boxes in the application"
        )
