"""The generated index of the built-in detectors: everything about them that can be known without importing torch.

``_zoo_index.json`` lies beside this file. ``python -m pkdzoo.maintain zoo`` writes it from what the families register;
a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkdzoo.hub.weights import Distilled, Weights
from pkdzoo.utils.files import read_json

INDEX_FILE = Path(__file__).with_name("_zoo_index.json")


@dataclass(frozen=True)
class IndexRow:
    """One built-in architecture.

    Attributes:
        family: e.g. ``retina``.
        module: that registers it, e.g. ``pkdzoo.models.retina``.
        num_classes: number of classes without weights.
        params: millions of parameters for ``num_classes``.
        gflops: billions of multiply-adds of one image of 1333 x 800.
        parameters: exact number of parameters by number of classes: ``num_classes``, and those of the weights.
        resize: (short, long) side in pixels that images are scaled to.
        channel_order: ``rgb`` or ``bgr``.
        postprocess: fields of :class:`pkdzoo.structures.PostProcess`.
        weights: its sets of weights.
        distilled: its teacher, for the student of a pair.
    """

    family: str
    module: str
    num_classes: int
    params: float
    gflops: float
    parameters: Mapping[int, int]
    resize: tuple[int, int]
    channel_order: str
    postprocess: Mapping[str, Any]
    weights: tuple[Weights, ...] = ()
    distilled: Distilled | None = None


def read_index(path: Path = INDEX_FILE) -> dict[str, IndexRow]:
    """The rows of an index file by architecture."""
    return {name: _row(content) for name, content in read_json(path).items()}


def _row(content: Mapping[str, Any]) -> IndexRow:
    pair = content.get("distilled")
    return IndexRow(
        **{
            **content,
            "parameters": {int(classes): count for classes, count in content["parameters"].items()},
            "resize": tuple(content["resize"]),
            "weights": tuple(Weights(**_with_tuples(row)) for row in content.get("weights", ())),
            "distilled": None if pair is None else Distilled(**_with_tuples(pair)),
        }
    )


def _with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where the rows of weights and pairs have tuples."""
    return {
        key: tuple(value) if isinstance(value, list) else _with_tuples(value) if isinstance(value, dict) else value
        for key, value in fields.items()
    }


INDEX = read_index()
