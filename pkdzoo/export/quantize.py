"""Exported files in int8: convolutions and linear layers by onnxruntime's static quantization.

Weights have a scale per output channel, activations one per tensor, measured on images. Everything after the last
layer (decoding, NMS) stays in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pkdzoo.export.exported import ExportedDetector
from pkdzoo.export.onnx_file import read_properties
from pkdzoo.export.sessions import import_package
from pkdzoo.structures import Batch
from pkdzoo.utils.files import atomic_path

LAYERS = ("Conv", "Gemm", "MatMul")
# What may stay in float32, by a part of the weights' names: nothing; the last predictors; the whole head.
KEPT: dict[str, tuple[str, ...]] = {
    "none": (),
    "predictors": ("head.cls.", "head.box.", "head.quality.", "head.agreement.", "head.first.", "head.refined."),
    "head": ("head.",),
}


def quantize_onnx(path: str | Path, output: str | Path, batches: Iterable[Batch], keep: Sequence[str] = ()) -> Path:
    """Write an int8 copy of an exported file.

    Args:
        path: file of :func:`pkdzoo.export.export_onnx` with detections, in float32.
        output: the file to write.
        batches: some hundred images as the detector sees them, from its training data.
        keep: layers whose weights have one of these texts in their name stay in float32, e.g. ``KEPT["predictors"]``.

    Returns:
        The path of the output.

    Raises:
        ImportError: without the extra ``export``.
        ValueError: without images, and as :class:`pkdzoo.export.ExportedDetector`.

    Example:
        >>> from pkdzoo.data import collate, eval_transform, open_dataset
        >>> from pkdzoo.export import quantize_onnx
        >>> data = open_dataset("cells", "train", transform=eval_transform(800, 1333))  # doctest: +SKIP
        >>> batches = (collate([data[k]]) for k in range(300))  # doctest: +SKIP
        >>> path = quantize_onnx("detector.onnx", "int8.onnx", batches)  # doctest: +SKIP
    """
    quantization = import_package("onnxruntime.quantization", "export")
    onnx = import_package("onnx", "export")
    detector = ExportedDetector(path)
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quantization.quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        file = onnx.load(prepared)
        reader = CalibrationReader(detector, batches)
        quantization.quantize_static(
            prepared,
            quantized,
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(LAYERS),
            nodes_to_exclude=[node.name for node in file.graph.node if _is_kept(node, keep)],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        result = onnx.load(quantized)
    onnx.helper.set_model_props(result, {**read_properties(path), "precision": "int8"})
    with atomic_path(output) as temporary:
        onnx.save(result, temporary)
    return Path(output)


def _is_kept(node: Any, keep: Sequence[str]) -> bool:
    return node.op_type in LAYERS and any(part in f"{name}." for name in node.input[1:] for part in keep)


class CalibrationReader:
    """Gives a graph its inputs, batch by batch, as onnxruntime's ``CalibrationDataReader``."""

    def __init__(self, detector: ExportedDetector, batches: Iterable[Batch]) -> None:
        self.rows: Iterator[dict[str, np.ndarray[Any, Any]]] = (
            inputs for batch in batches for inputs in detector.inputs_of(batch)
        )
        first = next(self.rows, None)
        if first is None:
            raise ValueError("no images to calibrate with: give some hundred of the training data")
        self.first: dict[str, np.ndarray[Any, Any]] | None = first

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The next inputs, or None after the last ones."""
        if self.first is not None:
            first, self.first = self.first, None
            return first
        return next(self.rows, None)
