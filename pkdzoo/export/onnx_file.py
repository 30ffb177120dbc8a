"""A detector as one ONNX file, for any number and size of images, or for one size without operations on shapes."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pkdzoo.export.graphs import Graph, What
from pkdzoo.export.nms import onnx_translations
from pkdzoo.export.program import DIVISOR, FixedSize, check_suffix, graph_of, trace_graph
from pkdzoo.models.detector import Detector
from pkdzoo.utils.files import atomic_path
from pkdzoo.utils.text import install_line

if TYPE_CHECKING:
    import onnx

OPSET = 20  # DeformConv needs 19
LARGE = 1024  # elements; smaller tensors stay in float32


def export_onnx(
    model: Detector,
    path: str | Path,
    what: What = "detections",
    threshold: float | None = None,
    nms_threshold: float | None = None,
    max_detections: int | None = None,
    fixed: FixedSize | None = None,
    half: bool = False,
) -> Path:
    """Write a detector as an ONNX file; ``recipes/onnx_infer.py`` shows how to use it.

    Its inputs are ``images`` (B, 3, H, W) uint8, RGB (or of as many channels as the detector takes), H and W multiples
    of 32, and ``sizes`` (B, 2) int64, height and width of each image inside the padding. The graph normalizes the
    pixels. Label names and the resize are in the file's metadata, see :mod:`pkdzoo.export.program`. TOOD, RepPoints and
    deformable backbones use DeformConv of opset 19, which needs onnxruntime 1.25 or later.

    Args:
        model: the detector, which is not changed.
        path: the file to write; it ends in ``.onnx``.
        what: ``detections`` gives ``boxes`` (B, max_detections, 4) xyxy in pixels of ``images``, ``scores``, ``labels``
            and ``counts`` (B,), the number of detections of each image. The best come first; unused rows are zero and
            have label -1. Mask R-CNN adds ``masks`` (B, max_detections, 28, 28), probabilities inside each box.
            ``dense`` gives ``boxes`` (B, P, 4) and ``scores`` (B, P, C) of all priors without NMS, for one-stage
            detectors. ``features`` gives the levels of the pyramid.
        threshold: lowest score, 0..1; None means the detector's own threshold.
        nms_threshold: IoU above which NMS drops the box with the lower score; None means the detector's own.
        max_detections: rows of detections per image; None means the detector's own.
        fixed: the only shape of the images; None leaves number and size open. A graph of fixed size has no operations
            on shapes, which compilers for small devices refuse.
        half: store the weights in float16, which halves the file; a CPU computes in float32 all the same.

    Returns:
        The path.

    Raises:
        ImportError: without the extra ``export``, or with torch 2.6.
        ValueError: for another suffix, if this kind of detector does not have ``what``, or a weight is beyond float16.

    Example:
        >>> import pkdzoo
        >>> from pkdzoo.export import ExportedDetector, export_onnx
        >>> model = pkdzoo.create_detector("fcos_r18w24", pretrained=True)
        >>> path = export_onnx(model, "detector.onnx")  # doctest: +SKIP
        >>> result = ExportedDetector(path).predict("street.jpg")  # doctest: +SKIP
    """
    check_suffix(path, ".onnx")
    graph, metadata = graph_of(model, what, threshold, nms_threshold, max_detections, fixed)  # first: it may refuse
    check_onnx()
    import onnx

    file = translate(graph, fixed)
    if half:
        halve(file)
    onnx.helper.set_model_props(file, metadata)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        onnx.save(file, temporary)
    return Path(path)


def check_onnx() -> None:
    """Raise ImportError, with the line that installs what is missing, if this environment cannot write ONNX files."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"ONNX files need {error.name}: {install_line('export')}") from None
    if torch.__version__.startswith("2.6."):  # its exporter fails on the pyramid's interpolation to a dynamic size
        raise ImportError(
            "the ONNX exporter of torch 2.6 does not support dynamic sizes: pip install -U torch torchvision"
        )


def translate(graph: Graph, fixed: FixedSize | None = None) -> onnx.ModelProto:
    """A graph in ONNX, without metadata; ``fixed`` as in :func:`pkdzoo.export.trace_graph`."""
    program = trace_graph(graph, fixed)
    with _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["images", "sizes"],
            output_names=list(graph.outputs),
            custom_translation_table=onnx_translations(),
            opset_version=OPSET,
            verbose=False,
        )
    assert exported is not None
    file = exported.model_proto
    _clean(file)
    return file


def halve(file: onnx.ModelProto) -> None:
    """Store the large float32 tensors of a file in float16, each followed by a conversion to float32.

    Raises:
        ValueError: for a weight that float16 cannot hold.
    """
    import onnx

    casts = []
    for tensor in file.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) < LARGE:
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        if abs(values).max() > np.finfo(np.float16).max:
            raise ValueError(f"{name} has a weight beyond float16: export without half")
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *file.graph.node]
    del file.graph.node[:]
    file.graph.node.extend(nodes)


def read_properties(path: str | Path) -> dict[str, str]:
    """The metadata of an ONNX file, without its tensors being parsed by a runtime."""
    import onnx

    return {row.key: row.value for row in onnx.load(path, load_external_data=False).metadata_props}


def _clean(file: onnx.ModelProto) -> None:
    """Remove metadata about the exporting machine, and rename the dynamic sides to ``batch``, ``h`` and ``w``."""
    for part in (file.graph, *file.functions):
        for node in part.node:
            del node.metadata_props[:]
            node.doc_string = ""
        del part.value_info[:]  # shapes of intermediate values, which a runtime infers itself
    del file.graph.metadata_props[:]
    names = {}
    for axis, name in ((0, "batch"), (2, "h"), (3, "w")):
        side = file.graph.input[0].type.tensor_type.shape.dim[axis].dim_param
        if side:  # empty where the size is fixed
            names[side.removeprefix(f"{DIVISOR}*")] = name
    for value in (*file.graph.input, *file.graph.output):
        del value.metadata_props[:]
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = re.sub(r"[A-Za-z_]\w*", lambda match: names.get(match[0], match[0]), side.dim_param)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings and log messages of the exporter; errors are still raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
