"""``.pth`` files of a few bytes that would take gigabytes, hang or crash, and unusual ones that torch can load."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from pkdzoo.checkpoints import read_state_dict
from pkdzoo.checkpoints.opcodes import check_opcodes
from pkdzoo.checkpoints.pth import read_pth

FLOATS = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def zip_file(path: Path, pickled: bytes, **records: bytes) -> Path:
    """A file of torch's with this pickle and these storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in records.items():
            archive.writestr(f"archive/data/{name}", content)
    return path


def stream_file(path: Path, pickled: bytes) -> Path:
    """The same from before torch 1.6."""
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts) + pickled + pickle.dumps([], 2))
    return path


def tensor(
    key: bytes = b"U\x010", numel: bytes = b"K\x01", size: bytes = b"K\x01\x85", stride: bytes = b"K\x01\x85"
) -> bytes:
    """Instructions that make one tensor."""
    storage = b"(U\x07storage" + FLOATS + key + b"U\x03cpu" + numel + b"tQ"
    return REBUILD + b"(" + storage + b"K\x00" + size + stride + b"\x89NtR"


def shared_tuples(depth: int) -> bytes:
    """A tuple that contains one tuple twice, which contains one tuple twice, and so on."""
    return b")" + b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(depth))


MANY = b"(" + b"K\x01" * 400_000 + b"t"
PAIRS = b"(" + b"(K\x01K\x02t" * 2000 + b"lq\x00"
HOSTILE = {
    "a memo index of 2^28": (b"}r\x00\x00\x00\x10.", "under an index that is far too high"),
    "tuples two million deep": (b")" + b"\x85" * 2_000_000 + b".", "nested too deep"),
    "a key of 2^60 tuples": (b"}" + shared_tuples(60) + b"Ns.", "holds too many tuples"),
    "a storage named by 2^13 tuples": (b"}U\x01a" + tensor(key=shared_tuples(12)) + b"s.", "name is not a string"),
    "a storage named by a number": (b"}U\x01a" + tensor(key=b"K\x00") + b"s.", "name is not a string"),
    "a size that is no number": (b"}U\x01a" + tensor(size=b"U\x011\x85") + b"s.", "is not a number from 0 to"),
    "a size that is true": (b"}U\x01a" + tensor(size=b"\x88\x85") + b"s.", "is not a number from 0 to"),
    "a shape that is a list": (b"}U\x01a" + tensor(size=b"]") + b"s.", "without a shape"),
    "400,000 dimensions": (b"}U\x01a" + tensor(size=MANY, stride=MANY) + b"s.", "more than 64 dimensions"),
    "a shape of torch with 400,000": (b"ctorch\nSize\n(" + MANY + b"tR.", "more than 64 dimensions"),
    "lists a thousand deep": (b"]" * 1001 + b"a" * 1000 + b".", "nested deeper than 100"),
    "many keys that are tuples": (
        b"}(" + b"".join(b"M%c%c\x85N" % divmod(i, 256) for i in range(2000)) + b"u.",
        "keys that are tuples",
    ),
    "many keys that are long numbers": (
        b"}(" + b"".join(b"\x8a\x09" + i.to_bytes(9, "little") + b"N" for i in range(2**64, 2**64 + 2000)) + b"u.",
        "keys that are tuples",
    ),
    "one list in many dictionaries": (
        b"(" + PAIRS + b"ccollections\nOrderedDict\nq\x01" + b"h\x01h\x00\x85R" * 200 + b"l.",
        "dictionary of more than",
    ),
    "many classes": (b"(" + b"".join(b"ca\nA%d\n" % i for i in range(10_001)) + b"l.", "more than 10000 classes"),
    "a string of 2^40 bytes": (b"\x8d" + (1 << 40).to_bytes(8, "little") + b"x.", "remain"),
    "bytes of 2^60 bytes": (b"\x8e" + (1 << 60).to_bytes(8, "little") + b"x.", "remain"),
    "an expanded tensor of 2^40": (
        b"}U\x01a" + tensor(size=b"\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85", stride=b"K\x00\x85") + b"s.",
        r"save tensor\.contiguous\(\)",
    ),
    "a registered extension": (b"\x82\x01.", "instruction EXT1"),
    "a buffer from elsewhere": (b"\x97.", "instruction NEXT_BUFFER"),
    "an empty stack": (b"s.", "empty stack"),
}  # fmt: skip


@pytest.mark.parametrize("container", [zip_file, stream_file])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_with_a_reason(tmp_path: Path, name: str, container: Any) -> None:
    pickled, reason = HOSTILE[name]
    path = container(tmp_path / "file.pth", b"\x80\x02" + pickled)
    with pytest.raises(ValueError, match=rf"file\.pth cannot be read as tensors: .*{reason}.*save it again"):
        read_pth(path)


def test_too_many_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkdzoo.checkpoints.opcodes.MAX_OPCODES", 1000)
    check_opcodes(io.BytesIO(pickle.dumps(list(range(400)))))
    with pytest.raises(ValueError, match="more than 1000 instructions"):
        check_opcodes(io.BytesIO(pickle.dumps(list(range(1000)))))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_pass_the_check(protocol: int) -> None:
    shared = {"b": [1, 2.5, (3, None), True], 10**30: b"bytes", (1, 2): "text"}
    content = [
        shared,
        shared,
        {1, 2},
        frozenset([(3, 4)]),
        bytearray(b"x"),
        -1,
        "\u20ac",
        complex(1, 2),
        (1,) * 5,
        shared,
    ]
    content.append(content)
    pickled = io.BytesIO(pickle.dumps(content, protocol) + b"rest")
    check_opcodes(pickled)
    assert pickled.read() == b"rest"


