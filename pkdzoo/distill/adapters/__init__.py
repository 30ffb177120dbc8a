"""Models of other libraries as teachers, by name: ``LIBRARY:NAME``. One file for each library, imported when asked for.

Each file has ``teacher(name, pretrained, cache_dir, args)``, which returns a :class:`pkdzoo.Teacher` whose ``origin``
tells where its weights come from. Those that load a file of weights, too, have ``load_file(teacher, path)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pkdzoo.distill.teacher import Teacher
from pkdzoo.hub.weights import InitialWeights
from pkdzoo.models._registry import LIBRARIES
from pkdzoo.utils.files import sha256_of_file
from pkdzoo.utils.text import install_line


def is_of_other_library(name: str) -> bool:
    """Whether a name is ``torchvision:NAME``, ``transformers:NAME`` or ``timm:NAME``."""
    return name.startswith(LIBRARIES)


def teacher_of_library(
    name: str,
    pretrained: bool = True,
    weights: str | Path | None = None,
    cache_dir: str | Path | None = None,
    args: Mapping[str, Any] | None = None,
) -> Teacher:
    """A model of another library as a teacher.

    Args:
        name: ``LIBRARY:NAME``, see docs/other_libraries.md.
        pretrained: load the library's weights of this name; False leaves them random.
        weights: a file of weights to load instead, in the library's key layout.
        cache_dir: folder for downloaded weights.
        args: further arguments of the library's function that builds the model.

    Raises:
        ValueError: for an unknown name, with the closest ones; a library that is not installed; and a model that
            gives no maps.
    """
    library, _, own = name.partition(":")
    if weights is not None and library == "transformers":  # its own loader renames tensors
        raise ValueError(
            f"teacher_weights={str(weights)!r}: weights of transformers are read with their config, write "
            "transformers:FOLDER as the teacher"
        )
    module = import_module(f"pkdzoo.distill.adapters.{library}")
    made: Teacher = module.teacher(own, pretrained and weights is None, cache_dir, dict(args or {}))
    made.name = name
    if weights is not None:
        module.load_file(made, weights)
        made.loaded_from = Path(weights).name
        made.origin = InitialWeights(name, "unknown", sha256=sha256_of_file(Path(weights)))
    elif made.origin is not None:
        made.loaded_from = made.origin.name
    return made


def import_library(name: str) -> Any:
    """A library that is an extra of pkdzoo.

    Raises:
        ValueError: if it is not installed; the message says how to install it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ValueError(f"models of {name} need the extra [{name}]: {install_line(name)}") from error
