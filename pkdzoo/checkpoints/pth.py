"""Reading untrusted ``.pth`` files without executing any code in them.

A ``.pth`` file consists of a pickle and the raw bytes of the tensors, in one of two containers: a zip archive (torch
1.6 and later), or a stream of five pickles followed by the bytes. A pickle can name any function and call it. This
reader never imports a name, see :mod:`pkdzoo.checkpoints.unpickler`. Unlike ``torch.load(weights_only=True)``, it can
read files with objects of classes that are not installed (mmengine's history buffers and configs, numpy scalars). It
checks the pickle before it is executed, and every size against the bytes of the file.
"""

from __future__ import annotations

import io
import math
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from pkdzoo.checkpoints.opcodes import check_opcodes
from pkdzoo.checkpoints.unpickler import SafeUnpickler, Storage, TensorSpec, UnknownObject
from pkdzoo.utils.text import printable

__all__ = ["UnknownObject", "read_pth"]

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file from before torch 1.6
PROTOCOL = 1001  # second pickle
LOCAL_HEADER = 30  # bytes before the name of a record in a zip archive
MAX_DEPTH = 100  # of dictionaries and lists in each other
UNPACKED = 64 << 20  # bytes that a small compressed archive may hold; larger ones may hold 8 times their size
OPTIMIZER = ("optimizer", "optimizer_states")  # at the top level; it can be twice as large as the weights


def read_pth(path: Path, optimizer: bool = False) -> Any:
    """Read a ``.pth`` file: tensors, numbers, strings and containers; all other objects are :class:`UnknownObject`.

    Args:
        path: an existing file.
        optimizer: whether to read the optimizer's state as well, if there is one at the top level.

    Returns:
        Usually a dictionary. Tensors are on the CPU, with the dtype and strides they were saved with.

    Raises:
        ValueError: for a file in neither container, a truncated file, wrong sizes, or a pickle that could run code; the
            message names the file.
    """
    skipped = () if optimizer else OPTIMIZER
    with open(path, "rb") as file:
        try:
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return read_zip(file, skipped) if zipped else read_stream(file, skipped)
        except (EOFError, zipfile.BadZipFile, struct.error) as error:
            hint = ", or saved without checksums (torch.serialization.set_crc32_options)" if "CRC" in str(error) else ""
            raise ValueError(
                f"{path} is truncated or damaged{hint}: {short_message(error)}. Download or copy it again"
            ) from error
        # A damaged or malicious pickle can raise any exception; all are reported as errors of the file.
        except Exception as error:
            raise ValueError(
                f"{path} cannot be read as tensors: {short_message(error)}. If it is yours, save it again by "
                "torch.save(model.state_dict(), path)"
            ) from error


def short_message(error: Exception) -> str:
    """The message of an error, which can contain parts of the file."""
    return printable((str(error) or type(error).__name__)[:300])


# -- the two containers ----------------------------------------------------------------------------------------------


def read_zip(file: IO[bytes], skipped: tuple[str, ...]) -> Any:
    """Content of a file of torch 1.6 or later, without the ``skipped`` keys at its top level."""
    with zipfile.ZipFile(file) as archive:
        records = records_of(archive, file.seek(0, io.SEEK_END))
        if "data.pkl" not in records:
            raise ValueError("it is a zip archive, but not one that torch.save wrote")
        if "constants.pkl" in records:
            raise ValueError("it is a TorchScript program: save its state_dict() instead")
        order = archive.read(records["byteorder"]).decode("ascii", "replace") if "byteorder" in records else "little"
        if order not in ("little", "big"):
            raise ValueError("its byte order is neither little nor big")
        pickled = io.BytesIO(archive.read(records["data.pkl"]))
        check_opcodes(pickled)
        pickled.seek(0)
        content = without_keys(SafeUnpickler(pickled).load(), skipped)
        for storage in storages_of(content):
            info = records.get(f"data/{storage.key}")
            if info is None or info.file_size != storage.length:
                raise ValueError(f"its storage {storage.key!r} should have {storage.length} bytes")
            with archive.open(info) as record:
                storage.bytes = read_bytes(record, storage.length)
        return to_tensors(content, order)


