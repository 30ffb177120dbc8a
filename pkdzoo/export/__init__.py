"""Detectors in files that run without pkdzoo: ONNX, and programs of ``torch.export``.

Each format has one function:

    pkdzoo.export.export_onnx(model, "detector.onnx")          # for onnxruntime and others
    pkdzoo.export.export_program(model, "detector.pt2")        # for torch.export.load
"""

from pkdzoo.export.graphs import WHAT, What, build_graph
from pkdzoo.export.nms import survivors
from pkdzoo.export.onnx_file import export_onnx
from pkdzoo.export.program import export_program, metadata_of, trace_graph

__all__ = [
    "WHAT",
    "What",
    "build_graph",
    "export_onnx",
    "export_program",
    "metadata_of",
    "survivors",
    "trace_graph",
]
