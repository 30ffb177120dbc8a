"""Names, and what stands behind them. Dictionaries only: nothing here imports a model or touches the network.

A name is ``arch`` or ``arch.tag``: ``retina_r50`` is an architecture, ``retina_r50.coco_2x`` one set of weights for it.
A distilled detector is an architecture of its own name, ``student_method_teacher``.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pkdzoo.hub.weights import Distilled, Weights
from pkdzoo.utils.suggest import did_you_mean


@dataclass(frozen=True)
class Entry:
    """One architecture: how to build it, what weights there are, who taught it."""

    name: str
    family: str
    build: Callable[..., Any]
    args: Mapping[str, Any]
    weights: tuple[Weights, ...] = ()
    distilled: Distilled | None = None
    description: str = ""

    @property
    def default(self) -> Weights | None:
        """The weights meant without a tag: the highest AP among those that can be had."""
        usable = [w for w in self.weights if w.has_source]
        return max(usable, key=lambda w: (w.direct, w.metrics.get("AP", 0.0)), default=None)


_ENTRIES: dict[str, Entry] = {}


def register(entry: Entry) -> None:
    """Make an architecture known. A second registration of a name is refused."""
    if "." in entry.name:
        raise ValueError(
            f"{entry.name!r}: a dot separates architecture and tag, it cannot be in an architecture's name"
        )
    if entry.name in _ENTRIES:
        raise ValueError(f"{entry.name!r} is registered already")
    tags = [w.tag for w in entry.weights]
    if len(set(tags)) != len(tags):
        raise ValueError(f"{entry.name!r} has two weights of one tag: {', '.join(tags)}")
    _ENTRIES[entry.name] = entry


def register_family(
    family: str,
    build: Callable[..., Any],
    variants: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, Sequence[Weights]] | None = None,
) -> None:
    """Make the variants of one family known.

    Args:
        family: e.g. ``retina``.
        build: makes a detector with random weights from keyword arguments.
        variants: arguments of ``build`` by architecture.
        weights: rows by architecture.
    """
    for name, args in variants.items():
        register(Entry(name, family, build, dict(args), tuple((weights or {}).get(name, ()))))


def register_distilled(name: str, distilled: Distilled, weights: Sequence[Weights] = (), **args: Any) -> None:
    """Make a distilled student known; it is built like the student it names, with ``args`` on top."""
    student = _ENTRIES.get(distilled.student)
    if student is None:
        raise ValueError(f"{name!r}: register its student {distilled.student!r} first")
    register(Entry(name, student.family, student.build, {**student.args, **args}, tuple(weights), distilled))


def find(name: str) -> tuple[Entry, Weights | None]:
    """The entry behind a name and, where the name has a tag, those weights.

    Raises:
        ValueError: for an unknown architecture or tag, with the nearest that exist.
    """
    arch, _, tag = name.partition(".")
    entry = _ENTRIES.get(arch)
    if entry is None:
        raise ValueError(f"no detector {arch!r}. {did_you_mean(arch, _ENTRIES)}")
    if not tag:
        return entry, None
    for weights in entry.weights:
        if weights.tag == tag:
            return entry, weights
    tags = ", ".join(w.tag for w in entry.weights) or "none"
    raise ValueError(f"{arch!r} has no weights {tag!r}; its tags: {tags}")


def entries() -> list[Entry]:
    """All entries, by name."""
    return [_ENTRIES[name] for name in sorted(_ENTRIES)]


def list_detectors(
    filter: str | Sequence[str] = "",
    exclude: str | Sequence[str] = "",
    pretrained: bool = False,
    family: str = "",
) -> list[str]:
    """Names of detectors.

    Args:
        filter: wildcard(s); a name is listed if it fits one. One without a dot fits all tags.
        exclude: wildcard(s) of names to leave out.
        pretrained: list ``arch.tag`` for every set of weights that can be had, instead of architectures.
        family: only this family.

    Returns:
        Names in alphabetical order.

    Raises:
        ValueError: for a family that does not exist, with the nearest that do.

    Example:
        >>> import pkdzoo
        >>> pkdzoo.list_detectors("gfl*", pretrained=True)
        ['gfl_r101.coco_ms2x', 'gfl_r50.coco_1x', 'gfl_r50_crosskd_pkd_r101.coco_1x', 'gfl_r50_crosskd_r101.coco_1x']
    """
    families = {entry.family for entry in entries()}
    if family and family not in families:
        raise ValueError(f"no family {family!r}. {did_you_mean(family, families)}")
    wanted, unwanted = _patterns(filter), _patterns(exclude)
    names = []
    for entry in entries():
        if family and entry.family != family:
            continue
        full = [f"{entry.name}.{w.tag}" for w in entry.weights if w.has_source] if pretrained else [entry.name]
        for name in full:
            if wanted and not any(_fits(name, p) for p in wanted):
                continue
            if not any(_fits(name, p) for p in unwanted):
                names.append(name)
    return names


def list_pairs(filter: str | Sequence[str] = "") -> list[str]:
    """Names of distilled detectors: those that know their teacher.

    Example:
        >>> import pkdzoo
        >>> [name for name in pkdzoo.list_pairs() if name.startswith("faster")]
        ['faster_rcnn_r50_fbkd_r101', 'faster_rcnn_r50_pkd_r101']
    """
    return [name for name in list_detectors(filter) if _ENTRIES[name].distilled is not None]


def is_detector(name: str) -> bool:
    """Whether ``arch`` or ``arch.tag`` exists.

    Example:
        >>> import pkdzoo
        >>> pkdzoo.is_detector("retina_r50.coco_2x"), pkdzoo.is_detector("yolo")
        (True, False)
    """
    try:
        find(name)
    except ValueError:
        return False
    return True


def get_weights(name: str) -> Weights:
    """The row behind ``arch.tag``, or an architecture's default row.

    Raises:
        ValueError: when there is none.

    Example:
        >>> import pkdzoo
        >>> row = pkdzoo.get_weights("retina_r50.coco_2x")
        >>> row.metrics["AP"], row.license
        (37.4, 'Apache-2.0')
    """
    entry, weights = find(name)
    weights = weights or entry.default
    if weights is None:
        raise ValueError(f"there are no weights for {name!r}")
    return weights


def _patterns(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) and given else list(given)


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name, f"{pattern}.*")
