"""Files run by onnxruntime or OpenVINO, with one interface: arrays in, arrays by name out, and the metadata."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pkdzoo.utils.text import install_line

SUFFIXES = (".onnx", ".xml")
ROOM = "pkdzoo"  # of our metadata in an OpenVINO file
KEYS = ("precision", "batch", "config", "label_names", "outputs", "resize")  # see pkdzoo.export.program


class Session(Protocol):
    """A loaded file.

    Attributes:
        metadata: texts by name, see :mod:`pkdzoo.export.program`.
        outputs: names of the results.
    """

    metadata: dict[str, str]
    outputs: tuple[str, ...]

    def run(self, images: NDArray[np.uint8], sizes: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Results by name, of images (B, 3, H, W) and their (height, width) inside the padding (B, 2)."""
        ...


class OnnxSession:
    """A file that onnxruntime runs on the CPU."""

    def __init__(self, path: Path, threads: int | None) -> None:
        onnxruntime = import_package("onnxruntime", "export")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception of its own for every status
            raise ValueError(f"{path} is no file that onnxruntime can run: {first_line(error)}") from error
        self.metadata = dict(self.session.get_modelmeta().custom_metadata_map)
        self.outputs = tuple(output.name for output in self.session.get_outputs())

    def run(self, images: NDArray[np.uint8], sizes: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """See :class:`Session`."""
        results = self.session.run(list(self.outputs), {"images": images, "sizes": sizes})
        return dict(zip(self.outputs, results))


class OpenVinoSession:
    """A file that OpenVINO runs on the CPU."""

    def __init__(self, path: Path, threads: int | None) -> None:
        openvino = import_package("openvino", "openvino")
        core = openvino.Core()
        try:
            model = core.read_model(path)
            # Without a word OpenVINO computes in bfloat16 where the CPU can, which moves boxes by a tenth of a pixel.
            settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
            if threads is not None:
                settings["INFERENCE_NUM_THREADS"] = threads
            self.compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ValueError(f"{path} is no file that OpenVINO can run: {first_line(error)}") from error
        present = [key for key in KEYS if model.has_rt_info([ROOM, key])]
        self.metadata = {key: str(model.get_rt_info([ROOM, key]).value) for key in present}
        self.outputs = tuple(output.get_any_name() for output in self.compiled.outputs)

    def run(self, images: NDArray[np.uint8], sizes: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """See :class:`Session`."""
        results = self.compiled({"images": images, "sizes": sizes})
        return {name: np.asarray(value) for name, value in zip(self.outputs, results.values())}


def open_session(path: str | Path, threads: int | None = None) -> Session:
    """Load a file.

    Args:
        path: ends in ``.onnx``, or in ``.xml`` with the weights in a ``.bin`` beside it.
        threads: of the CPU; None leaves the choice to the runtime.

    Raises:
        FileNotFoundError: when there is none.
        ImportError: without the runtime; the message has the line that installs it.
        ValueError: for another suffix, and for a file that is not what its suffix says.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: write a file that ends in {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: write it with `pkdzoo export`")
    if path.suffix == ".onnx":
        return OnnxSession(path, threads)
    with path.open("rb") as file:  # OpenVINO itself would run an ONNX file of this name
        if not file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
            raise ValueError(f"{path} is no file that OpenVINO can run: it is no XML, whatever its name says")
    return OpenVinoSession(path, threads)


def import_package(name: str, extra: str) -> Any:
    """Import an optional package.

    Raises:
        ImportError: with the line that installs the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"this needs {name}: {install_line(extra)}") from None


def first_line(error: Exception) -> str:
    """The first line of an error's message that is not empty, shortened."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
