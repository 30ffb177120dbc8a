"""Reading ``.pth`` files of strangers without executing anything in them.

A ``.pth`` is a pickle beside raw tensor bytes, in one of two containers: a zip (torch 1.6 and later), or a stream of
five pickles followed by the bytes. A pickle may name any function and have it called. Here no name is ever imported:
the few that make tensors are answered by code of ours, every other class by a placeholder that swallows what it is
given, and a pickle that calls anything else is refused. Unlike ``torch.load(weights_only=True)`` this reads files
whose extras (mmengine's history buffers, configs, numpy scalars) are of classes that are not installed here, and
checks every size against the bytes that are there.
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

# Never in a checkpoint by accident: such a file is refused even where the name is not called.
REFUSED = {
    "os", "posix", "nt", "subprocess", "sys", "builtins", "importlib", "runpy", "pty", "shutil", "socket", "ctypes",
    "code", "codeop", "webbrowser", "operator", "types", "marshal", "pickle", "_pickle", "timeit", "multiprocessing",
    "commands", "pip",
}  # fmt: skip
# Lower-case names that are classes, or rebuild an object whose content does not matter here.
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


class Placeholder:
    """Stands for an object of a class that is not ours to make; takes everything and keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def add(self, value: Any) -> None: ...


class Sealed:
    """Ours, handed to a pickle: it may pass it around and call it, never change it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes an object that is not its own")


class Table(dict[Any, Any]):
    """An OrderedDict of the file. Attributes set on it (torch's ``_metadata``) are dropped."""

    __slots__ = ()

    def __init__(self, pairs: Iterable[tuple[Any, Any]] = ()) -> None:
        super().__init__((key, value) for key, value in pairs)

    def __setstate__(self, state: Any) -> None: ...


class Call(Sealed):
    """A function that the pickle may call."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class Kind(Sealed):
    """A storage type or a dtype."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


@dataclass(slots=True)
class Storage(Sealed):
    """Bytes that come later: ``numel`` elements under ``key``."""

    key: str
    dtype: torch.dtype
    numel: int
    bytes: Tensor | None = None


@dataclass(slots=True)
class View(Sealed):
    """A tensor that will look at a storage; sizes are in elements of ``dtype``."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
            raise ValueError(f"a tensor of size {self.size}, stride {self.stride} and offset {self.offset}")
        held = self.storage.numel * self.storage.dtype.itemsize // self.dtype.itemsize
        count = math.prod(self.size)
        reach = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride)) + 1
        if count and (reach > held or count > held):
            raise ValueError(f"a tensor of size {self.size} in a storage of {held} elements")


class SafeUnpickler(pickle.Unpickler):
    """Answers every name itself; see the head of this file."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        module = SAME_MODULE.get(module, module)
        root, last = module.partition(".")[0], name.rpartition(".")[2]
        if (module, name) == ("collections", "OrderedDict"):
            return Table
        if root == "torch":
            known = torch_name(module, name)
            if known is not None:
                return known
        if last in HARMLESS.get(root, ()):
            return placeholder(module, name)
        if root in REFUSED:
            raise ValueError(f"it wants to run {module}.{name}")
        if last.lstrip("_")[:1].isupper():
            return placeholder(module, name)
        return Call(lambda *args: refuse(f"{module}.{name}"))

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) < 2:
            raise ValueError("it refers to something outside that is no storage")
        if text(pid[0]) == "module":  # files from before torch 1.6: a class and its source, which is ignored
            return pid[1]
        if text(pid[0]) != "storage" or not isinstance(pid[1], Kind) or len(pid) not in (5, 6):
            raise ValueError("it refers to something outside that is no storage")
        key, numel = text(pid[2]), pid[4]
        if type(numel) is not int or numel < 0:
            raise ValueError(f"a storage of {numel} elements")
        if len(pid) == 6 and pid[5] is not None:
            raise ValueError("it holds views of storages as torch 0.3 wrote them; save it anew with a later torch")
        storage = self.storages.setdefault(key, Storage(key, pid[1].dtype, numel))
        if (storage.numel, storage.dtype) != (numel, pid[1].dtype):
            raise ValueError(f"storage {key!r} is described twice, differently")
        return storage


