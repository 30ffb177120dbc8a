"""A detector's graph as a program of ``torch.export``, for any number and size of images, and what a file says of it.

A file carries these facts, each a text of its own (``metadata_props`` of ONNX, ``extra_files`` of a .pt2):

    label_names    JSON list; place i is what label i means
    resize         JSON: {"short": 800, "long": 1333, "interpolation": "bilinear", "antialias": false, "divisor": 32}
                   scale by min(long / longer side, short / shorter side), each side rounded to the nearest pixel; pad
                   at the right and the bottom to multiples of the divisor; nothing else: the pixels stay RGB, 0 to 255
    outputs        "features", "dense" or "detections"
    config         JSON: what config.json of a saved detector holds, thresholds included
"""

from __future__ import annotations

import copy
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config
from torch.nn.attention import SDPBackend, sdpa_kernel

from pkdzoo.export.graphs import Graph, What, build_graph
from pkdzoo.models._config import describe
from pkdzoo.models.detector import Detector
from pkdzoo.structures import PostProcess
from pkdzoo.utils.files import atomic_path

DIVISOR = 32
# Sides from which no level of the pyramid is one cell high or as wide as it is high: torch takes either for a fact that
# holds for all sizes. Nothing is computed on them.
EXAMPLE = (2, 320, 448)
LARGEST = 512  # sides in units of the divisor: 16384 pixels


def trace_graph(graph: Graph) -> ExportedProgram:
    """The program of a graph, with batch, height and width left open.

    Args:
        graph: in eval mode, on the CPU.

    Returns:
        A program of ``images`` (B, 3, H, W) uint8, H and W multiples of 32, and ``sizes`` (B, 2) int64. Where its lines
        come from is struck out of it: that would be paths of this machine.
    """
    count, height, width = EXAMPLE
    channels = len(graph.model.pixel_mean)
    images = torch.zeros(count, channels, height, width, dtype=torch.uint8)
    sizes = torch.tensor([[height, width]] * count)
    batch = Dim("batch", min=1, max=4096)
    sides = {2: DIVISOR * Dim("h", min=1, max=LARGEST), 3: DIVISOR * Dim("w", min=1, max=LARGEST)}
    # The other kernels of attention lay their result out differently, which the ONNX translation stumbles over.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _open_sizes():
        program = torch.export.export(
            graph, (images, sizes), dynamic_shapes=({0: batch, **sides}, {0: batch}), strict=False
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _open_sizes() -> AbstractContextManager[None]:
    """Where torch can (from 2.7): no rule that a level has more than one cell, which the example's levels have.

    ``torch.onnx.export`` traces with the same switch.
    """
    if not hasattr(_config, "backed_size_oblivious"):
        return nullcontext()
    return cast(AbstractContextManager[None], cast(Any, _config).patch(backed_size_oblivious=True))


def graph_of(
    model: Detector, what: What, threshold: float | None, nms_threshold: float | None, max_detections: int | None
) -> tuple[Graph, dict[str, str]]:
    """A graph of a copy of the detector, on the CPU and in eval mode, and the facts that belong to it."""
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    given = {"score_threshold": threshold, "nms_threshold": nms_threshold, "max_detections": max_detections}
    changes = {key: value for key, value in given.items() if value is not None}
    model.postprocess_config = PostProcess(**{**vars(model.postprocess_config), **changes})
    return build_graph(model, what, lowest=threshold).eval(), facts_of(model, what)


def facts_of(model: Detector, what: What) -> dict[str, str]:
    """What a file says about the detector in it; see the head of this file."""
    short, long = model.resize
    resize = {"short": short, "long": long, "interpolation": "bilinear", "antialias": False, "divisor": DIVISOR}
    return {
        "label_names": json.dumps(list(model.label_names), ensure_ascii=False),
        "resize": json.dumps(resize),
        "outputs": what,
        "config": json.dumps(describe(model), ensure_ascii=False),
    }


def export_program(
    model: Detector,
    path: str | Path,
    what: What = "features",
    threshold: float | None = None,
    nms_threshold: float | None = None,
    max_detections: int | None = None,
) -> Path:
    """Write a detector as a ``.pt2`` file, which ``torch.export.load(path).module()`` opens without pkdzoo.

    Programs with a head refuse images of at most 128 x 128 pixels: torch keeps it for a rule that the
    coarsest level has more than one cell. One of ``detections`` needs ``import pkdzoo.export`` first, which
    brings the suppression.

    Args:
        model: stays as it is.
        path: of the file.
        what: ``features`` (backbone and neck), ``dense`` (boxes and scores everywhere, no suppression; one-stage
            detectors) or ``detections``. See :mod:`pkdzoo.export.graphs` for inputs and outputs.
        threshold: lowest score, 0..1; None means the detector's own threshold.
        nms_threshold: IoU above which a worse box of the same class is dropped.
        max_detections: rows of detections an image.

    Returns:
        The path.

    Raises:
        ValueError: for something that this kind of detector cannot give.

    Example:
        >>> import torch, pkdzoo
        >>> from pkdzoo.export import export_program
        >>> path = export_program(pkdzoo.create_detector("retina_r10w16"), "body.pt2")
        >>> facts = {"label_names": "", "resize": ""}
        >>> body = torch.export.load(path, extra_files=facts).module()
        >>> images, sizes = torch.zeros(1, 3, 64, 96, dtype=torch.uint8), torch.tensor([[64, 90]])
        >>> [tuple(level.shape[1:]) for level in body(images, sizes)]
        [(64, 8, 12), (64, 4, 6), (64, 2, 3), (64, 1, 2), (64, 1, 1)]
    """
    graph, facts = graph_of(model, what, threshold, nms_threshold, max_detections)
    program = trace_graph(graph)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as arriving:
        torch.export.save(program, arriving, extra_files=dict[str, Any](facts))
    return Path(path)
