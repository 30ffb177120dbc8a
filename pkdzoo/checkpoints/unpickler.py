"""An unpickler for untrusted files that imports nothing.

The functions that rebuild tensors are replaced by code in this file, every other class by :class:`UnknownObject`, which
discards its content, and a pickle that calls anything else is refused. The pickle has to pass
:func:`pkdzoo.checkpoints.opcodes.check_opcodes` before.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

from pkdzoo.utils.text import printable

MAX_DIMENSIONS = 64  # as torch's own limit for most operations
MAX_NAMES = 10_000  # classes and functions of one pickle
MAX_NAME = 100  # characters of one name that messages contain
MAX_TENSORS = 100_000
MAX_REPEATED = 1 << 24  # elements of all tensors that repeat the elements of their storages, e.g. by expand()

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip
# Dtypes of one or more whole bytes per element; some need a later torch.
NAMED = (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32",
    "uint64", "bool", "complex32", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "float8_e8m0fnu",
)  # fmt: skip
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in NAMED if hasattr(torch, name)}

# No checkpoint needs these modules: a file that names them is refused, even if it does not call anything.
REFUSED = {
    "os", "posix", "nt", "subprocess", "sys", "builtins", "importlib", "runpy", "pty", "shutil", "socket", "ctypes",
    "code", "codeop", "webbrowser", "operator", "types", "marshal", "pickle", "_pickle", "timeit", "multiprocessing",
    "commands", "pip",
}  # fmt: skip
# Names in lower case that are classes or rebuild objects; they become an UnknownObject. Other lower-case names are
# functions and are refused when they are called.
HARMLESS = {
    "builtins": {"set", "frozenset", "list", "dict", "tuple", "int", "float", "complex", "bytes", "bytearray", "str",
                 "bool", "object", "slice", "range"},
    "datetime": {"datetime", "date", "time", "timedelta", "timezone"},
    "collections": {"deque", "defaultdict"},
    "copyreg": {"_reconstructor", "__newobj__", "__newobj_ex__"},
    "_codecs": {"encode"},
    "functools": {"partial"},
    "types": {"SimpleNamespace"},
    "numpy": {"dtype", "ndarray", "scalar", "_reconstruct", "_frombuffer", "int32", "int64", "float32", "float64"},
    "torch": {"device", "_get_layout"},
}  # fmt: skip
SAME_MODULE = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2's names


class UnknownObject:
    """Replaces an object of any other class: it accepts every state and item and discards them."""

    def __new__(cls, *args: Any, **kwargs: Any) -> UnknownObject:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def add(self, value: Any) -> None: ...


class ReadOnly:
    """Base of this file's objects that are given to a pickle, which must not change them."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes an object of the reader")


