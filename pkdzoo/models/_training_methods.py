"""``fit``, ``evaluate`` and ``export`` of a detector: functions of higher layers, imported when they are called."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pkdzoo.utils.lazy import call_by_name
from pkdzoo.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from typing_extensions import Self

LIMITS = ("threshold", "nms_threshold", "max_detections")
EXPORT_OPTIONS = {"onnx": (*LIMITS, "half"), "openvino": (*LIMITS, "half"), "program": LIMITS, "litert": ()}


class TrainingMethods:
    """Methods of :class:`pkdzoo.Detector` that train, evaluate and export it."""

    def fit(
        self,
        data: str | Path,
        output: str | Path | None = None,
        time: str | None = None,
        set: tuple[str, ...] | list[str] = (),
        cpu: bool = False,
        threads: int | None = None,
    ) -> Self:
        """Train this detector on labeled images, from the weights that it has.

        Afterward it has the weights of the best epoch and the classes of the data. Size, batch, learning rate and
        schedule are chosen as by :func:`pkdzoo.distill`.

        Args:
            data: folder of labeled images in one of the layouts of docs/own_data.md, or a ``data.yaml``. Without a
                validation split, a fifth of the images is held out.
            output: folder of the run; None means ``runs/NAME-DATA``.
            time: fits the training into e.g. ``30m``; None takes as long as the data needs.
            set: overrides of recipe fields, as in ``("optim.lr=0.005",)``.
            cpu: train on the CPU even if there is a GPU.
            threads: CPU threads; None leaves the choice to the run.

        Returns:
            This detector, in eval mode.

        Raises:
            ValueError: for data that cannot be trained on, a folder that holds something else, and as
                ``pkdzoo train``.

        Example:
            >>> import pkdzoo
            >>> model = pkdzoo.create_detector("retina_r10w16")
            >>> model.fit("photos", time="soon")  # it would train with time="30m"
            Traceback (most recent call last):
                ...
            ValueError: 'soon' is no time: write e.g. 30m, 2h, 90s or 1h30m
        """
        call_by_name("pkdzoo.training.own_data.fit:fit", self, data, output, time, list(set), cpu, threads)
        return self

    def evaluate(
        self, data: str | Path, split: str = "val", batch_size: int = 1, workers: int = 0, cpu: bool = False
    ) -> dict[str, Any]:
        """Evaluate this detector.

        Args:
            data: folder of labeled images in one of the layouts of docs/own_data.md, with the detector's classes.
            split: ``train``, ``val`` or ``test``. Without a validation split, ``val`` is what ``fit`` holds out.
            batch_size: images per forward pass; published numbers are measured with 1.
            workers: loader processes.
            cpu: evaluate on the CPU even if there is a GPU.

        Returns:
            COCO's twelve metrics in percent, ``per_class`` AP, and ``best_f1``, the threshold with the highest F1.

        Raises:
            ValueError: for a split that is missing or has other classes.

        Example:
            >>> import tempfile, pkdzoo
            >>> from pkdzoo.data import make_shapes
            >>> from pkdzoo.data.synthetic import CLASSES
            >>> shapes = make_shapes(tempfile.mkdtemp(), train=1, val=2, size=(64, 96))
            >>> model = pkdzoo.create_detector("retina_r10w16", label_names=CLASSES, resize=(64, 96))
            >>> list(model.evaluate(shapes, cpu=True))[:3]
            ['AP', 'AP50', 'AP75']
        """
        found = call_by_name("pkdzoo.training.own_data.fit:evaluate", self, data, split, batch_size, workers, cpu)
        return cast("dict[str, Any]", found)

    def export(
        self,
        path: str | Path,
        what: Literal["features", "dense", "detections"] | None = None,
        size: int | tuple[int, int] | None = None,
        **options: Any,
    ) -> Path:
        """Write this detector as a file that runs without pkdzoo, in the format of the file's ending.

        Args:
            path: of the file: ``.onnx``, ``.xml`` (OpenVINO), ``.tflite`` (LiteRT) or ``.pt2`` (``torch.export``).
            what: outputs of the file, see ``pkdzoo export --help``; None means ``detections`` (LiteRT: ``dense``).
            size: one side or (height, width) in pixels, multiples of 32, of the only images that the file takes; None
                leaves the size open. LiteRT needs it.
            options: ``threshold``, ``nms_threshold``, ``max_detections``; for ONNX and OpenVINO ``half``, too.

        Returns:
            The file.

        Raises:
            TypeError: for an option that the format does not have.
            ValueError: for an ending of no format, or what the format cannot do.
            ImportError: without the packages of the extra ``export``, ``openvino`` or ``litert``.

        Example:
            >>> import pkdzoo
            >>> pkdzoo.create_detector("retina_r10w16").export("mine.engine")
            Traceback (most recent call last):
                ...
            ValueError: mine.engine: write a file that ends with .onnx, .xml, .tflite or .pt2
        """
        formats = {".onnx": "onnx", ".xml": "openvino", ".tflite": "litert", ".pt2": "program"}
        kind = formats.get(Path(path).suffix) if isinstance(path, (str, Path)) else None
        if kind is None:
            raise ValueError(f"{path}: write a file that ends with .onnx, .xml, .tflite or .pt2")
        known = EXPORT_OPTIONS[kind]
        for name in options:
            if name not in known:
                hint = did_you_mean(name, known) if known else "It has no options."
                raise TypeError(f"{path}: this format has no option {name!r}. {hint}")
        if kind == "litert" and size is None:
            raise ValueError(f"{path}: LiteRT has no open sizes; write size=640 or size=(height, width)")
        fixed = None if size is None else call_by_name("pkdzoo.export:FixedSize", *sides_of(size))
        what = what or ("dense" if kind == "litert" else "detections")
        call_by_name(f"pkdzoo.export:export_{kind}", self, path, what=what, fixed=fixed, **options)
        return Path(path)


def sides_of(size: Any) -> tuple[int, int]:
    """Height and width of ``size``, which may be one side; numbers of numpy are whole numbers, too.

    Raises:
        ValueError: for anything else.
    """
    sides = list(size) if isinstance(size, (tuple, list)) else [size, size]
    try:
        height, width = (operator.index(side) for side in sides if not isinstance(side, bool))
    except (TypeError, ValueError):
        raise ValueError(f"size={size!r}: write one side or (height, width) in pixels, e.g. size=640") from None
    return height, width
