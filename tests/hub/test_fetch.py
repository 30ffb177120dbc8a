"""Weights arrive whole or not at all: a server on loopback, and everything that can go wrong on the way."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from helpers import reference
from helpers.foreign_checkpoints import HistoryBuffer, checkpoint, register, tensors
from helpers.serving import Served, cut, serving, status

import pkdzoo
from pkdzoo.hub import download, fetch, files
from pkdzoo.hub.errors import DownloadError
from pkdzoo.hub.weights import Weights
from pkdzoo.models import _registry
from pkdzoo.utils import retry

FILE = "/zoo/retina_tiny_coco-1x.pth"


@pytest.fixture
def server() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PKDZOO_CACHE", "PKDZOO_MIRROR", "PKDZOO_HUB_NAMESPACE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(retry, "WAIT", 0.0)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return tensors(pkdzoo.create_detector("retina_r10w16"))


def files_in(folder: Path) -> list[str]:
    """Names of everything that a cache holds, but for its locks."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.parent.name != ".locks")


def same(model: pkdzoo.Detector, state: dict[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return set(own) == set(state) and all(torch.equal(own[key], state[key]) for key in own)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
@pytest.mark.parametrize("layout", ["mmdetection", "mmrazor"])
def test_first_from_the_link_then_offline(
    server: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: dict[str, torch.Tensor],
    layout: str,
    zipped: bool,
) -> None:
    url, digest = server.put(FILE, checkpoint(state, layout, zipped))
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest[:8], metrics={"AP": 1.0}))
    model = pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=tmp_path)
    assert same(model, state)
    assert not model.training
    assert model.label_names[:2] == ("person", "bicycle")
    assert model.loaded_from == f"test_retina.coco_1x ({url})"
    assert server.requests == [f"GET {FILE}"]
    assert files_in(tmp_path) == [f"test_retina.coco_1x-{digest[:8]}.safetensors"]
    server.files.clear()
    again = pkdzoo.create_detector("test_retina.coco_1x", pretrained=True, cache_dir=tmp_path)
    assert same(again, state)
    assert len(server.requests) == 1
    batch = pkdzoo.Batch(torch.rand(1, 3, 64, 64) * 255, [(64, 64)])
    first, second = (m.trace(batch, "head").outputs for m in (model, again))
    assert first is not None and second is not None
    assert all(torch.equal(a, b) for a, b in zip(first.cls, second.cls))


FULL = {"retina_r50_pkd_swin.coco_2x": "retina_r50", "faster_rcnn_r50.coco_1x": "faster_rcnn_r50"}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_published_names_from_a_mirror(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The real rows, full-size files in the layout of each zoo under the row's own path; only the hash is ours."""
    entry, row = _registry.find(name)
    assert row is not None
    assert row.url is not None
    theirs = reference.checkpoint(reference.load(f"mmdet/{FULL[name]}")["state_dict"])
    razor = "mmrazor" in row.url
    content = {f"architecture.{key}": value for key, value in theirs.items()} if razor else theirs
    buffer = io.BytesIO()
    torch.save({"state_dict": content, "meta": HistoryBuffer()}, buffer, _use_new_zipfile_serialization=razor)
    _, digest = server.put(urlsplit(row.url).path, buffer.getvalue())
    ours = replace(entry, weights=(replace(row, sha256=digest),))
    monkeypatch.setattr(_registry, "_ENTRIES", {**_registry._ENTRIES, entry.name: ours})
    monkeypatch.setenv("PKDZOO_MIRROR", server.url)
    model = pkdzoo.create_detector(name, pretrained=True, cache_dir=tmp_path)
    wanted = pkdzoo.load_checkpoint(pkdzoo.create_detector(FULL[name]), theirs)
    assert same(model, dict(wanted.state_dict()))
    server.files.clear()
    assert same(pkdzoo.create_detector(name, pretrained=True, cache_dir=tmp_path), dict(wanted.state_dict()))


def test_the_cache_is_where_the_environment_says(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest))
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path / "mine"))
    pkdzoo.create_detector("test_retina", pretrained=True)
    assert len(files_in(tmp_path / "mine")) == 1
    monkeypatch.delenv("PKDZOO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.cache_folder() == tmp_path / "pkdzoo"
    assert fetch.cache_folder("other") == Path("other")


def test_embedded_before_cache_before_hub_before_link(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = pkdzoo.create_detector("retina_r10w16")
    by_source = {name: tensors(base, seed) for seed, name in enumerate(("link", "hub", "cache", "package"))}
    asked = []

    def fetch_repository(repository: str, cache_dir: str | None = None) -> Path:
        asked.append(repository)
        if repository != "someone/retina":
            raise FileNotFoundError(f"404 {repository}")
        config = {"library_name": "pkdzoo", "architecture": "test_retina"}
        return files.save_folder(tmp_path / "hub", by_source["hub"], config)

    url, digest = server.put(FILE, checkpoint(by_source["link"]))
    monkeypatch.setattr(fetch, "fetch_repository", fetch_repository)
    monkeypatch.setattr(fetch, "PACKAGED", tmp_path / "package")
    monkeypatch.setenv("PKDZOO_HUB_NAMESPACE", "mine")
    row = Weights("coco_1x", url=url, sha256=digest, hub_id="someone/retina", file="tiny.safetensors")
    register(monkeypatch, row)

    def load() -> pkdzoo.Detector:
        return pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=tmp_path / "cache")

    assert same(load(), by_source["hub"])
    assert asked == ["mine/test_retina.coco_1x", "someone/retina"]
    assert not server.requests
    (tmp_path / "cache").mkdir()
    fetch.save_safetensors(by_source["cache"], tmp_path / "cache" / f"test_retina.coco_1x-{digest[:8]}.safetensors")
    assert same(load(), by_source["cache"])
    (tmp_path / "package").mkdir()
    fetch.save_safetensors(by_source["package"], tmp_path / "package" / "tiny.safetensors")
    assert same(load(), by_source["package"])
    assert len(asked) == 2


def test_nothing_on_the_hub_falls_back_to_the_link(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    def fetch_repository(repository: str, cache_dir: str | None = None) -> Path:
        raise ConnectionError("no network")

    monkeypatch.setattr(fetch, "fetch_repository", fetch_repository)
    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest, hub_id="someone/retina"))
    assert same(pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=tmp_path), state)
    register(monkeypatch, Weights("coco_1x", hub_id="someone/retina"))
    with pytest.raises(DownloadError, match=r"test_retina\.coco_1x.*someone/retina: no network"):
        pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=tmp_path / "other")


