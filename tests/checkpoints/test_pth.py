"""Untrusted ``.pth`` files: both containers and all other content are read, and no code is executed."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import io
import pathlib
import pickle
import random
import struct
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pkdzoo.checkpoints import read_state_dict
from pkdzoo.checkpoints.pth import PROTOCOL, UnknownObject, read_pth

CONTAINERS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])


class HistoryBuffer:
    """Like mmengine's: arrays of numpy and a function by name."""

    def __init__(self) -> None:
        self.history, self.count, self.statistics = np.zeros(3), np.float64(2), {"mean": np.mean}


class ConfigDict(dict[str, Any]):
    """Like mmengine's: a dictionary with attributes that refers to itself."""


class Batches(list[int]):
    """A subclass of list."""


def tensors() -> dict[str, torch.Tensor]:
    shared = torch.randn(6)
    state = collections.OrderedDict(
        transposed=torch.randn(3, 4).t(),
        part=torch.arange(9)[2:7],
        parameter=nn.Parameter(torch.randn(2, 3)),
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 4),
        half=torch.randn(5).half(),
        bfloat=torch.randn(5).bfloat16(),
        flags=torch.tensor([True, False]),
        one=shared,
        two=shared[1:],
    )
    state._metadata = {"": {"version": 1}}
    return state


def surroundings() -> dict[str, Any]:
    config = ConfigDict(lr=0.1)
    config["self"] = config
    config.filename = "config.py"
    return {
        "config": config,
        "history": HistoryBuffer(),
        "batches": Batches([1, 2]),
        "args": argparse.Namespace(lr=0.1),
        "more": types.SimpleNamespace(x=1),
        "partial": functools.partial(HistoryBuffer),
        "when": datetime.datetime(2024, 1, 1),
        "where": pathlib.PurePosixPath("/tmp"),
        "numpy": [np.float32(1), np.arange(3), np.dtype("int64")],
        "sets": ({1, 2}, frozenset([3])),
        "torch": [torch.Size([1, 2]), torch.device("cpu"), torch.float32],
        "default": collections.defaultdict(list, a=[1]),
        "bytes": b"abc",
        "epoch": 12,
    }


