"""Reading untrusted ``.pth`` files without executing any code in them.

A ``.pth`` file consists of a pickle and the raw bytes of the tensors, in one of two containers: a zip archive (torch
1.6 and later), or a stream of five pickles followed by the bytes. A pickle can name any function and call it. This
reader never imports a name: the functions that rebuild tensors are replaced by code in this file, every other class by
:class:`UnknownObject`, which discards its content, and a pickle that calls anything else is refused. Unlike
``torch.load(weights_only=True)``, it can read files with objects of classes that are not installed (mmengine's history
buffers and configs, numpy scalars), and it checks every size against the bytes of the file.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file from before torch 1.6
PROTOCOL = 1001  # second pickle

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip

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

    def __init__(self, pairs: Iterable[tuple[Any, Any]] = ()) -> None:
        super().__init__((key, value) for key, value in pairs)

    def __setstate__(self, state: Any) -> None: ...


class Function(ReadOnly):
    """Replaces a function that the pickle may call."""

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


@dataclass(slots=True)
class Storage(ReadOnly):
    """A storage of ``numel`` elements with the name ``key``; its bytes are read after the pickle."""

    key: str
    dtype: torch.dtype
    numel: int
    bytes: Tensor | None = None


@dataclass(slots=True)
class TensorSpec(ReadOnly):
    """Shape of a tensor and its position in a storage, in elements of ``dtype``; see :func:`to_tensors`."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
            raise ValueError(f"a tensor of size {self.size}, stride {self.stride} and offset {self.offset}")
        available = self.storage.numel * self.storage.dtype.itemsize // self.dtype.itemsize
        count = math.prod(self.size)
        end = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride)) + 1
        if count and (end > available or count > available):
            raise ValueError(f"a tensor of size {self.size} in a storage of {available} elements")


class SafeUnpickler(pickle.Unpickler):
    """An unpickler that imports nothing; see the docstring of this file."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        module = SAME_MODULE.get(module, module)
        root, last = module.partition(".")[0], name.rpartition(".")[2]
        if (module, name) == ("collections", "OrderedDict"):
            return FileDict
        if root == "torch":
            known = torch_name(module, name)
            if known is not None:
                return known
        if last in HARMLESS.get(root, ()):
            return unknown_class(module, name)
        if root in REFUSED:
            raise ValueError(f"it names {module}.{name}, which could run code")
        if last.lstrip("_")[:1].isupper():
            return unknown_class(module, name)
        return Function(lambda *args: refuse(f"{module}.{name}"))

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) < 2:
            raise ValueError("it has a persistent reference that is not a storage")
        if text(pid[0]) == "module":  # before torch 1.6: a class and its source code, which is ignored
            return pid[1]
        if text(pid[0]) != "storage" or not isinstance(pid[1], DtypeName) or len(pid) not in (5, 6):
            raise ValueError("it has a persistent reference that is not a storage")
        key, numel = text(pid[2]), pid[4]
        if type(numel) is not int or numel < 0:
            raise ValueError(f"a storage of {numel} elements")
        if len(pid) == 6 and pid[5] is not None:
            raise ValueError("it has storage views in the format of torch 0.3; save it again with a later torch")
        storage = self.storages.setdefault(key, Storage(key, pid[1].dtype, numel))
        if (storage.numel, storage.dtype) != (numel, pid[1].dtype):
            raise ValueError(f"storage {key!r} has two different descriptions")
        return storage


def torch_name(module: str, name: str) -> Any:
    """The replacement of a name of torch, or None for other names."""
    functions: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": lambda *args: tensor_spec(*args[:4]),
        "torch._utils._rebuild_tensor_v2": lambda *args: tensor_spec(*args[:4]),
        "torch._utils._rebuild_tensor_v3": lambda *args: tensor_spec(args[0], args[1], args[2], args[3], args[6]),
        "torch._utils._rebuild_parameter": lambda data, *rest: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *rest: data,
        "torch._tensor._rebuild_from_type_v2": lambda function, kind, args, state: function(*args),
        "torch.Size": lambda sizes=(): tuple(sizes),
    }
    if f"{module}.{name}" in functions:
        return Function(functions[f"{module}.{name}"])
    if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
        return DtypeName(STORAGES[name])
    dtype = getattr(torch, name, None) if module == "torch" else None
    return DtypeName(dtype) if isinstance(dtype, torch.dtype) else None


def tensor_spec(storage: Any, offset: Any, size: Any, stride: Any, kind: Any = None) -> TensorSpec:
    """Replaces torch's functions that rebuild a tensor."""
    if not isinstance(storage, Storage) or not (kind is None or isinstance(kind, DtypeName)):
        raise ValueError("a tensor without a storage")
    if not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ValueError("a tensor without a shape")
    return TensorSpec(storage, offset, size, stride, storage.dtype if kind is None else kind.dtype)


def unknown_class(module: str, name: str) -> type[UnknownObject]:
    """A subclass of :class:`UnknownObject` for ``module.name``."""
    return type("UnknownObject", (UnknownObject,), {"__doc__": f"{module}.{name}"})


def refuse(name: str) -> None:
    """Raise ValueError for a call that is not allowed."""
    raise ValueError(f"it calls {name}, which could run code")