class FileDict(dict[Any, Any]):
    """Replaces an OrderedDict. Attributes that the file sets on it (torch's ``_metadata``) are discarded."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None: ...


class Function(ReadOnly):
    """Replaces a function or a class that the pickle may call."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class DtypeName(ReadOnly):
    """Replaces the name of a dtype, or of a storage type, which implies a dtype."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


@dataclass(slots=True, eq=False)
class Storage(ReadOnly):
    """A storage of ``numel`` elements with the name ``key``; its bytes are read after the pickle."""

    key: str
    dtype: torch.dtype
    numel: int
    bytes: Tensor | None = None

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(slots=True, eq=False)
class TensorSpec(ReadOnly):
    """Shape of a tensor and its position in a storage, in elements of ``dtype``.

    Attributes:
        storage: the storage.
        offset: position of the first element.
        size: the shape.
        stride: elements between neighbors along each dimension; 0 along a dimension that ``expand()`` made.
        dtype: that of the storage, or any if the storage has no type (bytes).
        repeats: how many more elements the tensor has than its storage.
    """

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    repeats: int = 0

    def __post_init__(self) -> None:
        shape = (self.size, self.stride)
        if not all(type(part) is tuple and len(part) <= MAX_DIMENSIONS for part in shape):
            raise ValueError(f"it has a tensor without a shape, or with more than {MAX_DIMENSIONS} dimensions")
        numbers = (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
            raise ValueError("it has a tensor whose size, stride or offset is not a number from 0 to 2^48")
        if self.dtype is not self.storage.dtype and self.storage.dtype is not torch.uint8:
            raise ValueError(f"it has a tensor of {self.dtype} in a storage of {self.storage.dtype}")
        available = self.storage.length // self.dtype.itemsize
        count = math.prod(self.size)
        end = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride)) + 1
        if count and end > available:
            raise ValueError(f"it has a tensor of size {self.size} in a storage of {available} elements")
        self.repeats = max(count - available, 0)


class SafeUnpickler(pickle.Unpickler):
    """An unpickler that imports nothing; see the docstring of this file.

    Attributes:
        storages: all storages that the pickle names, by key.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, Storage] = {}
        self._names: dict[tuple[str, str], Any] = {}
        self._tensors = self._repeated = self._pairs = 0

    def find_class(self, module: str, name: str) -> Any:
        """What replaces ``module.name``."""
        key = (module, name)
        if key not in self._names:
            if len(self._names) >= MAX_NAMES:
                raise ValueError(f"it names more than {MAX_NAMES} classes and functions: save only the state_dict()")
            shown = (printable(text[:MAX_NAME]) for text in (SAME_MODULE.get(module, module), name))
            self._names[key] = self._replacement(*shown)
        return self._names[key]

    def _replacement(self, module: str, name: str) -> Any:
        root, last = module.partition(".")[0], name.rpartition(".")[2]
        if (module, name) == ("collections", "OrderedDict"):
            return Function(self._ordered_dict)
        if root == "torch":
            known = torch_name(module, name, self._tensor_spec)
            if known is not None:
                return known
        if last in HARMLESS.get(root, ()):
            return unknown_class(module, name)
        if root in REFUSED:
            raise ValueError(f"it names {module}.{name}, which could run code: do not trust this file")
        if last.lstrip("_")[:1].isupper():
            return unknown_class(module, name)
        return Function(lambda *args: refuse(f"{module}.{name}"))

    def persistent_load(self, pid: Any) -> Any:
        """The storage that a persistent reference describes."""
        if type(pid) is not tuple or len(pid) < 2:
            raise ValueError("it has a persistent reference that is not a storage")
        if pid[0] == "module":  # before torch 1.6: a class and its source code, which is ignored
            return pid[1]
        if pid[0] != "storage" or not isinstance(pid[1], DtypeName) or len(pid) not in (5, 6):
            raise ValueError("it has a persistent reference that is not a storage")
        key, numel = pid[2], pid[4]
        if type(key) is not str or type(numel) is not int or not 0 <= numel < 2**48:
            raise ValueError("it has a storage whose name is not a string or whose size is not a number from 0 to 2^48")
        if len(pid) == 6 and pid[5] is not None:
            raise ValueError("it has storage views in the format of torch 0.3: save it again with a later torch")
        storage = self.storages.setdefault(key, Storage(key, pid[1].dtype, numel))
        if (storage.numel, storage.dtype) != (numel, pid[1].dtype):
            raise ValueError(f"its storage {key!r} has two different descriptions")
        return storage

    def _tensor_spec(self, storage: Any, offset: Any, size: Any, stride: Any, kind: Any = None) -> TensorSpec:
        """Replaces torch's functions that rebuild a tensor."""
        if not isinstance(storage, Storage) or not (kind is None or isinstance(kind, DtypeName)):
            raise ValueError("it has a tensor without a storage")
        spec = TensorSpec(storage, offset, size, stride, storage.dtype if kind is None else kind.dtype)
        self._tensors += 1
        self._repeated += spec.repeats
        if self._tensors > MAX_TENSORS:
            raise ValueError(f"it has more than {MAX_TENSORS} tensors")
        if self._repeated > MAX_REPEATED:
            raise ValueError(
                f"its tensors repeat stored elements more than {MAX_REPEATED} times, as expand() does: save "
                "tensor.contiguous()"
            )
        return spec

    def _ordered_dict(self, pairs: Iterable[tuple[Any, Any]] = ()) -> FileDict:
        """Replaces ``OrderedDict(pairs)``."""
        items = FileDict()
        for key, value in pairs:
            self._pairs += 1
            if self._pairs > MAX_TENSORS or type(key) not in (str, bytes, int, float, bool, type(None)):
                raise ValueError(f"it has a dictionary of more than {MAX_TENSORS} items, or with unusual keys")
            items[key] = value
        return items


def torch_name(module: str, name: str, tensor_spec: Callable[..., TensorSpec]) -> Any:
    """The replacement of a name of torch, or None for the name of a class.

    Args:
        module: starts with ``torch``.
        name: of a class, a function or a dtype.
        tensor_spec: replaces the functions that rebuild a tensor.
    """
    functions: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": lambda *args: tensor_spec(*args[:4]),
        "torch._utils._rebuild_tensor_v2": lambda *args: tensor_spec(*stored_values(args, 6)[:4]),
        "torch._utils._rebuild_tensor_v3": lambda *args: tensor_spec(*stored_values(args, 7)[:4], args[6]),
        "torch._utils._rebuild_parameter": lambda data, *rest: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *rest: data,
        "torch._tensor._rebuild_from_type_v2": lambda function, kind, args, state: function(*args),
        "torch.Size": torch_size,
    }
    if f"{module}.{name}" in functions:
        return Function(functions[f"{module}.{name}"])
    if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
        return DtypeName(STORAGES[name])
    if module == "torch" and name in DTYPES:
        return DtypeName(DTYPES[name])
    if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        raise ValueError(f"it has tensors of torch.{name}, which this reader does not know: save them as float32")
    if name.startswith("_rebuild_"):
        raise ValueError(
            f"it has tensors of a kind that this reader does not know ({module}.{name}): save plain ones, "
            "{name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}"
        )
    return None


def stored_values(args: tuple[Any, ...], place: int) -> tuple[Any, ...]:
    """The arguments of a tensor, after a check of its metadata at ``place``.

    Raises:
        ValueError: the tensor's values are the negatives or conjugates of those that are stored.
    """
    metadata = args[place] if len(args) > place else None
    if isinstance(metadata, dict) and any(metadata.get(key) for key in ("neg", "conj")):
        raise ValueError("it has a tensor that is negated or conjugated on reading: save tensor.resolve_neg()")
    return args


def torch_size(sizes: Any = ()) -> tuple[Any, ...]:
    """Replaces ``torch.Size``."""
    if not isinstance(sizes, (tuple, list)) or len(sizes) > MAX_DIMENSIONS:
        raise ValueError(f"it has a shape of more than {MAX_DIMENSIONS} dimensions")
    return tuple(sizes)


def unknown_class(module: str, name: str) -> type[UnknownObject]:
    """A subclass of :class:`UnknownObject` for ``module.name``."""
    return type("UnknownObject", (UnknownObject,), {"__doc__": f"{module}.{name}"})


def refuse(name: str) -> None:
    """Raise ValueError for a call that is not allowed."""
    raise ValueError(f"it calls {name}, which could run code: do not trust this file")
