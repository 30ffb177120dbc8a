"""A detector's graph as a program of ``torch.export``, for any images or for one size, and the file's metadata.

A file has this metadata, each item a text of its own (``metadata_props`` of ONNX, ``extra_files`` of a .pt2):

    label_names    JSON list; item i is the name of label i
    resize         JSON: {"short": 800, "long": 1333, "interpolation": "bilinear", "antialias": false, "divisor": 32}
                   scale by min(long / longer side, short / shorter side), each side rounded to the nearest pixel; pad
                   at the right and the bottom to multiples of the divisor. The pixels stay RGB, 0 to 255.
                   With a "letterbox" (fields of pkdzoo.structures.Letterbox) the image is put on a canvas of its gray
                   value instead, whose size is that of the image for the graph: see recipes/onnx_infer.py
                   With a "canvas" [height, width] every side is scaled by min(height / own height, width / own width)
                   and padded to exactly this size, with zeros (or the letterbox's gray).
    batch          number of images of a graph of fixed size; missing where it is free
    outputs        "features", "dense" or "detections"
    config         JSON: the config.json of a saved detector, thresholds included
"""

from __future__ import annotations

import copy
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config
from torch.nn.attention import SDPBackend, sdpa_kernel

from pkdzoo.export.graphs import Graph, What, build_graph
from pkdzoo.inference.options import check_options, is_whole
from pkdzoo.models._config import describe
from pkdzoo.models.detector import Detector
from pkdzoo.structures import PostProcess
from pkdzoo.utils.files import atomic_path

DIVISOR = 32
# Batch, height and width of the example that is traced. With these sides no level of the pyramid has a side of one
# location or equal sides, which torch would assume for all sizes.
EXAMPLE = (2, 320, 448)
LARGEST = 512  # largest side in units of the divisor: 16384 pixels


@dataclass(frozen=True)
class FixedSize:
    """Shape of the images of a graph that takes no others.

    Attributes:
        height: of the padded images in pixels, a multiple of 32.
        width: likewise.
        batch: number of images.

    Example:
        >>> from pkdzoo.export import FixedSize
        >>> FixedSize(480, 640)
        FixedSize(height=480, width=640, batch=1)
    """

    height: int
    width: int
    batch: int = 1

    def __post_init__(self) -> None:
        sides = (self.height, self.width)
        if not all(is_whole(number) for number in (*sides, self.batch)):
            raise ValueError(f"{self}: write whole numbers, e.g. FixedSize(480, 640)")
        if any(side % DIVISOR or not 0 < side <= DIVISOR * LARGEST for side in sides):
            raise ValueError(
                f"a graph of {self.width} x {self.height} pixels: sides are multiples of {DIVISOR} up to "
                f"{DIVISOR * LARGEST}; write {' x '.join(str(round_up(side)) for side in reversed(sides))}"
            )
        if self.batch < 1:
            raise ValueError(f"batch={self.batch}: write a whole number of images from 1 up")


# Suffix of the files of each format, and what writes them.
FORMATS = {".onnx": "onnx", ".xml": "openvino", ".tflite": "litert", ".pt2": "torch"}
# Suffixes of other files. What else follows a dot is a part of the name: model.v2, yolo-1.5, student.best.
OTHER_SUFFIXES = (".bin", ".ckpt", ".engine", ".json", ".lite", ".pb", ".pt", ".pth", ".safetensors", ".txt", ".zip")


def check_suffix(path: str | Path, suffix: str) -> None:
    """Raise ValueError for a file name with another suffix than the runtimes of the format take."""
    path = Path(path)
    found = path.suffix.lower()
    if path.suffix == suffix:
        return
    name = path.stem if found in (*FORMATS, *OTHER_SUFFIXES) else path.name
    other = f", or export it in the format {FORMATS[found]!r}" if found in FORMATS and found != suffix else ""
    beside = ", with a .bin of the same name beside" if suffix == ".xml" else ""
    raise ValueError(
        f"{path}: files in the format {FORMATS[suffix]!r} end in {suffix}{beside}: write {name}{suffix}{other}"
    )


