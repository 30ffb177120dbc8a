"""The ``data.yaml`` of a YOLO data set: names of the classes, and where each split's images are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkdzoo.data.formats.base import names_of, plain_path, read_text
from pkdzoo.utils.text import quote_some

FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
MAX_CLASSES = 100_000  # the largest known data sets have some 20,000
YAML_LIMIT = 1 << 20  # bytes


@dataclass(frozen=True)
class Description:
    """The content of a ``data.yaml``.

    Attributes:
        file: path of the ``data.yaml``.
        bases: folders that its paths may be relative to, the likeliest first.
        names: names of the classes.
        splits: paths of each split's images.
        keypoints: number of values per object that belong to keypoints.
        other_count: ``nc``, where it is not the number of ``names``.
    """

    file: Path
    bases: tuple[Path, ...]
    names: list[str]
    splits: dict[str, list[str]]
    keypoints: int = 0
    other_count: str = ""


def find_yaml(folder: str | Path) -> Path | None:
    """The ``data.yaml`` of a data set, given its folder or the file itself; None where there is none."""
    path = Path(folder)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    return next((path / name for name in FILES if (path / name).is_file()), None)


def describe(file: str | Path) -> Description:
    """Read a ``data.yaml``.

    Raises:
        ValueError: the file is not YAML, or has no classes.
    """
    file = Path(file)
    data = load_yaml(file)
    if not isinstance(data, dict):
        raise ValueError(f"{file} holds {type(data).__name__}, not 'names' and the paths of the splits")
    bases = [file.parent]
    if data.get("path"):
        bases.insert(0, file.parent / _path(data["path"], file))  # an absolute path stays absolute
    splits = {}
    for split in ("train", "val", "test"):
        value = next((data[key] for key in names_of(split) if data.get(key)), None)
        if value is not None:
            splits[split] = [_path(v, file) for v in (value if isinstance(value, list) else [value])]
    names, count = _names(data, file), data.get("nc")
    same = count is None or (type(count) is int and count == len(names))
    return Description(
        file, tuple(bases), names, splits, _keypoints(data, file), "" if same else f"{_shown(count):.60}"
    )


def load_yaml(file: Path) -> Any:
    """The content of a YAML file of limited size and depth; raises a ValueError that names the file."""
    import yaml  # here and below: its import takes longer than that of all other modules of this folder

    text, problem = read_text(file, YAML_LIMIT), ""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where PyYAML was built with it
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > 32 or getattr(event, "value", "") == "<<":  # merged keys can double again and again
                raise ValueError("it is nested too deeply, or merges keys ('<<'): write plain keys and lists")
        return yaml.load(text, Loader=loader)
    except RecursionError:
        problem = "it is nested too deeply"
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError) as error:  # e.g. the date 2001-99-99
        problem = " ".join(str(error).split())
    raise ValueError(f"{file} is not a YAML file: {problem:.300}")


def _keypoints(data: Mapping[str, Any], file: Path) -> int:
    """Number of values of an object's keypoints."""
    shape = data.get("kpt_shape")
    if shape is None:
        return 0
    whole = isinstance(shape, list) and len(shape) == 2 and all(type(v) is int for v in shape)
    if not whole or not 0 < shape[0] <= 10_000 or shape[1] not in (2, 3):
        raise ValueError(f"{file}: kpt_shape is [number of keypoints, 2 or 3], not {_shown(shape):.60}")
    return int(shape[0] * shape[1])


def _names(data: Mapping[str, Any], file: Path) -> list[str]:
    names = data.get("names")
    number = data.get("nc")
    if names is None and type(number) is int and number > MAX_CLASSES:
        raise ValueError(f"{file}: nc: {_shown(number)} classes; at most {MAX_CLASSES} are read")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise ValueError(f"{file}: 'names' has the class numbers {quote_some(names)}; write 0 to {len(names) - 1}")
        names = [names[k] for k in range(len(names))]
    if names is None and type(number) is int:
        names = [f"class_{k}" for k in range(number)]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{file} has no 'names': write the list of classes, e.g. names: [cat, dog]")
    invalid = [name for name in names if isinstance(name, (bool, dict, list)) or name is None]
    if invalid:
        raise ValueError(
            f"{file}: the class name {_shown(invalid[0])} is no text; YAML reads yes, no, on and off as booleans: "
            "write it in quotes"
        )
    return [str(name) for name in names]


def _shown(value: Any) -> str:
    """A value for messages; of lists and mappings only the type, since YAML aliases can make them huge."""
    if isinstance(value, int) and abs(value) >= 10**18:  # Python does not write numbers of over 4300 digits
        return "a number of more than 18 digits"
    return type(value).__name__ if isinstance(value, (dict, list)) else repr(value)


def _path(value: Any, file: Path) -> str:
    if isinstance(value, (dict, list)):
        raise ValueError(f"{file}: a path must be a text, not {_shown(value)}")
    return plain_path(str(value), file)
