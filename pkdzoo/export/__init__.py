"""Detectors in files that run without pkdzoo: ONNX, OpenVINO, LiteRT, and programs of ``torch.export``.

Each format has one function:

    pkdzoo.export.export_onnx(model, "detector.onnx")          # for onnxruntime and others
    pkdzoo.export.export_openvino(model, "detector.xml")       # for OpenVINO
    pkdzoo.export.export_litert(model, "detector.tflite", FixedSize(640, 640))
    pkdzoo.export.export_program(model, "detector.pt2")        # for torch.export.load
    pkdzoo.export.ExportedDetector("detector.onnx").predict("street.jpg")
"""

from pkdzoo.export.exported import ExportedDetector
from pkdzoo.export.graphs import WHAT, What, build_graph
from pkdzoo.export.litert_file import export_litert
from pkdzoo.export.nms import survivors
from pkdzoo.export.onnx_file import export_onnx
from pkdzoo.export.openvino_file import export_openvino
from pkdzoo.export.program import FixedSize, export_program, metadata_of, trace_graph
from pkdzoo.export.quantize import quantize_onnx
from pkdzoo.export.quantize_openvino import quantize_openvino

__all__ = [
    "WHAT",
    "ExportedDetector",
    "FixedSize",
    "What",
    "build_graph",
    "export_litert",
    "export_onnx",
    "export_openvino",
    "export_program",
    "metadata_of",
    "quantize_onnx",
    "quantize_openvino",
    "survivors",
    "trace_graph",
]
