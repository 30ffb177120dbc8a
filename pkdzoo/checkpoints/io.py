"""Files of tensors, told apart by what is in them. Nothing inside a file is ever executed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pkdzoo.checkpoints.pth import Placeholder, read_pth
from pkdzoo.utils.files import atomic_path


def read_state_dict(path: str | Path) -> dict[str, Any]:
    """Whatever tensors a file holds: safetensors, or a ``.pth`` of any torch.

    Args:
        path: of the file; its suffix does not matter.

    Returns:
        What the file holds, by name: tensors in host memory, or the dictionaries a training framework put around
        them (:func:`pkdzoo.checkpoints.mmdet.unwrap` finds the tensors in those).

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the file, when it is neither, is cut short, or wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if is_safetensors(path):
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    content = read_pth(path)
    if isinstance(content, Placeholder):
        raise ValueError(f"{path} holds a whole {type(content).__doc__}; save its state_dict() instead")
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return dict(content)


def is_safetensors(path: Path) -> bool:
    """Whether a file is meant as safetensors: by its suffix, or a length and a brace at its start."""
    with open(path, "rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27)


def save_safetensors(state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors atomically: a reader sees the old file or the whole new one.

    Args:
        state: tensors by name; they are made contiguous and moved to the CPU, and lose what they share.
        path: where to; the folder must exist.
        metadata: text by name, beside the ``format: pt`` that other libraries look for.

    Raises:
        OSError: e.g. a full disk; what was there before is untouched.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[key] = tensor.clone() if place in seen else tensor  # safetensors refuses memory of two names
        seen.add(place)
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"format": "pt", **(metadata or {})})
        except SafetensorError as error:  # a full disk is among them, and its number stands in the text alone
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def save_archive(content: Any, path: str | Path) -> None:
    """``torch.save`` whose error says what the disk said; its own speaks of positions in an archive.

    Args:
        content: what ``torch.load`` reads with ``weights_only=True``.
        path: where to; half a file stays there after an error.

    Raises:
        OSError: e.g. a full disk.
    """
    with open(path, "wb") as file:
        told = _Told(file)
        try:
            torch.save(content, told)  # type: ignore[arg-type]  # a write method is all it uses
            file.flush()
        except RuntimeError as error:
            raise (told.error or error) from error


class _Told:
    """A file that remembers why it could not be written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()