def test_a_name_from_a_file_is_printed_without_escape_sequences(tmp_path: Path) -> None:
    path = zip_file(tmp_path / "file.pth", b"\x80\x02cos\n\x1b[2Jsystem" + b"x" * 1000 + b"\n.")
    with pytest.raises(ValueError, match="could run code") as error:
        read_pth(path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600


# -- archives --------------------------------------------------------------------------------------------------------


def test_overlapping_records_are_refused(tmp_path: Path) -> None:
    """A thousand entries of the directory that name the same bytes."""
    path = zip_file(tmp_path / "file.pth", pickle.dumps({}, 2), a=b"\0" * 100_000)
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.getinfo("archive/data/a")
        for number in range(1000):
            copy = zipfile.ZipInfo(f"archive/data/{number:04d}")
            copy.header_offset, copy.CRC = first.header_offset, first.CRC
            copy.compress_size = copy.file_size = first.file_size
            archive.filelist.append(copy)
        archive._didModify = True
    with pytest.raises(ValueError, match=r"file\.pth.*its records overlap"):
        read_pth(path)


def test_two_records_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("b/data.pkl", pickle.dumps({}, 2))
    with pytest.raises(ValueError, match="same name"):
        read_pth(path)


def packed(path: Path, content: Any, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """The content as torch saves it, compressed afterward."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", method) as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    return path


def test_compressed_archives_are_read(tmp_path: Path) -> None:
    state = {"a": torch.arange(10_000.0), "b": torch.randn(100)}
    found = read_state_dict(packed(tmp_path / "packed.pth", state))
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_compressed_archives_that_hold_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkdzoo.checkpoints.pth.UNPACKED", 1 << 20)
    path = packed(tmp_path / "bomb.pth", {"a": torch.zeros(1_000_000)})
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"bomb\.pth.*hold much more than the file: unpack it"):
        read_state_dict(path)
    with pytest.raises(ValueError, match="another method than deflate"):
        read_state_dict(packed(path, {"a": torch.zeros(1)}, zipfile.ZIP_BZIP2))


def test_archives_without_checksums_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"a": torch.ones(3)}, path)
    content = bytearray(path.read_bytes())
    content[content.rindex(struct.pack("<3f", 1, 1, 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.pth is truncated or damaged.*set_crc32_options.*again"):
        read_state_dict(path)


# -- unusual files that torch loads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
def test_tensors_that_repeat_their_elements(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "file.pth"
    state = {
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2), "scalar": torch.ones(()).expand(4, 5, 6),
        "windows": torch.arange(10.0).unfold(0, 4, 1),
    }  # fmt: skip
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    found, expected = read_state_dict(path), torch.load(path, weights_only=True)
    assert all(torch.equal(found[key], expected[key]) for key in state)
    assert found["expanded"].stride() == (0, 1)


def test_archives_of_big_endian_machines(tmp_path: Path) -> None:
    """The same numbers from both orders of bytes; the archive is as a big-endian machine writes it."""
    state = {
        "float": torch.randn(5), "half": torch.randn(3).half(), "long": torch.tensor([1, -(2**40)]),
        "bytes": torch.arange(5, dtype=torch.uint8), "complex": torch.randn(2, dtype=torch.complex64),
        "part": torch.randn(6)[2:4],
    }  # fmt: skip
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path, widths = tmp_path / "big.pth", [4, 2, 8, 1, 4, 4]
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            name = info.filename.partition("/")[2]
            if name.startswith("data/"):
                width = widths[int(name.removeprefix("data/"))]
                content = b"".join(content[i : i + width][::-1] for i in range(0, len(content), width))
            elif name == "byteorder":
                content = b"big" if sys.byteorder == "little" else b"little"
            target.writestr(info.filename, content)
    found = read_state_dict(path)
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_kinds_of_tensors_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"a": torch.eye(3).to_sparse()}, path)
    with pytest.raises(ValueError, match=r"_rebuild_sparse_tensor\): save plain ones"):
        read_state_dict(path)
    for tensor in (
        torch.complex(torch.ones(2), torch.ones(2)).conj(),
        torch.complex(torch.ones(2), torch.ones(2)).conj().imag,
    ):
        torch.save({"a": tensor}, path)  # torch stores the other sign, and a mark
        with pytest.raises(ValueError, match=r"negated or conjugated on reading: save tensor\.resolve_neg\(\)"):
            read_state_dict(path)
    zip_file(path, b"\x80\x02ctorch\nqint8\n.")
    with pytest.raises(
        ValueError, match=r"tensors of torch\.qint8, which this reader does not know: save them as float32"
    ):
        read_state_dict(path)


def test_the_optimizer_is_read_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save({"optimizer": optimizer.state_dict(), "model": layer.state_dict()}, path)
    assert list(read_pth(path)) == ["model"]
    expected = torch.load(path, weights_only=True)["optimizer"]
    found = read_pth(path, optimizer=True)["optimizer"]
    assert found["param_groups"] == expected["param_groups"]
    assert torch.equal(found["state"][0]["momentum_buffer"], expected["state"][0]["momentum_buffer"])
