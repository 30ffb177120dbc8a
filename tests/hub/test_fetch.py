"""Weights from the package, the cache, the Hub and links: a server on loopback, and the order of the sources."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from helpers import reference
from helpers.cache import files_in, same
from helpers.foreign_checkpoints import HistoryBuffer, checkpoint, register, tensors
from helpers.serving import Served

import pkdzoo
from pkdzoo.hub import fetch, files
from pkdzoo.hub.errors import DownloadError
from pkdzoo.hub.weights import Weights
from pkdzoo.models import _registry

FILE = "/zoo/retina_tiny_coco-1x.pth"
pytestmark = pytest.mark.usefixtures("no_settings")


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
    expected = pkdzoo.load_checkpoint(pkdzoo.create_detector(FULL[name]), theirs)
    assert same(model, dict(expected.state_dict()))
    server.files.clear()
    assert same(pkdzoo.create_detector(name, pretrained=True, cache_dir=tmp_path), dict(expected.state_dict()))


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


@pytest.mark.parametrize("namespace", ["me/mine", "../x", "a b", "https://huggingface.co/me", "me@main"])
def test_namespaces_that_cannot_exist(namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKDZOO_HUB_NAMESPACE", namespace)
    register(monkeypatch, Weights("coco_1x", url="https://host/x.pth"))
    with pytest.raises(ValueError, match=r"PKDZOO_HUB_NAMESPACE=.*: write the name of a user or an organization"):
        pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=tmp_path)


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
