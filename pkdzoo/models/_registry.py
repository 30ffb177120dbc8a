"""The names of all detectors, and what each stands for.

A name is ``arch`` or ``arch.tag``: ``retina_r50`` is an architecture, ``retina_r50.coco_2x`` one set of weights for it.
A distilled detector is an architecture with a name of its own, ``student_method_teacher``.

Built-in detectors are read from the index (see ``_zoo_index.py``), so that listing them imports no model and no torch.
The module of a family is imported when a detector of it is built.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkdzoo.hub.weights import Distilled, Weights
from pkdzoo.models._zoo_index import INDEX
from pkdzoo.utils.suggest import did_you_mean


@dataclass(frozen=True)
class Entry:
    """One architecture.

    Attributes:
        name: ``arch``.
        family: e.g. ``retina``.
        build: makes the detector with random weights from keyword arguments.
        args: arguments of ``build``.
        weights: its sets of weights.
        distilled: its teacher, for the student of a pair.
    """

    name: str
    family: str
    build: Callable[..., Any]
    args: Mapping[str, Any]
    weights: tuple[Weights, ...] = ()
    distilled: Distilled | None = None

    @classmethod
    def from_index(cls, name: str) -> Entry:
        """A built-in entry, for now without ``build`` and ``args``; reading one of them imports its family."""
        entry, row = cls.__new__(cls), INDEX[name]
        vars(entry).update(name=name, family=row.family, weights=row.weights, distilled=row.distilled)
        return entry

    if not TYPE_CHECKING:  # mypy would accept any attribute

        def __getattr__(self, attribute: str) -> Any:
            """Import the family of an entry from the index, which registers it and so completes this entry."""
            if attribute not in ("build", "args"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {attribute!r}")
            module = INDEX[self.name].module
            import_module(module)
            if not self.is_complete:
                raise RuntimeError(f"{module} does not register {self.name!r}: run python -m pkdzoo.maintain zoo")
            return vars(self)[attribute]

    @property
    def is_complete(self) -> bool:
        """Whether ``build`` and ``args`` are known; False for a built-in entry whose family is not imported yet."""
        return "build" in vars(self)

    @property
    def default(self) -> Weights | None:
        """The weights that a name without a tag stands for.

        Of those that have a source, the highest AP; weights that can be downloaded go before those that cannot.
        """
        usable = [w for w in self.weights if w.has_source]
        return max(usable, key=lambda w: (w.direct, w.metrics.get("AP", 0.0)), default=None)


PREFIXES = ("hf-hub:", "local-dir:")  # of saved detectors
LIBRARIES = ("torchvision:", "transformers:", "timm:")  # of models of other libraries
_BUILT_IN = {name: Entry.from_index(name) for name in INDEX}
_ENTRIES: dict[str, Entry] = dict(_BUILT_IN)


def drop_unindexed() -> None:
    """Drop the built-in entries that the index has no longer, for the time after it was written anew."""
    for name in _BUILT_IN.keys() - INDEX.keys():
        del _BUILT_IN[name], _ENTRIES[name]


def register(entry: Entry) -> None:
    """Add an architecture.

    Raises:
        ValueError: for a name that exists or has a dot, and for two weights with the same tag.
    """
    if "." in entry.name:
        raise ValueError(f"{entry.name!r}: the name of an architecture has no dot; a dot separates it from a tag")
    tags = [w.tag for w in entry.weights]
    if len(set(tags)) != len(tags):
        raise ValueError(f"{entry.name!r} has two weights with the same tag: {', '.join(tags)}")
    built_in = _BUILT_IN.get(entry.name)
    if built_in is not None and not built_in.is_complete and _module_of(entry) == INDEX[entry.name].module:
        vars(built_in).update(vars(entry))
        return
    if entry.name in _ENTRIES:
        raise ValueError(f"{entry.name!r} is registered already: choose another name")
    _ENTRIES[entry.name] = entry


def register_family(
    family: str,
    build: Callable[..., Any],
    variants: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, Sequence[Weights]] | None = None,
) -> None:
    """Add the variants of one family.

    Args:
        family: e.g. ``retina``.
        build: makes a detector with random weights from keyword arguments.
        variants: arguments of ``build`` by architecture.
        weights: sets of weights by architecture.

    Raises:
        ValueError: as :func:`register`.
    """
    for name, args in variants.items():
        register(Entry(name, family, build, dict(args), tuple((weights or {}).get(name, ()))))


def register_distilled(name: str, distilled: Distilled, weights: Sequence[Weights] = (), **args: Any) -> None:
    """Add the student of a pair. It is built like ``distilled.student``, with ``args`` on top.

    Raises:
        ValueError: for a student that is not registered, and as :func:`register`.
    """
    student = _ENTRIES.get(distilled.student)
    if student is None:
        raise ValueError(f"{name!r}: register its student {distilled.student!r} first")
    register(Entry(name, student.family, student.build, {**student.args, **args}, tuple(weights), distilled))


def find(name: str) -> tuple[Entry, Weights | None]:
    """The entry of a name and, for a name with a tag, the weights of that tag.

    Raises:
        ValueError: for an unknown architecture, with the closest names, or an unknown tag, with the known ones.
    """
    if not isinstance(name, str):
        raise ValueError(f"{name!r} is no name of a detector: write a text, see pkdzoo.list_detectors()")
    arch, _, tag = name.partition(".")
    entry = _ENTRIES.get(arch)
    if ":" in name:
        raise ValueError(no_such_prefix(name))
    if entry is None:
        with_tag = [f"{each.name}.{arch}" for each in entries() for w in each.weights if w.tag == arch and w.has_source]
        raise ValueError(f"no detector {arch!r}. {did_you_mean(arch, with_tag or _ENTRIES)}")
    if not tag:
        return entry, None
    for weights in entry.weights:
        if weights.tag == tag:
            return entry, weights
    tags = ", ".join(w.tag for w in entry.weights) or "none"
    raise ValueError(f"{arch!r} has no weights {tag!r}; its tags: {tags}")


def no_such_prefix(name: str) -> str:
    """The error message for a name with a colon that is no name of a detector."""
    if name.startswith(LIBRARIES):
        return (
            f"{name!r} is a model of another library, which is a teacher (pkdzoo.create_teacher, distill.teacher of a "
            "recipe), a student (model of a recipe), or with 'timm:' a detector's backbone "
            "(create_detector('gfl_r50', backbone='timm:NAME')): see docs/other_libraries.md"
        )
    prefix = name.partition(":")[0] + ":"
    return (
        f"{name!r} is not a registered name: write the path of a folder, or 'hf-hub:ORGANIZATION/NAME', and a model of "
        f"another library as LIBRARY:NAME. {did_you_mean(prefix, (*PREFIXES, *LIBRARIES))}"
    )


def known_costs(entry: Entry) -> tuple[float, float] | None:
    """Millions of parameters and billions of multiply-adds of an entry, as far as the index has them.

    The student of a pair costs what its plain student costs, if the two are built in the same way.
    """
    student = entry.distilled.student if entry.distilled is not None else ""
    name = entry.name
    if name not in INDEX and student in INDEX and find(student)[0].args == entry.args:
        name = student
    return (INDEX[name].params, INDEX[name].gflops) if name in INDEX else None


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
        filter: one or more wildcards; a name is listed if it matches one of them. Without a dot it matches all tags.
        exclude: one or more wildcards of names to leave out.
        pretrained: list ``arch.tag`` for every set of weights that has a source, instead of architectures.
        family: list this family only.

    Returns:
        Names in alphabetical order.

    Raises:
        ValueError: for an unknown family, with the closest names.

    Example:
        >>> import pkdzoo
        >>> pkdzoo.list_detectors("atss*", pretrained=True)
        ['atss_r101.coco_1x', 'atss_r50.coco_1x', 'atss_r50_crosskd_pkd_r101.coco_1x', 'atss_r50_crosskd_r101.coco_1x']
    """
    families = {entry.family for entry in entries()}
    if family and family not in families:
        raise ValueError(f"no family {family!r}. {did_you_mean(family, families)}")
    included, excluded = _patterns(filter), _patterns(exclude)
    names = []
    for entry in entries():
        if family and entry.family != family:
            continue
        full = [f"{entry.name}.{w.tag}" for w in entry.weights if w.has_source] if pretrained else [entry.name]
        for name in full:
            if included and not any(_matches(name, pattern) for pattern in included):
                continue
            if not any(_matches(name, pattern) for pattern in excluded):
                names.append(name)
    return names