def text(value: Any) -> str:
    """A string of a pickle, which is bytes in files of Python 2."""
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def read_pth(path: Path) -> Any:
    """Read a ``.pth`` file: tensors, numbers, strings and containers; all other objects are :class:`UnknownObject`.

    Args:
        path: an existing file.

    Returns:
        Usually a dictionary. Tensors are on the CPU, with the dtype and strides they were saved with. An optimizer
        state at the top level is left out, because it can be twice as large as the weights.

    Raises:
        ValueError: for a file in neither container, a truncated file, wrong sizes, or a pickle that could run code; the
            message names the file.
    """
    with open(path, "rb") as file:
        try:
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return read_zip(file) if zipped else read_stream(file)
        except (EOFError, zipfile.BadZipFile, struct.error) as error:
            raise ValueError(f"{path} is truncated or damaged: {error}") from error
        # A damaged or malicious pickle can raise any exception; all are reported as errors of the file.
        except Exception as error:
            raise ValueError(f"{path} cannot be read as tensors: {str(error) or type(error).__name__}") from error


def read_zip(file: IO[bytes]) -> Any:
    """A file of torch 1.6 or later."""
    with zipfile.ZipFile(file) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "data.pkl" not in records:
            raise ValueError("it is a zip archive, but not one written by torch.save")
        if "constants.pkl" in records:
            raise ValueError("it is a TorchScript program; save its state_dict() instead")
        # Compressed records could expand to more than the memory.
        if any(info.compress_type != zipfile.ZIP_STORED for info in records.values()):
            raise ValueError("its records are compressed, which torch.save does not do")
        order = archive.read(records["byteorder"]).decode("ascii") if "byteorder" in records else "little"
        if order != sys.byteorder:
            raise ValueError(f"it was saved on a {order}-endian machine; save it again on this one")
        unpickler = SafeUnpickler(io.BytesIO(archive.read(records["data.pkl"])))
        content = without_optimizer(unpickler.load())
        for storage in storages_of(content):
            info = records.get(f"data/{storage.key}")
            length = storage.numel * storage.dtype.itemsize
            if info is None or info.file_size != length:
                raise ValueError(f"storage {storage.key!r} should have {length} bytes")
            with archive.open(info) as record:
                storage.bytes = read_bytes(record, length)
        return to_tensors(content)


def read_stream(file: IO[bytes]) -> Any:
    """A file from before torch 1.6, or of ``_use_new_zipfile_serialization=False``."""
    if SafeUnpickler(file).load() != MAGIC or SafeUnpickler(file).load() != PROTOCOL:
        raise ValueError("it was not written by torch.save")
    system = SafeUnpickler(file).load()
    if not isinstance(system, dict) or system.get("little_endian") is not (sys.byteorder == "little"):
        raise ValueError("it was saved on a machine with another byte order; save it again on this one")
    unpickler = SafeUnpickler(file)
    content = without_optimizer(unpickler.load())
    keys = SafeUnpickler(file).load()
    if not isinstance(keys, list):
        raise ValueError("its list of storages is missing")
    used_keys = {storage.key for storage in storages_of(content)}
    for key in map(text, keys):
        storage = unpickler.storages.get(key)
        (numel,) = struct.unpack("<q", file.read(8))
        if storage is None or numel != storage.numel:
            raise ValueError(f"storage {key!r} has an unexpected number of elements: {numel}")
        length = numel * storage.dtype.itemsize
        if key in used_keys:
            storage.bytes = read_bytes(file, length)
        else:
            file.seek(length, io.SEEK_CUR)
    return to_tensors(content)


def read_bytes(file: IO[bytes], length: int) -> Tensor:
    """The next ``length`` bytes as a uint8 tensor; memory is allocated in parts, in case the file is shorter."""
    data = bytearray()
    while len(data) < length:
        part = file.read(min(length - len(data), 1 << 26))
        if not part:
            raise EOFError(f"{length - len(data)} bytes are missing")
        data += part
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def without_optimizer(content: Any) -> Any:
    """The content without the states that only training needs."""
    if isinstance(content, dict):
        return {key: value for key, value in content.items() if key not in ("optimizer", "optimizer_states")}
    return content


def map_leaves(content: Any, visit: Callable[[Any], Any]) -> Any:
    """A copy with ``visit`` applied to every leaf. Shared and circular references are visited once."""
    done: dict[int, Any] = {}

    def copy(value: Any) -> Any:
        if id(value) in done:
            return done[id(value)]
        if isinstance(value, dict):
            mapping: dict[Any, Any] = {}
            done[id(value)] = mapping
            mapping.update((key, copy(item)) for key, item in value.items())
            return mapping
        if isinstance(value, list):
            items: list[Any] = []
            done[id(value)] = items
            items.extend(copy(item) for item in value)
            return items
        if type(value) is tuple:
            done[id(value)] = tuple(copy(item) for item in value)
        else:
            done[id(value)] = visit(value)
        return done[id(value)]

    return copy(content)


def storages_of(content: Any) -> list[Storage]:
    """The storages of all tensors in ``content``, in the order of their first use."""
    storages: dict[int, Storage] = {}

    def visit(value: Any) -> None:
        if isinstance(value, TensorSpec):
            storages[id(value.storage)] = value.storage

    map_leaves(content, visit)
    return list(storages.values())


def to_tensors(content: Any) -> Any:
    """The content with every :class:`TensorSpec` replaced by its tensor."""

    def visit(value: Any) -> Any:
        if not isinstance(value, TensorSpec):
            return value
        if value.storage.bytes is None:
            raise EOFError(f"storage {value.storage.key!r} is missing")
        if not math.prod(value.size):
            return torch.empty(value.size, dtype=value.dtype)
        return value.storage.bytes.view(value.dtype).as_strided(value.size, value.stride, value.offset)

    return map_leaves(content, visit)
