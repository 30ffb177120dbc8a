"""The table of distillation methods, one row per method."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.methods.crosskd import CrossKD
from pkdzoo.distill.methods.cwd import CWD
from pkdzoo.distill.methods.defeat import DeFeat
from pkdzoo.distill.methods.fbkd import FBKD
from pkdzoo.distill.methods.fgd import FGD
from pkdzoo.distill.methods.fgfi import FGFI
from pkdzoo.distill.methods.frs import FRS
from pkdzoo.distill.methods.gid import GID
from pkdzoo.distill.methods.global_knowledge import GlobalKnowledge
from pkdzoo.distill.methods.gt_mask import GTMask
from pkdzoo.distill.methods.ld import LD
from pkdzoo.distill.methods.mgd import MGD
from pkdzoo.distill.methods.mse import MSE
from pkdzoo.distill.methods.norm_cwd import NormCWD
from pkdzoo.distill.methods.norm_kl import NormKL
from pkdzoo.distill.methods.pkd import PKD
from pkdzoo.distill.methods.rank_mimic import RankMimic
from pkdzoo.models.detector import Detector
from pkdzoo.utils.suggest import did_you_mean
from pkdzoo.utils.values import convert_value, is_json_type

METHODS: dict[str, Callable[..., DistillMethod]] = {
    "crosskd": CrossKD,
    "cwd": CWD,
    "defeat": DeFeat,
    "fbkd": FBKD,
    "fgd": FGD,
    "fgfi": FGFI,
    "frs": FRS,
    "gid": GID,
    "global_knowledge": GlobalKnowledge,
    "gt_mask": GTMask,
    "ld": LD,
    "mgd": MGD,
    "mse": MSE,
    "norm_cwd": NormCWD,
    "norm_kl": NormKL,
    "pkd": PKD,
    "rank_mimic": RankMimic,
}


def list_methods() -> list[str]:
    """Names of all distillation methods, in alphabetical order.

    Example:
        >>> import pkdzoo
        >>> pkdzoo.list_methods()[:5]
        ['crosskd', 'cwd', 'defeat', 'fbkd', 'fgd']
    """
    return sorted(METHODS)


def register_method(name: str, cls: Callable[..., DistillMethod]) -> None:
    """Add a method to the table, so that recipes can use it by name.

    Args:
        name: a new name, and a Python identifier (it names the method's connectors in checkpoints).
        cls: called as ``cls(student, teacher, **options)``.

    Raises:
        ValueError: for a name that exists already or is not an identifier.

    Example:
        >>> from pkdzoo.distill import METHODS, list_methods, register_method
        >>> from pkdzoo.distill.methods.pkd import PKD
        >>> class Louder(PKD):
        ...     def forward(self, student, teacher, batch):
        ...         return {"loss_louder": 2 * super().forward(student, teacher, batch)["loss_pkd"]}
        >>> register_method("louder", Louder)
        >>> "louder" in list_methods()
        True
        >>> _ = METHODS.pop("louder")  # so that the other examples see the table unchanged
    """
    if name in METHODS:
        raise ValueError(f"there is a method {name!r} already: choose another name")
    if not name.isidentifier():
        raise ValueError(f"{name!r} cannot be a method's name: letters, digits and underscores only")
    METHODS[name] = cls


def method_options(name: str) -> dict[str, Any]:
    """Options of a method and their defaults.

    Args:
        name: of the method, see :func:`list_methods`.

    Returns:
        Defaults by name, without ``schedule``, which every method has. None stands for the published value.

    Raises:
        ValueError: for an unknown method; the message suggests the closest names and lists all.

    Example:
        >>> from pkdzoo.distill import method_options
        >>> method_options("norm_kl")["temperature"], list(method_options("norm_kl"))[-2:]
        (50.0, ['adapter', 'where'])
    """
    if name not in METHODS:
        raise ValueError(
            f"no distillation method {name!r}. {did_you_mean(name, METHODS)}. All: {', '.join(list_methods())}"
        )
    parameters = list(inspect.signature(METHODS[name]).parameters.values())[2:]  # after student and teacher
    return {p.name: p.default for p in parameters}


POSITIVE = ("temperature", "prototypes", "levels")  # options that must be above 0


def build_method(name: str, student: Detector, teacher: Detector, options: Mapping[str, Any]) -> DistillMethod:
    """Build a method by name.

    Raises:
        ValueError: for an unknown method or option (the message lists the valid ones), for a value of another type than
            the option's, for a number out of range, and for pairs that the method refuses.
    """
    known = method_options(name)
    for key in options:
        if key not in known:
            raise ValueError(f"{name} has no option {key!r}. Its options: {', '.join([*known, 'schedule']) or 'none'}")
    _check_types(name, options)
    for key, value in options.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        positive = key in POSITIVE
        if not (value > 0 if positive else value >= 0) or value == math.inf:
            raise ValueError(f"{name}: {key}={value}: write a finite number {'above 0' if positive else 'from 0 up'}")
    return METHODS[name](student, teacher, **options)


def _check_types(name: str, options: Mapping[str, Any]) -> None:
    """Check the values that a recipe can hold against the annotations of the method, as far as they are JSON's types.

    Raises:
        ValueError: naming the option and the expected type.
    """
    method: Any = METHODS[name]
    is_class = isinstance(method, type)
    try:
        hints = get_type_hints(method.__init__ if is_class else method)
    except (NameError, TypeError):  # of a method from elsewhere, whose annotations cannot be read at run time
        return
    for key, value in options.items():
        hint = hints.get(key, Any)
        if is_json_type(hint) and isinstance(value, (bool, int, float, str, list, tuple, Mapping, type(None))):
            convert_value(value, hint, f"{name}: {key}")
