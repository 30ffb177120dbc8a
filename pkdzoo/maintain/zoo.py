"""Writes ``pkdzoo/models/_zoo_index.json``, the index of the built-in detectors, from what their families register.

Every architecture is built on torch's meta device, which allocates nothing, and its parameters and multiply-adds are
counted; rows of detectors whose library is not installed stay as they are. After a change to the fields of the index,
replace the file's content by ``{}`` first.
"""

from __future__ import annotations

import json
import pkgutil
from dataclasses import MISSING, asdict, fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pkdzoo import models
from pkdzoo.data.labels import label_names
from pkdzoo.models._factory import create_detector
from pkdzoo.models._registry import Entry, drop_unindexed, entries
from pkdzoo.models._zoo_index import INDEX, INDEX_FILE, read_index
from pkdzoo.models._zoo_table import measure
from pkdzoo.models.backbones.timm_networks import is_timm
from pkdzoo.models.detector import Detector
from pkdzoo.utils.files import read_json, write_text


def registered() -> list[Entry]:
    """All entries that the modules of :mod:`pkdzoo.models` register, whether the index has them or not."""
    for module in pkgutil.iter_modules(models.__path__):
        if not module.name.startswith("_"):
            import_module(f"pkdzoo.models.{module.name}")
    return [entry for entry in entries() if entry.is_complete]


def index_row(entry: Entry) -> dict[str, Any]:
    """The content of one row, see :class:`pkdzoo.models._zoo_index.IndexRow`."""
    model = _build(entry.name)
    classes = sorted({model.num_classes, *(len(label_names(w.labels)) for w in entry.weights)})
    params, gflops = measure(entry.name)
    row: dict[str, Any] = {
        "family": entry.family,
        "module": entry.build.__module__,
        "num_classes": model.num_classes,
        "params": params,
        "gflops": gflops,
        "parameters": {
            str(n): _parameters(model if n == model.num_classes else _build(entry.name, n)) for n in classes
        },
        "resize": list(model.resize),
        "channel_order": model.channel_order,
        "postprocess": asdict(model.postprocess_config),
    }
    if entry.weights:
        row["weights"] = [_changed_fields(weights) for weights in entry.weights]
    if entry.distilled is not None:
        row["distilled"] = _changed_fields(entry.distilled)
    return row


def can_build(entry: Entry) -> bool:
    """Whether the library of the backbone is installed."""
    return not is_timm(entry.args.get("backbone")) or find_spec("timm") is not None


def old_row(entry: Entry) -> dict[str, Any]:
    """The row that the index has already, of a detector that cannot be built here."""
    row: dict[str, Any] | None = read_json(INDEX_FILE).get(entry.name)
    if row is None:
        raise ValueError(f"{entry.name} needs timm to be counted: pip install timm")
    return row


def write_zoo_index(path: Path = INDEX_FILE) -> None:
    """Write the index of everything that is registered."""
    rows = {entry.name: index_row(entry) if can_build(entry) else old_row(entry) for entry in registered()}
    lines = [f"{json.dumps(name)}: {json.dumps(row, ensure_ascii=False)}" for name, row in rows.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    INDEX.clear()  # for generators that run next in this process
    INDEX.update(read_index(path))
    drop_unindexed()


def _build(name: str, num_classes: int | None = None) -> Detector:
    with torch.device("meta"):
        return create_detector(name, num_classes=num_classes)


def _parameters(model: Detector) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _changed_fields(row: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults."""
    defaults = {
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(row)
    }
    return {key: value for key, value in asdict(row).items() if value != defaults[key]}
