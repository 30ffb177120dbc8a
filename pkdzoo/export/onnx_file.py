"""A detector as one ONNX file, for any number and size of images."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pkdzoo.export.graphs import What
from pkdzoo.export.nms import onnx_translations
from pkdzoo.export.program import DIVISOR, graph_of, trace_graph
from pkdzoo.models.detector import Detector
from pkdzoo.utils.files import atomic_path

if TYPE_CHECKING:
    import onnx

OPSET = 20  # 19 brought DeformConv


def export_onnx(
    model: Detector,
    path: str | Path,
    what: What = "detections",
    threshold: float | None = None,
    nms_threshold: float | None = None,
    max_detections: int | None = None,
) -> Path:
    """Write a detector as an ONNX file.

    Its inputs are ``images`` (B, 3, H, W) uint8, RGB, H and W multiples of 32, and ``sizes`` (B, 2) int64, height and
    width of each image inside the padding; normalising is inside. Label names and the resize are in the file's
    metadata, see :mod:`pkdzoo.export.program`. TOOD, RepPoints and deformable backbones use DeformConv of opset 19,
    which onnxruntime knows from 1.25 on.

    Args:
        model: stays as it is.
        path: of the file.
        what: ``detections`` gives ``boxes`` (B, max_detections, 4) xyxy in pixels of ``images``, ``scores``,
            ``labels`` and ``counts`` (B,), how many rows of each image mean something; best first, the
            rest zeros and label -1.
            Mask R-CNN adds ``masks`` (B, max_detections, 28, 28), probabilities inside each box. ``dense`` gives
            ``boxes`` (B, P, 4) and ``scores`` (B, P, C) without suppression, for one-stage detectors. ``features``
            gives the pyramid's maps.
        threshold: lowest score, 0..1; None means the detector's own threshold.
        nms_threshold: IoU above which a worse box of the same class is dropped.
        max_detections: rows of detections an image.

    Returns:
        The path.

    Raises:
        ImportError: without the extra ``export``, or with torch 2.6.
        ValueError: for something that this kind of detector cannot give.

    ``recipes/onnx_infer.py`` shows how the file is used.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f'ONNX files need {error.name}: pip install "pkdzoo[export]"') from None

    if torch.__version__.startswith("2.6."):  # it stops at the pyramid's interpolation to a size that is left open
        raise ImportError("the ONNX exporter of torch 2.6 cannot leave sizes open: pip install -U torch torchvision")
    graph, facts = graph_of(model, what, threshold, nms_threshold, max_detections)
    program = trace_graph(graph)
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
    onnx.helper.set_model_props(file, facts)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as arriving:
        onnx.save(file, arriving)
    return Path(path)


def _clean(file: onnx.ModelProto) -> None:
    """Take out what tells of the machine that exported, and give the open sides names that mean something."""
    for part in (file.graph, *file.functions):
        for node in part.node:
            del node.metadata_props[:]
            node.doc_string = ""
        del part.value_info[:]  # shapes of everything in between, which a runtime infers itself
    del file.graph.metadata_props[:]
    names = {}
    for place, name in ((0, "batch"), (2, "h"), (3, "w")):
        side = file.graph.input[0].type.tensor_type.shape.dim[place].dim_param
        names[side.removeprefix(f"{DIVISOR}*")] = name
    for value in (*file.graph.input, *file.graph.output):
        del value.metadata_props[:]
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), side.dim_param)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks to its own developers; errors are still raised."""
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