@pytest.mark.parametrize("kind", ["another host", "a folder"])
def test_mirrors(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor], kind: str
) -> None:
    content = checkpoint(state)
    _, digest = server.put("/mirror/a%2Bb/file.pth", content)
    folder = tmp_path / "a+b"
    folder.mkdir()
    (folder / "file.pth").write_bytes(content)
    monkeypatch.setenv("PKDZOO_MIRROR", f"{server.url}/mirror/" if kind == "another host" else str(tmp_path))
    register(monkeypatch, Weights("coco_1x", url="https://gone.invalid/a%2Bb/file.pth", sha256=digest))
    assert same(pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=tmp_path / "cache"), state)


# -- what goes wrong -------------------------------------------------------------------------------------------------


def refused(name: str, folder: Path, match: str, error: type[Exception] = DownloadError) -> None:
    """Loading fails with this message, and the cache is as empty as before."""
    before = files_in(folder)
    with pytest.raises(error, match=match):
        pkdzoo.create_detector(name, pretrained=True, cache_dir=folder)
    assert files_in(folder) == before


def test_wrong_hash(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url, sha256="01234567"))
    refused("test_retina", tmp_path, f"SHA-256 begins with {digest[:8]} and not with 01234567")
    assert len(server.requests) == 1


def test_cut_and_then_whole(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    content = checkpoint(state)
    url, digest = server.put(FILE, content)
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest))
    server.faults[:] = [cut(content)] * retry.ATTEMPTS
    refused(
        "test_retina",
        tmp_path,
        rf"the connection ended after \d+ of {len(content)} bytes \({retry.ATTEMPTS} attempts\)",
    )
    server.faults[:] = [cut(content), status(503)]
    assert same(pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=tmp_path), state)
    assert len(server.requests) == retry.ATTEMPTS + 3


@pytest.mark.parametrize("header", ["many", "-5", "1e6", "\u0661"])
def test_a_length_that_is_none(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str) -> None:
    def nonsense(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(f"HTTP/1.0 200 OK\r\nContent-Length: {header}\r\n\r\nabc".encode("latin-1", "replace"))
        handler.close_connection = True

    register(monkeypatch, Weights("coco_1x", url=server.url + FILE))
    server.faults[:] = [nonsense] * 3
    refused("test_retina", tmp_path, r"could not be downloaded: the host sent an invalid Content-Length, ")


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


@pytest.mark.parametrize(("code", "requests"), [(404, 1), (403, 1), (429, 3), (500, 3)])
def test_errors_of_the_host(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, requests: int
) -> None:
    register(monkeypatch, Weights("coco_1x", url=server.url + "/gone.pth"))
    server.faults[:] = [status(code)] * 3
    refused("test_retina", tmp_path, f"gone.pth could not be downloaded: HTTP {code}")
    assert len(server.requests) == requests


def test_no_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as gone:
        url = gone.url + FILE
    register(monkeypatch, Weights("coco_1x", url=url))
    refused("test_retina", tmp_path, r"could not be downloaded: .*refused.* \(3 attempts\)")


def test_a_page_instead_of_the_file(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, _ = server.put(FILE, b"<!DOCTYPE html><html>log in first</html>")
    register(monkeypatch, Weights("coco_1x", url=url))
    refused("test_retina", tmp_path, "cannot be read as tensors", ValueError)


def test_a_file_that_does_not_fit(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    del state["head.cls.bias"]
    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest))
    refused("test_retina", tmp_path, r"1 missing: head\.cls\.bias", ValueError)


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


def test_a_new_hash_is_a_new_file(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    for seed in (0, 1):
        url, digest = server.put(FILE, checkpoint(tensors(pkdzoo.create_detector("retina_r10w16"), seed)))
        register(monkeypatch, Weights("coco_1x", url=url, sha256=digest))
        model = pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=tmp_path)
        assert same(model, state) is (seed == 0)
    assert len(files_in(tmp_path)) == 2


def test_offline_means_offline(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("test_retina", tmp_path, "HF_HUB_OFFLINE forbids downloading it")
    assert not server.requests


def test_links_of_other_kinds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Weights("coco_1x", url="ftp://host/file.pth"))
    refused("test_retina", tmp_path, "write a link that starts with http, https or file", ValueError)


def test_pages_are_for_people(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"only a browser can open: https://drive\.google\.com/.*load_checkpoint\("):
        pkdzoo.create_detector("gfl_r50_crosskd_r101", pretrained=True, cache_dir=tmp_path)


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