def records_of(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The records of an archive by their names without the folder.

    Args:
        archive: of any origin.
        size: of the file, in bytes.

    Raises:
        ValueError: if records have the same name, overlap, or together hold much more than the file.
    """
    infos = archive.infolist()
    records = {info.filename.partition("/")[2]: info for info in infos}
    if len(records) != len(infos):
        raise ValueError("two of its records have the same name")
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in infos):
        raise ValueError("its records are compressed by another method than deflate: unpack it, and save it again")
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise ValueError("its records overlap")
        end = info.header_offset + LOCAL_HEADER + len(info.orig_filename) + info.compress_size
    if end > size:
        raise EOFError("a record ends after the file")
    packed = any(info.compress_type == zipfile.ZIP_DEFLATED for info in infos)
    if sum(info.file_size for info in infos) > (max(8 * size, UNPACKED) if packed else size):
        raise ValueError("its records hold much more than the file: unpack it, and save it again")
    return records


def read_stream(file: IO[bytes], skipped: tuple[str, ...]) -> Any:
    """Content of a file from before torch 1.6, or of ``_use_new_zipfile_serialization=False``."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if next_pickle(file, size).load() != MAGIC or next_pickle(file, size).load() != PROTOCOL:
        raise ValueError("it is no file that torch.save wrote")
    next_pickle(file, size).load()  # facts about the machine; torch writes the bytes in little-endian order on all
    unpickler = next_pickle(file, size)
    content = without_keys(unpickler.load(), skipped)
    keys = next_pickle(file, size).load()
    if not isinstance(keys, list) or not all(type(key) is str for key in keys) or len(set(keys)) != len(keys):
        raise ValueError("its list of storages is missing or wrong")
    used_keys = {storage.key for storage in storages_of(content)}
    for key in keys:
        storage = unpickler.storages.get(key)
        (numel,) = struct.unpack("<q", file.read(8))
        if storage is None or numel != storage.numel:
            raise ValueError(f"its storage {key!r} has an unexpected number of elements: {numel}")
        if key in used_keys:
            storage.bytes = read_bytes(file, storage.length)
        else:
            file.seek(storage.length, io.SEEK_CUR)
    return to_tensors(content, "little")


class _Rest:
    """The rest of a file for ``pickletools``: it never allocates memory for more bytes than are left."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size = file, size
        self.tell = file.tell

    def read(self, number: int) -> bytes:
        return self.file.read(min(number, self.size - self.file.tell()))

    def readline(self) -> bytes:
        return self.file.readline(1 << 20)


def next_pickle(file: IO[bytes], size: int) -> SafeUnpickler:
    """An unpickler for the next pickle of a stream, after :func:`check_opcodes`; the file is then behind it."""
    start = file.tell()
    check_opcodes(cast(IO[bytes], _Rest(file, size)))
    end = file.tell()
    file.seek(start)
    return SafeUnpickler(io.BytesIO(file.read(end - start)))


def read_bytes(file: IO[bytes], length: int) -> Tensor:
    """The next ``length`` bytes as a uint8 tensor; memory is allocated in parts, in case the file is shorter."""
    data = bytearray()
    while len(data) < length:
        part = file.read(min(length - len(data), 1 << 26))
        if not part:
            raise EOFError(f"{length - len(data)} bytes are missing")
        data += part
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


# -- what was unpickled ----------------------------------------------------------------------------------------------


def without_keys(content: Any, skipped: tuple[str, ...]) -> Any:
    """A dictionary without some of its keys; anything else as it is."""
    if isinstance(content, dict):
        return {key: value for key, value in content.items() if key not in skipped}
    return content


def map_leaves(content: Any, visit: Callable[[Any], Any]) -> Any:
    """A copy with ``visit`` applied to every leaf. Shared and circular references are visited once.

    Raises:
        ValueError: for containers that are nested deeper than ``MAX_DEPTH``.
    """
    done: dict[int, Any] = {}

    def copy(value: Any, depth: int) -> Any:
        if id(value) in done:
            return done[id(value)]
        if depth > MAX_DEPTH:
            raise ValueError(f"its dictionaries and lists are nested deeper than {MAX_DEPTH}")
        if isinstance(value, dict):
            mapping: dict[Any, Any] = {}
            done[id(value)] = mapping
            for key, item in value.items():
                mapping[key] = copy(item, depth + 1)
            return mapping
        if isinstance(value, list):
            items: list[Any] = []
            done[id(value)] = items
            for item in value:
                items.append(copy(item, depth + 1))
            return items
        if type(value) is tuple:
            done[id(value)] = tuple([copy(item, depth + 1) for item in value])
            return done[id(value)]
        leaf = visit(value)
        if leaf is not value:
            done[id(value)] = leaf
        return leaf

    return copy(content, 0)


def storages_of(content: Any) -> list[Storage]:
    """The storages of all tensors in ``content``, in the order of their first use."""
    storages: dict[int, Storage] = {}

    def visit(value: Any) -> Any:
        if isinstance(value, TensorSpec):
            storages[id(value.storage)] = value.storage
        return value

    map_leaves(content, visit)
    return list(storages.values())


def to_tensors(content: Any, order: str) -> Any:
    """The content with every :class:`TensorSpec` replaced by its tensor.

    Args:
        content: of the file; the bytes of its storages are known.
        order: byte order of the storages, ``little`` or ``big``.
    """
    if order != sys.byteorder:
        for storage in storages_of(content):
            swap_bytes(storage)

    def visit(value: Any) -> Any:
        if not isinstance(value, TensorSpec):
            return value
        if value.storage.bytes is None:
            raise EOFError(f"storage {value.storage.key!r} is missing")
        if not math.prod(value.size):
            return torch.empty(value.size, dtype=value.dtype)
        if value.dtype is not value.storage.dtype and order != sys.byteorder:
            raise ValueError(f"it was saved on a {order}-endian machine with tensors of {value.dtype}: save float32")
        whole = value.dtype.itemsize * (value.storage.length // value.dtype.itemsize)
        return value.storage.bytes[:whole].view(value.dtype).as_strided(value.size, value.stride, value.offset)

    return map_leaves(content, visit)


def swap_bytes(storage: Storage) -> None:
    """Reverse the bytes of each number in a storage, which came from a machine of the other byte order."""
    if storage.bytes is not None:
        width = storage.dtype.itemsize // (2 if storage.dtype.is_complex else 1)
        storage.bytes = storage.bytes.view(-1, width).flip(1).flatten()
