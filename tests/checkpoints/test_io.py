"""Reading and writing of safetensors: atomic, readable by other libraries, distinguished from pickles by content."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open

from pkdzoo.checkpoints import io, read_state_dict, save_safetensors


def test_there_and_back(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    state = {
        "transposed": whole.t(), "part": whole[1:3], "same": whole, "again": whole, "half": whole.half(),
        "empty": torch.zeros(0, 3), "number": torch.tensor(2), "learns": torch.nn.Parameter(torch.randn(3)),
    }  # fmt: skip
    save_safetensors(state, tmp_path / "a.safetensors", {"source": "here"})
    found = read_state_dict(tmp_path / "a.safetensors")
    assert set(found) == set(state)
    assert all(torch.equal(found[key], state[key]) and found[key].dtype == state[key].dtype for key in state)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "source": "here"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("name", ["weights.pth", "weights", "weights.bin"])
def test_the_suffix_does_not_matter(tmp_path: Path, name: str) -> None:
    save_safetensors({"a": torch.ones(2)}, tmp_path / "right.safetensors")
    (tmp_path / "right.safetensors").rename(tmp_path / name)
    assert torch.equal(read_state_dict(tmp_path / name)["a"], torch.ones(2))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_cut_files_are_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.safetensors"
    save_safetensors({"a": torch.ones(1000)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"cut\.safetensors is not a complete safetensors file"):
        read_state_dict(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_safetensors({"a": torch.ones(2)}, path)

    def half(_: object, target: str, metadata: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io, "save_file", half)
    with pytest.raises(OSError, match="No space left"):
        save_safetensors({"a": torch.zeros(2)}, path)
    assert torch.equal(read_state_dict(path)["a"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    "text",
    [
        'Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })',
        "Error while serializing: I/O error: No space left on device (os error 28)",
    ],
    ids=["safetensors 0.4", "safetensors 0.8"],
)
def test_a_full_disk_is_an_error_of_the_system(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise SafetensorError(text)

    monkeypatch.setattr(io, "save_file", fail)
    with pytest.raises(OSError, match="No space left") as raised:
        save_safetensors({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert raised.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []
