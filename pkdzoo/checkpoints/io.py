"""Files of tensors; the format is recognized by the content. No code in a file is ever executed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pkdzoo.checkpoints.pth import UnknownObject, read_pth
from pkdzoo.utils.files import atomic_path


def read_state_dict(path: str | Path) -> dict[str, Any]:
    """Read a safetensors file, or a ``.pth`` file of any version of torch.

    Args:
        path: path of the file, with any suffix.

    Returns:
        The content by name: tensors on the CPU, or the dictionaries that a training framework wraps around them
        (:func:`pkdzoo.checkpoints.mmdet.unwrap` extracts the tensors).

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: for a file in another format, a truncated file, or a pickle that could run code; the message names
            the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: check the path")
    if is_safetensors(path):
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    content = read_pth(path)
    if isinstance(content, UnknownObject):
        raise ValueError(f"{path} holds a whole {type(content).__doc__}; save its state_dict() instead")
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return dict(content)


def is_safetensors(path: Path) -> bool:
    """Whether a file is in the safetensors format: by its suffix, or by a header length and a brace at its start."""
    with open(path, "rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27)


TEMPORARY = r"\.tmp\w{6}"  # names of the files that safetensors writes to and then renames


def save_safetensors(state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically: readers see either the old file or the complete new one.

    Args:
        state: tensors by name; they are stored contiguously and without shared memory.
        path: path of the file, in an existing folder.
        metadata: strings by name, in addition to the ``format: pt`` that other libraries need.

    Raises:
        OSError: e.g. for a full disk; an existing file stays unchanged.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        tensors[key] = tensor.clone() if address in seen else tensor  # safetensors refuses shared memory
        seen.add(address)
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"format": "pt", **(metadata or {})})
        except SafetensorError as error:  # also raised for a full disk, with the error number only in the text
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
