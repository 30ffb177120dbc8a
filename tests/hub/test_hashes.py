"""Published hashes are checked, whole hashes recorded and required."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.cache import files_in, refused, same
from helpers.foreign_checkpoints import checkpoint, register, tensors
from helpers.serving import Served

import pkdzoo
from pkdzoo.cli import main
from pkdzoo.hub.files import split_repository
from pkdzoo.hub.weights import Weights

FILE = "/zoo/retina_tiny_coco-1x.pth"
pytestmark = pytest.mark.usefixtures("no_settings")


def test_wrong_hash(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url, sha256="01234567"))
    refused("test_retina", tmp_path, f"SHA-256 begins with {digest[:8]} and not with 01234567")
    assert len(server.requests) == 1


def test_a_new_hash_is_a_new_file(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    for seed in (0, 1):
        url, digest = server.put(FILE, checkpoint(tensors(pkdzoo.create_detector("retina_r10w16"), seed)))
        register(monkeypatch, Weights("coco_1x", url=url, sha256=digest))
        model = pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=tmp_path)
        assert same(model, state) is (seed == 0)
    assert len(files_in(tmp_path)) == 2


def load(folder: Path) -> pkdzoo.Detector:
    return pkdzoo.create_detector("test_retina", pretrained=True, cache_dir=folder)


@pytest.mark.parametrize("digits", [0, 8, 64])
def test_the_whole_hash_is_recorded_at_the_first_download(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor], digits: int
) -> None:
    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest[:digits]))
    assert same(load(tmp_path), state)
    assert json.loads((tmp_path / "index.json").read_text()) == {url: digest}


def test_another_file_with_the_same_digits_is_refused(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    """No published digits stand for the eight that a forger can reach."""
    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url))
    load(tmp_path)
    (converted,) = files_in(tmp_path)
    (tmp_path / converted).unlink()
    _, forged = server.put(FILE, checkpoint(tensors(pkdzoo.create_detector("retina_r10w16"), 1)))
    refused("test_retina", tmp_path, rf"has the SHA-256 {forged}, but its first download had {digest}.*remove its line")
    for damaged in ("{", "[]"):
        (tmp_path / "index.json").write_text(damaged)
        refused("test_retina", tmp_path, r"index is damaged: .*Delete it")
    (tmp_path / "index.json").unlink()
    assert not same(load(tmp_path), state)


@pytest.mark.parametrize("digits", [0, 8, 64])
def test_whole_hashes_can_be_required(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor], digits: int
) -> None:
    url, digest = server.put(FILE, checkpoint(state))
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest[:digits], hub_id="someone/else"))
    monkeypatch.setenv("PKDZOO_REQUIRE_SHA256", "1")
    if digits == 64:
        assert same(load(tmp_path), state)
        return
    words = "8 digits" if digits else "no digits"
    refused("test_retina", tmp_path, rf"PKDZOO_REQUIRE_SHA256 is set, and .*'test_retina\.coco_1x' publishes {words}")
    monkeypatch.setenv("PKDZOO_REQUIRE_SHA256", "0")
    register(monkeypatch, Weights("coco_1x", url=url, sha256=digest[:digits]))
    load(tmp_path)
    monkeypatch.setenv("PKDZOO_REQUIRE_SHA256", "1")
    refused("test_retina", tmp_path, "PKDZOO_REQUIRE_SHA256 is set")  # also from the cache


def test_packaged_weights_need_no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKDZOO_REQUIRE_SHA256", "1")
    assert pkdzoo.create_detector("gfl_r10w16_crosskd_cspnext_tiny", pretrained=True).num_classes == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [("retina_r50.coco_2x", "8 digits known, fdb43119"), ("gfl_r10w16_crosskd_cspnext_tiny", "all 64 digits known"),
     ("retina_swin_t", "no digits known")],
)  # fmt: skip
def test_info_says_how_many_digits_are_known(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", name]) == 0
    assert f"SHA-256: {words}" in capsys.readouterr().out


# -- names on the Hub ------------------------------------------------------------------------------------------------

STRANGE = ["org/name@../../../x", "org/../x", "../x", "/etc/x", "org/name@/etc", "org/name@a//b", "org/name@", "a/b/c",
           "org/name@refs/../x", "org/na me", "org/name@a\nb", "org/n\u00e4me", "org/name@a@b", ".hidden/x",
           "org\\name", "org/name@" + "a" * 300, "@main", "org/name@a/", "org/name@.x"]  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_strange_names_of_repositories_never_reach_a_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no repository on the Hub: write ORGANIZATION/NAME"):
        pkdzoo.create_detector(f"hf-hub:{name}", cache_dir=tmp_path)
    repo, at, revision = name.partition("@")
    if at and revision:
        with pytest.raises(ValueError, match=r"is no repository on the Hub|contains a revision"):
            pkdzoo.from_pretrained(f"hf-hub:{repo}", revision=revision, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_usual_names_of_repositories_are_split() -> None:
    assert split_repository("org/name") == ("org/name", "")
    for revision in ("main", "refs/pr/1", "v1.0", "0123456789abcdef0123456789abcdef01234567", "feature/a-b_c"):
        assert split_repository(f"my-org/some_name.coco@{revision}") == ("my-org/some_name.coco", revision)
    assert split_repository("gpt2") == ("gpt2", "")
