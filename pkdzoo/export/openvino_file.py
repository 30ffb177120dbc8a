"""A detector as an OpenVINO IR, converted from its ONNX graph by OpenVINO's own converter."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pkdzoo.export.graphs import What
from pkdzoo.export.onnx_file import export_onnx, read_properties
from pkdzoo.export.program import FixedSize, check_suffix, graph_of
from pkdzoo.export.sessions import ROOM, first_line, import_package
from pkdzoo.models.detector import Detector
from pkdzoo.utils.files import atomic_path
from pkdzoo.utils.loggers import root_logger_kept


def export_openvino(
    model: Detector,
    path: str | Path,
    what: What = "detections",
    threshold: float | None = None,
    nms_threshold: float | None = None,
    max_detections: int | None = None,
    fixed: FixedSize | None = None,
    half: bool = False,
) -> Path:
    """Write a detector as ``.xml`` with its weights in a ``.bin`` beside it.

    Inputs, outputs and arguments are those of :func:`pkdzoo.export.export_onnx`; the metadata stands in the file's
    ``rt_info`` below ``pkdzoo``.

    Args:
        model: the detector, which is not changed.
        path: the file to write; it ends in ``.xml``.
        what: ``detections``, ``dense`` or ``features``.
        threshold: lowest score, 0..1; None means the detector's own threshold.
        nms_threshold: IoU above which NMS drops the box with the lower score; None means the detector's own.
        max_detections: rows of detections per image; None means the detector's own.
        fixed: the only shape of the images; None leaves number and size open.
        half: store the weights in float16, which halves the file; OpenVINO computes on a CPU in float32 all the same.

    Returns:
        The path.

    Raises:
        ImportError: without the extra ``openvino``.
        ValueError: for another suffix, or if this kind of detector does not have ``what``.

    Example:
        >>> import pkdzoo
        >>> from pkdzoo.export import export_openvino
        >>> model = pkdzoo.create_detector("fcos_r18w24", pretrained=True)
        >>> path = export_openvino(model, "detector.xml")  # doctest: +SKIP
    """
    path = Path(path)
    check_suffix(path, ".xml")
    limits = (threshold, nms_threshold, max_detections)
    graph_of(model, what, *limits, fixed)  # refuses what cannot be exported before it asks for a package
    import_package("openvino", "openvino")
    with tempfile.TemporaryDirectory() as folder:
        graph = export_onnx(model, Path(folder) / "graph.onnx", what, *limits, fixed)
        return convert_onnx(graph, path, half)


def convert_onnx(graph: str | Path, path: str | Path, half: bool = False) -> Path:
    """Write an ONNX file as OpenVINO IR, with its metadata.

    Args:
        graph: the ONNX file.
        path: the file to write; it ends in ``.xml``.
        half: store the weights in float16.

    Returns:
        The path.

    Raises:
        ImportError: without the extra ``openvino``.
        ValueError: for an operation that the converter does not know; its message names it.
    """
    openvino: Any = import_package("openvino", "openvino")
    try:
        with root_logger_kept():
            converted = openvino.convert_model(graph)
    except Exception as error:  # it has several classes of its own, not all of them RuntimeErrors
        unknown = re.search(r"No conversion rule found for operations: (.+)", str(error))
        reason = f"it does not know {unknown[1].strip()}" if unknown else first_line(error)
        raise ValueError(f"OpenVINO's converter refuses the graph: {reason}; export it as onnx") from error
    for key, value in read_properties(graph).items():
        converted.set_rt_info(value, [ROOM, key])
    return save_openvino(converted, Path(path), half)


def save_openvino(model: Any, path: Path, half: bool) -> Path:
    """Write an OpenVINO model as ``.xml`` with its weights in a ``.bin`` beside it; both are whole or not there.

    Args:
        model: an ``openvino.Model``.
        path: the file to write; it ends in ``.xml``.
        half: store the weights in float16.

    Returns:
        The path.
    """
    openvino: Any = import_package("openvino", "openvino")
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / path.name
        openvino.save_model(model, new, compress_to_fp16=half)
        path.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".bin", ".xml"):  # the .xml last: it is the file that a reader opens
            with atomic_path(path.with_suffix(suffix)) as temporary:
                shutil.copyfile(new.with_suffix(suffix), temporary)
    return path