def list_pairs(filter: str | Sequence[str] = "") -> list[str]:
    """Names of distilled detectors, those that have a teacher.

    Args:
        filter: one or more wildcards, see :func:`list_detectors`.

    Returns:
        Names of architectures, in alphabetical order.

    Example:
        >>> import pkdzoo
        >>> [name for name in pkdzoo.list_pairs() if name.startswith("atss")]
        ['atss_r50_crosskd_pkd_r101', 'atss_r50_crosskd_r101']
    """
    return [name for name in list_detectors(filter) if _ENTRIES[name].distilled is not None]


def is_detector(name: str) -> bool:
    """Whether a name is registered.

    Args:
        name: ``arch`` or ``arch.tag``.

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


def folder_of(name: str) -> Path | None:
    """The folder that a name stands for, or None for a registered name and for ``hf-hub:``.

    ``local-dir:PATH`` and names with a slash or backslash are paths of folders, whether they exist or not; other names
    are if there is such a folder and no registered detector. ``org/name`` of the Hub needs its prefix.
    """
    if name.startswith("local-dir:"):
        return Path(name.removeprefix("local-dir:"))
    if name.startswith((*PREFIXES, *LIBRARIES)) or is_detector(name):
        return None
    return Path(name) if any(sign in name for sign in "/\\") or Path(name).is_dir() else None


def get_weights(name: str) -> Weights:
    """What is known about a set of weights: source, hash, metrics in percent, license; nothing is downloaded.

    Args:
        name: ``arch.tag``, or ``arch`` for its default weights.

    Raises:
        ValueError: for an unknown name, or an architecture without weights.

    Example:
        >>> import pkdzoo
        >>> row = pkdzoo.get_weights("retina_r50.coco_2x")
        >>> row.metrics["AP"], row.license
        (37.4, 'Apache-2.0')
    """
    entry, weights = find(name)
    weights = weights or entry.default
    if weights is None:
        raise ValueError(f"there are no weights for {name!r}: see pkdzoo.list_detectors(pretrained=True)")
    return weights


def _module_of(entry: Entry) -> str:
    return getattr(entry.build, "__module__", "")


def _patterns(wildcards: str | Sequence[str]) -> list[str]:
    if wildcards is not None and not isinstance(wildcards, (str, list, tuple, set, frozenset)):
        raise ValueError(f'{wildcards!r} is no wildcard of names: write e.g. "retina*", or a list of them')
    return [wildcards] if isinstance(wildcards, str) and wildcards else list(wildcards or ())


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name, f"{pattern}.*")