@CONTAINERS
@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_among_unknown_things(tmp_path: Path, zipped: bool, protocol: int) -> None:
    path, state = tmp_path / "file.pth", tensors()
    content = {"state_dict": state, "meta": surroundings(), "optimizer": {"momentum": torch.randn(1000)}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    found = read_state_dict(path)
    assert list(found) == ["state_dict", "meta"]
    assert list(found["state_dict"]) == list(state)
    for key, value in state.items():
        assert found["state_dict"][key].dtype == value.dtype
        assert torch.equal(found["state_dict"][key], value)
    meta = found["meta"]
    assert meta["epoch"] == 12
    assert meta["torch"][0] == (1, 2)
    for key in ("config", "history", "batches", "args", "more", "partial", "when", "where", "default"):
        assert isinstance(meta[key], UnknownObject), key
        assert not vars(meta[key])


@CONTAINERS
def test_same_as_torch_load(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "file.pth"
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(4, 4))
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
    expected, found = torch.load(path, weights_only=True), read_state_dict(path)
    assert list(expected) == list(found)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_small_floats_and_unsigned(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    state = {"f8": torch.randn(3).to(torch.float8_e4m3fn), "u16": torch.tensor([1, 2], dtype=torch.uint16)}
    torch.save(state, path)
    found = read_state_dict(path)
    assert torch.equal(found["f8"].float(), state["f8"].float())
    assert torch.equal(found["u16"], state["u16"])


@CONTAINERS
def test_a_whole_model_is_not_a_state_dict(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "file.pth"
    torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"Linear; save its state_dict"):
        read_state_dict(path)


def test_programs_and_other_zips_are_refused(tmp_path: Path) -> None:
    program, other = tmp_path / "program.pth", tmp_path / "other.pth"
    with zipfile.ZipFile(program, "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps({}))
        archive.writestr("net/constants.pkl", pickle.dumps(()))
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(ValueError, match="TorchScript"):
        read_state_dict(program)
    with pytest.raises(ValueError, match=r"not one that torch\.save wrote"):
        read_state_dict(other)


# -- malicious files -------------------------------------------------------------------------------------------------


class Runs:
    """A pickle of this calls a function."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.call


def opcodes(*lines: str) -> bytes:
    """A hand-written pickle."""
    return ("\n".join(lines) + ".").encode()


def attacks(target: Path) -> dict[str, Any]:
    """Ways to make ``target`` appear, as objects to pickle or as pickles."""
    import os
    import subprocess

    script = f"open({str(target)!r}, 'w').close()"
    return {
        "os.system": Runs(os.system, f"touch {target}"),
        "builtins.eval": Runs(eval, script),
        "builtins.exec": Runs(exec, script),
        "builtins.open": Runs(open, str(target), "w"),
        "subprocess.Popen": Runs(subprocess.Popen, ["touch", str(target)]),
        "Path.touch": Runs(pathlib.Path.touch, target),
        "torch.save": Runs(torch.save, {}, str(target)),
        "partial": Runs(functools.partial(os.system, f"touch {target}")),
        "from a module": Runs(np.save, str(target), 0),
        "inside a class": HistoryBufferThatRuns(target),
        "getattr": opcodes("cbuiltins", "getattr", "(cbuiltins", "__import__", "S'__call__'", "tR(S'os'", "tR"),
        "python 2": opcodes("cposix", "system", f"(S'touch {target}'", "tR"),
        "as an instance": opcodes(f"(S'touch {target}'", "ios", "system"),
        "dotted": b"\x80\x04\x8c\x07pathlib\x8c\x0aPath.touch\x93\x8c" + shortened(str(target)) + b"\x85R.",
        "extension": b"\x80\x02\x82\x01.",
    }


def shortened(value: str) -> bytes:
    raw = value.encode()
    return bytes([len(raw)]) + raw


class HistoryBufferThatRuns(HistoryBuffer):
    def __init__(self, target: Path) -> None:
        import os

        super().__init__()
        self.count = Runs(os.system, f"touch {target}")


def wrapped(payload: bytes, zipped: bool) -> bytes:
    """A file as torch writes it, whose main pickle is ``payload``."""
    if not zipped:
        parts = [0x1950A86A20F9469CFC6C, PROTOCOL, {"little_endian": True}]
        return b"".join(pickle.dumps(part, 2) for part in parts) + payload + pickle.dumps([], 2)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


@CONTAINERS
@pytest.mark.parametrize("name", list(attacks(Path("x"))))
def test_nothing_runs(tmp_path: Path, zipped: bool, name: str) -> None:
    target, path = tmp_path / "made_by_the_pickle", tmp_path / "file.pth"
    attack = attacks(target)[name]
    payload = attack if isinstance(attack, bytes) else pickle.dumps({"state_dict": {"a": attack}}, 4)
    path.write_bytes(wrapped(payload, zipped))
    with pytest.raises(ValueError, match=r"file\.pth"):
        read_state_dict(path)
    assert not target.exists()


def test_the_attack_would_work_elsewhere(tmp_path: Path) -> None:
    target = tmp_path / "made_by_the_pickle"
    pickle.loads(pickle.dumps(attacks(target)["os.system"]))
    assert target.exists()


def test_the_refused_function_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(wrapped(opcodes("cposix", "system", "(S'touch x'", "tR"), True))
    with pytest.raises(ValueError, match=r"file\.pth.*names posix\.system, which could run code"):
        read_state_dict(path)


CHANGES = {
    "a function's defaults": "ctorch._utils\n_rebuild_tensor_v2\n(N(dS'__defaults__'\n(I1\ntstb.",
    "a function's attributes": "ctorch._utils\n_rebuild_tensor_v2\n(dS'function'\nI1\nsb.",
    "a class": "cmmengine\nConfig\n(dS'__init__'\nI1\nsb.",
    "a class of ours": "ccollections\nOrderedDict\n(dS'__init__'\nI1\nsb.",
    "a dtype": "ctorch\nFloatStorage\n(dS'dtype'\nI1\nsb.",
}


@pytest.mark.parametrize("pickled", CHANGES.values(), ids=CHANGES)
def test_our_own_objects_cannot_be_changed(tmp_path: Path, pickled: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(wrapped(pickled.encode(), True))
    with pytest.raises(ValueError, match=r"file\.pth"):
        read_pth(path)


def test_placeholders_keep_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(wrapped(b"cmmengine\nConfig\n(I1\nI2\ntR(dS'evil'\nI1\nsb.", True))
    found = read_pth(path)
    assert isinstance(found, UnknownObject)
    assert type(found).__doc__ == "mmengine.Config"
    assert not hasattr(found, "evil")


# -- damaged files ---------------------------------------------------------------------------------------------------


def legacy(size: str = "I4\n", stored: int = 4, present: int = 16, elements: str = "I4\n") -> bytes:
    """A file from before torch 1.6 with one tensor, with sizes that can be wrong."""
    payload = (
        "}S'a'\nctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\n"
        f"{elements}NtQI0\n({size}t(I1\ntI00\nNtRs."
    )
    head = wrapped(payload.encode(), False)[: -len(pickle.dumps([], 2))]
    return head + pickle.dumps(["0"], 2) + struct.pack("<q", stored) + b"\0" * present


def test_wrong_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(legacy())
    assert torch.equal(read_state_dict(path)["a"], torch.zeros(4))
    huge = f"I{2**40}\n"
    for wrong in (
        legacy(size="I5\n"),
        legacy(size="I-4\n"),
        legacy(size=huge),
        legacy(size="S'4'\n"),
        legacy(stored=5),
        legacy(stored=-1),
        legacy(present=15),
        legacy(elements=huge, stored=2**40),
        legacy(elements="I-1\n"),
        legacy(elements="S'x'\n"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"file\.pth"):
            read_state_dict(path)


@CONTAINERS
def test_truncated_files_are_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "file.pth"
    torch.save(tensors(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for share in (0.0, 0.01, 0.2, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=r"file\.pth"):
            read_state_dict(path)


@CONTAINERS
def test_damage_is_an_error_or_harmless(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "file.pth"
    torch.save({"state_dict": tensors(), "meta": surroundings()}, path, _use_new_zipfile_serialization=zipped)
    whole, dice, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(whole))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            read_state_dict(path)
        except ValueError:
            refused += 1
    assert refused > 50


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_state_dict(tmp_path / "nothing.pth")
    page = tmp_path / "page.pth"
    page.write_text("<!DOCTYPE html><html>not a checkpoint</html>")
    with pytest.raises(ValueError, match=r"page\.pth"):
        read_state_dict(page)
