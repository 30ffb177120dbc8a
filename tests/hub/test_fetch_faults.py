"""Hosts that fail: weights arrive whole or not at all."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import torch
from helpers.cache import refused, same
from helpers.foreign_checkpoints import checkpoint, register
from helpers.serving import Served, cut, serving, status

import pkdzoo
from pkdzoo.hub.weights import Weights
from pkdzoo.utils import retry

FILE = "/zoo/retina_tiny_coco-1x.pth"
pytestmark = pytest.mark.usefixtures("no_settings")


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
