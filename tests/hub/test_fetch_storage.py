"""Caches that are full, read-only, damaged, or used by several processes at once."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers.cache import files_in, refused, same
from helpers.foreign_checkpoints import checkpoint, register
from helpers.serving import Served

import pkdzoo
from pkdzoo.hub import download, fetch
from pkdzoo.hub.weights import Weights

FILE = "/zoo/retina_tiny_coco-1x.pth"
pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.mark.skipif(os.name != "posix", reason="modes of folders are POSIX")
def test_a_cache_that_may_only_be_read(
    server: Served, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    """As another user where this one may write everywhere."""
    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest))
    place = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders are closed to others
    other = os.geteuid() == 0
    try:
        pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=place)
        for folder in (place / ".locks", place):
            folder.chmod(0o555)
        if other:
            os.seteuid(65534)
        assert same(pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=place), state)  # reading is enough
        register(monkeypatch, Weights("coco_2x", url=url, sha256=digest))
        refused("test_retina", place, r"cannot be stored in .*: Permission denied; set PKDZOO_CACHE or cache_dir=")
    finally:
        if other:
            os.seteuid(0)
        place.chmod(0o755)
        (place / ".locks").chmod(0o755)
        shutil.rmtree(place)


@pytest.mark.parametrize("moment", ["before", "in the middle"])
def test_full_disk(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor], moment: str
) -> None:
    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest))
    if moment == "before":
        monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
        refused("test_retina", tmp_path, r"cannot be stored in .* MB are needed and 0 MB are free; set PKDZOO_CACHE")
        return

    class Full:
        """A file on a disk with room for a thousand bytes."""

        def __init__(self, path: Path, *_: object, **__: object) -> None:
            self.name, self.file = str(path), open(path, "wb", buffering=0)  # noqa: SIM115

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, block: bytes) -> int:
            if self.file.tell():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(block[:1000])

    monkeypatch.setattr(download, "open", Full, raising=False)
    refused("test_retina", tmp_path, r"cannot be stored in .*: No space left on device; set PKDZOO_CACHE")
    assert len(server.requests) == 1


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a small disk has to be mounted")
def test_a_disk_that_is_really_full(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    content = checkpoint(state)
    url, digest = server.put(FILE, content)
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest))
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={len(content) // 2}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        refused("test_retina", disk, "cannot be stored in")
        monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1 << 40}))
        refused("test_retina", disk, "cannot be stored in .*: No space left on device")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_no_room_for_the_converted_file(
    server: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: dict[str, torch.Tensor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest))
    monkeypatch.setattr(fetch, "save_safetensors", full)
    assert same(pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=tmp_path), state)
    assert "cannot be kept in" in caplog.text
    assert files_in(tmp_path) == []


def test_a_damaged_cache_is_fetched_again(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest))
    pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=tmp_path)
    place = tmp_path / files_in(tmp_path)[0]
    place.write_bytes(place.read_bytes()[:1000])
    assert same(pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=tmp_path), state)
    assert len(server.requests) == 2


def test_a_cache_that_cannot_be(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, _ = server.put(FILE, b"")
    register(monkeypatch, Weights("coco_1x", url=url))
    (tmp_path / "file").write_text("not a folder")
    refused(
        "test_retina", tmp_path / "file", r"cannot be stored in .*: (File exists|Not a directory); set PKDZOO_CACHE"
    )


def test_many_at_once_fetch_once(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest))
    models: list[pkdzoo.Detector] = []

    def load() -> None:
        models.append(pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=tmp_path))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(models) == 4
    assert all(same(model, state) for model in models)
    assert len(server.requests) == 1
    assert len(files_in(tmp_path)) == 1


def test_pieces_of_killed_processes_go_after_a_day(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest))
    old, young = tmp_path / f"{download.PARTIAL}old", tmp_path / f"{download.PARTIAL}young"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=tmp_path)
    assert not old.exists()
    assert young.exists()
