"""The detector's tensors in what training programs store around them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

COMPILED = re.compile(r"(^|\.)_orig_mod\.")  # torch.compile names the module inside it like that
TEACHERS = ("teacher.", "teacher_model.")
RAZOR = ("teachers.", "distiller.", "data_preprocessor.")  # other parts of mmrazor's algorithms, next to the student


def find_tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint: those under ``state_dict`` or ``model``, else those at the top level.

    Raises:
        ValueError: for a checkpoint without tensors, and for names that are not strings.
    """
    for key in ("state_dict", "model"):
        inner = content.get(key)
        if isinstance(inner, Mapping):
            content = inner
            break
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        keys = ", ".join(str(key)[:50] for key in list(content)[:12] if isinstance(key, (str, int)))
        raise ValueError(
            f"no tensors in the checkpoint; its keys are {keys or 'none'}: write the dictionary that holds tensors by "
            "name, as model.state_dict() does"
        )
    if not all(isinstance(key, str) for key in state):
        raise ValueError("the tensors of the checkpoint have names that are not strings: save model.state_dict()")
    return state


def class_names(content: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """The class names in a checkpoint of mmdetection, mmrazor or CrossKD; None if it has none.

    mmdetection 2 writes ``meta.CLASSES``, mmdetection 3 ``meta.dataset_meta.classes``, or ``CLASSES`` there.
    """
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        return None
    of_data = meta.get("dataset_meta")
    places = [meta, of_data] if isinstance(of_data, Mapping) else [meta]
    for names in (place.get(key) for place in places for key in ("classes", "CLASSES")):
        if isinstance(names, str):  # a data set of one class, written without the comma of a tuple
            names = (names,)
        if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return None


def unwrap(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Extract the tensors of the detector from the checkpoint of a training program.

    The tensors are those of :func:`find_tensors`, without the prefixes of ``torch.compile`` (``_orig_mod.``) and of
    parallel training (``module.``). From a distillation checkpoint, only the student is taken:

    - pkdzoo's :class:`pkdzoo.distill.Distiller` stores it under ``student.``, next to ``methods.``; a checkpoint of
      pkdzoo's training stores both under ``task.``. If it has a moving average (``average.``), that is the student.
    - mmrazor stores it under ``architecture.`` (mmrazor 0.x: ``architecture.model.``), next to ``teacher.`` and the
      connectors in ``distiller.``.
    - CrossKD stores it at the top level, in some files next to ``teacher.``.

    Unknown keys are kept, so that strict loading reports them.

    Raises:
        ValueError: as :func:`find_tensors`.
    """
    state = {COMPILED.sub(r"\1", key): value for key, value in find_tensors(content).items()}
    if any(key.startswith("task.student.") for key in state):
        averaged = any(key.startswith("average.") for key in state)
        state = _below(state, "average." if averaged else "task.", dropped=("task.",) if averaged else ())
    state.pop("n_averaged", None)  # torch's AveragedModel counts its updates
    if all(key.startswith("module.") for key in state):
        state = _below(state, "module.")
    if any(key.startswith("student.") for key in state):
        return _below(state, "student.", dropped=("methods.", *TEACHERS))
    dropped: tuple[str, ...] = TEACHERS
    if any(key.startswith("architecture.") for key in state):
        dropped += RAZOR
    state = _below(state, "architecture.", dropped)
    nested = RAZOR[0] in dropped and all(key.startswith("model.") for key in state)
    return _below(state, "model.") if nested else state


def _below(state: Mapping[str, Tensor], prefix: str, dropped: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors without a prefix, and without those whose names start with one of ``dropped``."""
    return {key.removeprefix(prefix): value for key, value in state.items() if not key.startswith(dropped)}
