"""OpenVINO files in int8, quantized by NNCF, the way that OpenVINO recommends. docs/deploy.md compares both ways."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from pkdzoo.export.exported import ExportedDetector
from pkdzoo.export.openvino_file import save_openvino
from pkdzoo.export.quantize import CalibrationReader
from pkdzoo.export.sessions import ROOM, import_package
from pkdzoo.structures import Batch
from pkdzoo.utils.loggers import errors_only, root_logger_kept

LAYERS = ("Convolution", "GroupConvolution", "MatMul")


def quantize_openvino(path: str | Path, output: str | Path, batches: Iterable[Batch], keep: Sequence[str] = ()) -> Path:
    """Write an int8 copy of an exported OpenVINO file.

    Args:
        path: file of :func:`pkdzoo.export.export_openvino` with detections, in float32.
        output: the file to write; it ends in ``.xml``.
        batches: some hundred images as the detector sees them, from its training data. Their pixels are held in memory.
        keep: layers whose weights have one of these texts in their name stay in float32, e.g. ``KEPT["predictors"]``.

    Returns:
        The path of the output.

    Raises:
        ImportError: without the extra ``nncf``.
        ValueError: without images, and as :class:`pkdzoo.export.ExportedDetector`.

    Example:
        >>> from pkdzoo.data import collate, eval_transform, open_dataset
        >>> from pkdzoo.export import quantize_openvino
        >>> data = open_dataset("cells", "train", transform=eval_transform(800, 1333))  # doctest: +SKIP
        >>> batches = (collate([data[k]]) for k in range(300))  # doctest: +SKIP
        >>> path = quantize_openvino("detector.xml", "int8.xml", batches)  # doctest: +SKIP
    """
    with _quiet():
        nncf: Any = import_package("nncf", "nncf")
    openvino: Any = import_package("openvino", "openvino")
    reader = CalibrationReader(ExportedDetector(path), batches)
    rows = list(iter(reader.get_next, None))
    model = openvino.Core().read_model(path)
    kept = [op.get_friendly_name() for op in model.get_ops() if _is_kept(op, keep)]
    with _quiet():
        quantized = nncf.quantize(
            model,
            nncf.Dataset(rows),
            subset_size=len(rows),
            preset=nncf.QuantizationPreset.MIXED,  # activations may be asymmetric, as after SiLU
            ignored_scope=nncf.IgnoredScope(names=kept) if kept else None,
        )
    quantized.set_rt_info("int8", [ROOM, "precision"])
    return save_openvino(quantized, Path(output), half=False)


def _is_kept(op: Any, keep: Sequence[str]) -> bool:
    if op.get_type_name() not in LAYERS or not keep:
        return False
    source = op.input_value(1).get_node()
    while source.get_type_name() != "Constant" and source.get_input_size():
        source = source.input_value(0).get_node()  # e.g. a conversion of its type
    return any(part in f"{source.get_friendly_name()}." for part in keep)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without NNCF's messages and progress bars, which go to standard output."""
    with root_logger_kept(), errors_only("nncf"), redirect_stdout(io.StringIO()):
        yield