def torch_name(module: str, name: str) -> Any:
    """What a name of torch's stands for, or None."""
    makers: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": lambda *args: view(*args[:4]),
        "torch._utils._rebuild_tensor_v2": lambda *args: view(*args[:4]),
        "torch._utils._rebuild_tensor_v3": lambda *args: view(args[0], args[1], args[2], args[3], args[6]),
        "torch._utils._rebuild_parameter": lambda data, *rest: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *rest: data,
        "torch._tensor._rebuild_from_type_v2": lambda maker, kind, args, state: maker(*args),
        "torch.Size": lambda sizes=(): tuple(sizes),
    }
    if f"{module}.{name}" in makers:
        return Call(makers[f"{module}.{name}"])
    if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
        return Kind(STORAGES[name])
    dtype = getattr(torch, name, None) if module == "torch" else None
    return Kind(dtype) if isinstance(dtype, torch.dtype) else None


def view(storage: Any, offset: Any, size: Any, stride: Any, kind: Any = None) -> View:
    """What torch's functions that rebuild a tensor make here."""
    if not isinstance(storage, Storage) or not (kind is None or isinstance(kind, Kind)):
        raise ValueError("a tensor without a storage")
    if not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ValueError("a tensor without a shape")
    return View(storage, offset, size, stride, storage.dtype if kind is None else kind.dtype)


def placeholder(module: str, name: str) -> type[Placeholder]:
    """A class that stands for ``module.name`` and does nothing."""
    return type("Placeholder", (Placeholder,), {"__doc__": f"{module}.{name}"})


def refuse(name: str) -> None:
    """Raise for a call that nobody allowed."""
    raise ValueError(f"it wants to run {name}")


def text(value: Any) -> str:
    """A string of either Python."""
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def read_pth(path: Path) -> Any:
    """The content of a ``.pth``: tensors, numbers, strings and containers; the rest are placeholders.

    Args:
        path: an existing file.

    Returns:
        Usually a dictionary. Tensors lie in host memory, in the dtype they were saved with, contiguous or not. An
        optimizer at the top is left out: it can be twice the size of what anybody wants here.

    Raises:
        ValueError: naming the file, when it is neither container, is cut short, lies about its sizes, or wants to
            run code.
    """
    with open(path, "rb") as file:
        try:
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return read_zip(file) if zipped else read_stream(file)
        except (EOFError, zipfile.BadZipFile, struct.error) as error:
            raise ValueError(f"{path} is cut short or damaged: {error}") from error
        # A damaged or hostile pickle fails in more ways than can be listed; none of them may look like a bug of ours.
        except Exception as error:
            raise ValueError(f"{path} cannot be read as tensors: {str(error) or type(error).__name__}") from error


def read_zip(file: IO[bytes]) -> Any:
    """A file of torch 1.6 or later."""
    with zipfile.ZipFile(file) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "data.pkl" not in records:
            raise ValueError("it is a zip, but not one that torch.save writes")
        if "constants.pkl" in records:
            raise ValueError("it is a TorchScript program; save its state_dict() instead")
        # Stored, not packed: a few packed bytes could unfold into all of the memory.
        if any(info.compress_type != zipfile.ZIP_STORED for info in records.values()):
            raise ValueError("its records are compressed, which torch.save does not do")
        order = archive.read(records["byteorder"]).decode("ascii") if "byteorder" in records else "little"
        if order != sys.byteorder:
            raise ValueError(f"it was saved on a {order}-endian machine; save it anew on this one")
        unpickler = SafeUnpickler(io.BytesIO(archive.read(records["data.pkl"])))
        content = without_optimizer(unpickler.load())
        for storage in wanted(content):
            info = records.get(f"data/{storage.key}")
            length = storage.numel * storage.dtype.itemsize
            if info is None or info.file_size != length:
                raise ValueError(f"storage {storage.key!r} should have {length} bytes")
            with archive.open(info) as record:
                storage.bytes = read_bytes(record, length)
        return with_tensors(content)


