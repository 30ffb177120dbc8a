"""``pkdzoo doctor``: what it reports, and that a report can be published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.commands import run

import pkdzoo
from pkdzoo.cli import doctor


def test_a_healthy_installation(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path / "not" / "yet"))
    code, out, err = run(capsys, "doctor", "--json", "--no-network")
    facts = json.loads(out)
    assert code == 0 and err == ""
    assert facts["pkdzoo"]["version"] == pkdzoo.__version__
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"viz", "export", "fast", "video"} <= set(facts["extras"]) and "dev" not in facts["extras"]
    assert facts["cache"]["weights"] == "0 files, 0 MB" and facts["cache"]["writable"]
    assert facts["hub"] == {"state": "not asked"}
    assert facts["self-test"]["detect, train, save, load"].startswith("good")
    text = run(capsys, "doctor", "--no-network")[1]
    assert f"torch: {facts['versions']['torch']}" in text and "hub        state: not asked" in text


def test_a_failing_self_test_is_code_1_and_the_rest_is_reported(capsys, monkeypatch) -> None:
    def broken() -> None:
        raise RuntimeError("wrong")

    monkeypatch.setattr(doctor, "self_test", broken)
    monkeypatch.setattr(doctor, "about_cache", broken)
    code, out, _ = run(capsys, "doctor", "--json", "--no-network")
    facts = json.loads(out)
    assert code == 1 and facts["self-test"] == facts["cache"] == {"error": "RuntimeError: wrong"}
    assert facts["versions"]["numpy"] != "missing"


def test_a_wrong_detection_fails_the_self_test(monkeypatch) -> None:
    found = pkdzoo.Detector.predict
    monkeypatch.setattr(pkdzoo.Detector, "predict", lambda self, image, threshold: found(self, image, threshold=1.0))
    with pytest.raises(RuntimeError, match="finds nothing"):
        doctor.self_test()


def test_neither_home_nor_passwords_are_shown(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PKDZOO_MIRROR", "https://me:secret@mirror.example/files")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    out = run(capsys, "doctor", "--no-network")[1]
    assert str(tmp_path) not in out and "secret" not in out
    assert "folder: ~/cache" in out and "PKDZOO_MIRROR: https://mirror.example/files" in out


def test_the_network(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert doctor.about_hub(ask=True) == {"state": "not asked: HF_HUB_OFFLINE forbids it"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert doctor.about_hub(ask=True)["state"].startswith("not reachable: ")


def test_the_network_that_answers(monkeypatch, tmp_path) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        assert doctor.about_hub(ask=True)["state"].startswith("reachable, ")
    finally:
        server.shutdown()