def round_up(side: int) -> int:
    """The next multiple of 32 from ``side`` on, at least 32 and at most 16384."""
    return min(max(1, -(-side // DIVISOR)), LARGEST) * DIVISOR


def trace_graph(graph: Graph, fixed: FixedSize | None = None) -> ExportedProgram:
    """Trace a graph to a program with dynamic batch, height and width, or for one size.

    Args:
        graph: in eval mode, on the CPU.
        fixed: the only shape of the images; None leaves batch, height and width open.

    Returns:
        A program of ``images`` (B, 3, H, W) uint8, H and W multiples of 32, and ``sizes`` (B, 2) int64. Stack traces
        are removed from it, since they contain paths of this machine.

    Example:
        >>> import pkdzoo
        >>> from pkdzoo.export import FixedSize, build_graph, trace_graph
        >>> model = pkdzoo.create_detector("retina_r10w16").eval()
        >>> type(trace_graph(build_graph(model, "features"), FixedSize(64, 96))).__name__
        'ExportedProgram'
    """
    count, height, width = EXAMPLE if fixed is None else (fixed.batch, fixed.height, fixed.width)
    channels = len(graph.model.pixel_mean)
    images = torch.zeros(count, channels, height, width, dtype=torch.uint8)
    sizes = torch.tensor([[height, width]] * count)
    shapes: Any = None
    if fixed is None:
        batch = Dim("batch", min=1, max=4096)
        sides = {2: DIVISOR * Dim("h", min=1, max=LARGEST), 3: DIVISOR * Dim("w", min=1, max=LARGEST)}
        shapes = ({0: batch, **sides}, {0: batch})
    # The ONNX translation fails on the memory layout that the other attention kernels return.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _dynamic_sizes():
        program = torch.export.export(graph, (images, sizes), dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _dynamic_sizes() -> AbstractContextManager[None]:
    """Do not assume (from torch 2.7 on) that every level has more than one location, as the example's levels have.

    ``torch.onnx.export`` traces with the same setting.
    """
    if not hasattr(_config, "backed_size_oblivious"):
        return nullcontext()
    return cast(AbstractContextManager[None], cast(Any, _config).patch(backed_size_oblivious=True))


def graph_of(
    model: Detector,
    what: What,
    threshold: float | None,
    nms_threshold: float | None,
    max_detections: int | None,
    fixed: FixedSize | None = None,
) -> tuple[Graph, dict[str, str]]:
    """Make the graph of a copy of the detector, on the CPU and in eval mode, and its metadata.

    Raises:
        ValueError: as :func:`build_graph`; for a letterbox on a canvas that is not square; and for thresholds out of
            range, or of outputs before NMS.
    """
    limits = {"threshold": threshold, "nms_threshold": nms_threshold, "max_detections": max_detections}
    given = [name for name, value in limits.items() if value is not None]
    if given and what != "detections":
        raise ValueError(f"{', '.join(given)} has no effect on {what}, which come before NMS: leave it out")
    check_options(limits)
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    if fixed is not None and model.letterbox is not None:
        if fixed.height != fixed.width:
            raise ValueError(
                f"{model.name} puts images on a square canvas: write one side, e.g. --size {fixed.width}, not "
                f"{fixed.width}x{fixed.height}"
            )
        model.letterbox = replace(model.letterbox, canvas="square")
    if fixed is not None:
        model.resize = (min(fixed.height, fixed.width), max(fixed.height, fixed.width))
    thresholds = {"score_threshold": threshold, "nms_threshold": nms_threshold, "max_detections": max_detections}
    changes = {key: value for key, value in thresholds.items() if value is not None}
    model.postprocess_config = PostProcess(**{**vars(model.postprocess_config), **changes})
    return build_graph(model, what, lowest=threshold).eval(), metadata_of(model, what, fixed)


def metadata_of(model: Detector, what: What, fixed: FixedSize | None = None) -> dict[str, str]:
    """Metadata of an exported file, with which it can be used without pkdzoo.

    Args:
        model: the detector.
        what: output of the file: ``features``, ``dense`` or ``detections``.
        fixed: the only shape of the images; None leaves it open.

    Returns:
        Texts, mostly JSON, by name: ``label_names`` (item i is the name of label i), ``resize`` (how an image is scaled
        and padded; the rules are at the top of ``pkdzoo/export/program.py``), ``batch`` (where the shape is fixed),
        ``outputs`` and ``config`` (of a saved detector).

    Example:
        >>> import pkdzoo
        >>> from pkdzoo.export import metadata_of
        >>> metadata_of(pkdzoo.create_detector("retina_r10w16"), "dense")["outputs"]
        'dense'
    """
    short, long = model.resize
    resize: dict[str, Any] = {
        "short": short,
        "long": long,
        "interpolation": "bilinear",
        "antialias": False,
        "divisor": DIVISOR,
    }
    if model.letterbox is not None:
        resize["letterbox"] = asdict(model.letterbox)
    if fixed is not None:
        resize["canvas"] = [fixed.height, fixed.width]
    return {
        **({} if fixed is None else {"batch": str(fixed.batch)}),
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
    fixed: FixedSize | None = None,
) -> Path:
    """Write a detector as a ``.pt2`` file, which ``torch.export.load(path).module()`` opens without pkdzoo.

    Programs with a head do not accept images of at most 128 x 128 pixels: torch assumes that the coarsest level has
    more than one location. A program of ``detections`` needs ``import pkdzoo.export`` first, which registers the NMS
    operation.

    Args:
        model: the detector, which is not changed.
        path: the file to write; it ends in ``.pt2``.
        what: ``features`` (backbone and neck), ``dense`` (boxes and scores of all priors, no NMS; one-stage detectors)
            or ``detections``. See :mod:`pkdzoo.export.graphs` for inputs and outputs.
        threshold: lowest score, 0..1; None means the detector's own threshold.
        nms_threshold: IoU above which NMS drops the box with the lower score; None means the detector's own.
        max_detections: rows of detections per image; None means the detector's own.
        fixed: the only shape of the images; None leaves number and size open.

    Returns:
        The path.

    Raises:
        ValueError: for another suffix, or if this kind of detector does not have ``what``.

    Example:
        >>> import torch, pkdzoo
        >>> from pkdzoo.export import export_program
        >>> path = export_program(pkdzoo.create_detector("retina_r10w16"), "pyramid.pt2")
        >>> facts = {"label_names": "", "resize": ""}
        >>> pyramid = torch.export.load(path, extra_files=facts).module()
        >>> images, sizes = torch.zeros(1, 3, 64, 96, dtype=torch.uint8), torch.tensor([[64, 90]])
        >>> [tuple(level.shape[1:]) for level in pyramid(images, sizes)]
        [(64, 8, 12), (64, 4, 6), (64, 2, 3), (64, 1, 2), (64, 1, 1)]
    """
    check_suffix(path, ".pt2")
    graph, metadata = graph_of(model, what, threshold, nms_threshold, max_detections, fixed)
    program = trace_graph(graph, fixed)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.export.save(program, temporary, extra_files=dict[str, Any](metadata))
    return Path(path)