def read_stream(file: IO[bytes]) -> Any:
    """A file from before torch 1.6, or of ``_use_new_zipfile_serialization=False``."""
    if SafeUnpickler(file).load() != MAGIC or SafeUnpickler(file).load() != PROTOCOL:
        raise ValueError("torch.save did not write it")
    system = SafeUnpickler(file).load()
    if not isinstance(system, dict) or system.get("little_endian") is not (sys.byteorder == "little"):
        raise ValueError("it was saved on a machine of another byte order; save it anew on this one")
    unpickler = SafeUnpickler(file)
    content = without_optimizer(unpickler.load())
    keys = SafeUnpickler(file).load()
    if not isinstance(keys, list):
        raise ValueError("its list of storages is missing")
    kept = {storage.key for storage in wanted(content)}
    for key in map(text, keys):
        storage = unpickler.storages.get(key)
        (numel,) = struct.unpack("<q", file.read(8))
        if storage is None or numel != storage.numel:
            raise ValueError(f"storage {key!r} has {numel} elements that nobody asked for")
        length = numel * storage.dtype.itemsize
        if key in kept:
            storage.bytes = read_bytes(file, length)
        else:
            file.seek(length, io.SEEK_CUR)
    return with_tensors(content)


def read_bytes(file: IO[bytes], length: int) -> Tensor:
    """The next ``length`` bytes as a uint8 tensor. Memory is taken as they come, so a lie about the size costs none."""
    data = bytearray()
    while len(data) < length:
        part = file.read(min(length - len(data), 1 << 26))
        if not part:
            raise EOFError(f"{length - len(data)} bytes are missing")
        data += part
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def without_optimizer(content: Any) -> Any:
    """The content less what only training needs."""
    if isinstance(content, dict):
        return {key: value for key, value in content.items() if key not in ("optimizer", "optimizer_states")}
    return content


def walk(content: Any, visit: Callable[[Any], Any]) -> Any:
    """A copy with ``visit`` applied to every leaf. Shared and circular parts are visited once."""
    done: dict[int, Any] = {}

    def copy(value: Any) -> Any:
        if id(value) in done:
            return done[id(value)]
        if isinstance(value, dict):
            table: dict[Any, Any] = {}
            done[id(value)] = table
            table.update((key, copy(item)) for key, item in value.items())
            return table
        if isinstance(value, list):
            row: list[Any] = []
            done[id(value)] = row
            row.extend(copy(item) for item in value)
            return row
        if type(value) is tuple:
            done[id(value)] = tuple(copy(item) for item in value)
        else:
            done[id(value)] = visit(value)
        return done[id(value)]

    return copy(content)


def wanted(content: Any) -> list[Storage]:
    """The storages that tensors of ``content`` look at, in the order they are met."""
    found: dict[int, Storage] = {}

    def visit(value: Any) -> None:
        if isinstance(value, View):
            found[id(value.storage)] = value.storage

    walk(content, visit)
    return list(found.values())


def with_tensors(content: Any) -> Any:
    """The content with tensors in the place of views."""

    def visit(value: Any) -> Any:
        if not isinstance(value, View):
            return value
        if value.storage.bytes is None:
            raise EOFError(f"storage {value.storage.key!r} is missing")
        if not math.prod(value.size):
            return torch.empty(value.size, dtype=value.dtype)
        return value.storage.bytes.view(value.dtype).as_strided(value.size, value.stride, value.offset)

    return walk(content, visit)
