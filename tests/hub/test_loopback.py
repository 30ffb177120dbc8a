"""Publishing and loading over a Hub on loopback, by the Hub's real client, in a process of its own.

The client reads its settings when it is imported, so every group of tests talks to one process that was started with
the address of the loopback Hub; a second one is started for HF_HUB_OFFLINE.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.hub_client import Client
from helpers.loopback_hub import Hub, a_byte_lost, half_a_file, hang_up, loopback_hub, status


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with loopback_hub() as found:
        yield found


@pytest.fixture(scope="module")
def client(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    found = Client(hub, tmp_path_factory.mktemp("home"))
    yield found
    found.close()


@pytest.fixture(autouse=True)
def fresh(hub: Hub) -> Iterator[None]:
    hub.requests.clear()
    hub.faults.clear()
    yield
    assert not hub.faults, "a fault was never met"


FILES = ["LICENSE", "README.md", "config.json", "metrics.json", "model.safetensors", "preprocessor_config.json"]


def pushed(client: Client, hub: Hub, name: str, **more: Any) -> str:
    """Publish the client's detector; its commit."""
    answer = client(f"answer = model.push_to_hub('org/{name}', **FACTS, **{more!r})")
    assert isinstance(answer, str), answer
    hub.requests.clear()
    return answer.rpartition("/")[2]


def calls(hub: Hub) -> list[str]:
    """Requests for a repository; the client may ask for other things once a day."""
    return [line for line in hub.requests if "agent-harnesses" not in line]


# -- there and back --------------------------------------------------------------------------------------------------


def test_there_and_back(client: Client, hub: Hub) -> None:
    commit = pushed(client, hub, "pets")
    assert sorted(hub.files("org/pets")) == FILES
    assert client("answer = sorted(HfApi().list_repo_files('org/pets'))") == FILES
    hub.requests.clear()
    same = "answer = [seen(loaded) == seen(model), len(seen(loaded)[0]), loaded.label_names]"
    assert client(f"loaded = pkdzoo.create_detector('hf-hub:org/pets'); {same}") == [True, 100, ["cat", "dog"]]
    first = ["HEAD", "GET"]
    assert [line.split()[0] for line in calls(hub)] == 2 * first
    assert [line.rpartition("/")[2] for line in calls(hub)] == [*2 * ["config.json"], *2 * ["model.safetensors"]]
    assert f"GET /org/pets/resolve/{commit}/model.safetensors" in calls(hub)

    hub.requests.clear()
    assert client(f"loaded = pkdzoo.Detector.from_pretrained('org/pets'); {same}")[0] is True
    assert calls(hub) == ["HEAD /org/pets/resolve/main/config.json"]

    hub.requests.clear()
    assert client(f"loaded = pkdzoo.from_pretrained('org/pets', revision='{commit}'); {same}")[0] is True
    assert client(f"loaded = pkdzoo.create_detector('hf-hub:org/pets@{commit}'); {same}")[0] is True
    assert client(f"loaded = pkdzoo.from_pretrained('org/pets', local_files_only=True); {same}")[0] is True
    assert calls(hub) == []


def test_card_of_what_was_pushed(client: Client, hub: Hub) -> None:
    pushed(client, hub, "carded")
    card = hub.files("org/carded")["README.md"].decode()
    assert 'create_detector("hf-hub:org/carded")' in card
    assert client("from huggingface_hub import ModelCard; answer = ModelCard.load('org/carded').data.license") == "mit"
    config = json.loads(hub.files("org/carded")["config.json"])
    assert config["architecture"] == "retina_r10w16"


def test_offline(client: Client, hub: Hub, tmp_path: Path) -> None:
    pushed(client, hub, "offline")
    client(f"pkdzoo.from_pretrained('org/offline', cache_dir={str(tmp_path / 'cache')!r})")
    assert (tmp_path / "cache" / "models--org--offline").is_dir()
    hub.requests.clear()
    offline = Client(hub, tmp_path / "home", HF_HUB_OFFLINE="1")
    try:
        load = f"cache_dir={str(tmp_path / 'cache')!r})"
        names = f"answer = list(pkdzoo.create_detector('hf-hub:org/offline', {load}.label_names)"
        assert offline(names) == ["cat", "dog"]
        assert "not in the cache" in offline("pkdzoo.from_pretrained('org/other')")["text"]
        refused = offline("model.push_to_hub('org/offline', **FACTS)")
        assert refused["error"] == "UploadError"
        assert "HF_HUB_OFFLINE" in refused["text"]
    finally:
        offline.close()
    assert hub.requests == []


def test_other_classes_and_kinds(client: Client, hub: Hub) -> None:
    pushed(client, hub, "kinds")
    code = "m = pkdzoo.create_detector('hf-hub:org/kinds', num_classes=5); answer = [m.num_classes, len(m.label_names)]"
    assert client(code) == [5, 5]
    wrong = client("from pkdzoo.models.fcos import FCOS\nFCOS.from_pretrained('org/kinds')")
    assert "holds a RetinaNet, not FCOS" in wrong["text"]


def test_branches_and_private_ones(client: Client, hub: Hub) -> None:
    pushed(client, hub, "secret", private=True)
    pushed(client, hub, "secret", private=True, revision="v2", message="second")
    assert sorted(hub.repositories["org/secret"].branches) == ["main", "v2"]
    assert sorted(hub.files("org/secret", "v2")) == FILES
    assert client("answer = list(pkdzoo.from_pretrained('org/secret@v2').label_names)") == ["cat", "dog"]
    refused = client("pkdzoo.from_pretrained('org/secret', token='hf_' + 'wrong' * 5, cache_dir='nowhere-to-be')")
    assert refused["error"] == "DownloadError"
    assert "a private one needs a token" in refused["text"]


# -- what is never loaded --------------------------------------------------------------------------------------------


def test_pickles_are_never_fetched(client: Client, hub: Hub) -> None:
    config = b'{"library_name": "pkdzoo", "architecture": "retina_r10w16"}'
    hub.put("org/pickled", {"config.json": config, "pytorch_model.bin": b"cposix\nsystem\n(S'touch x'\ntR."})
    refused = client("pkdzoo.create_detector('hf-hub:org/pickled')")
    assert refused == {
        "error": "FileNotFoundError",
        "text": "org/pickled has no model.safetensors: pickled weights in it are never loaded",
    }
    assert not any("pytorch_model" in line for line in hub.requests)


def test_models_of_others_are_not_fetched(client: Client, hub: Hub) -> None:
    config = b'{"architectures": ["DetrForObjectDetection"]}'
    hub.put("org/detr", {"config.json": config, "model.safetensors": b"much"})
    hub.put("org/empty", {"README.md": b"nothing"})
    assert "a model of another library" in client("pkdzoo.create_detector('hf-hub:org/detr')")["text"]
    assert not any("safetensors" in line for line in hub.requests)
    assert "has no config.json: no saved detector" in client("pkdzoo.create_detector('hf-hub:org/empty')")["text"]


def test_another_file_than_was_published(client: Client, hub: Hub) -> None:
    pushed(client, hub, "changed")
    whole = dict(hub.files("org/changed"))
    damaged = bytearray(whole["model.safetensors"])
    damaged[-1] ^= 1
    hub.put("org/changed", {**whole, "model.safetensors": bytes(damaged)})
    refused = client("pkdzoo.create_detector('hf-hub:org/changed')")
    assert refused["error"] == "DownloadError"
    assert "does not have the hash in its config" in refused["text"]
    assert client("pkdzoo.create_detector('hf-hub:org/changed')") == refused  # nothing of it was kept
    hub.put("org/changed", whole)
    assert client("answer = seen(pkdzoo.create_detector('hf-hub:org/changed')) == seen(model)") is True


# -- what goes wrong on the way --------------------------------------------------------------------------------------


FAULTS = {"half": half_a_file, "500": status(500), "503": status(503), "429": status(429), "cut": hang_up}


@pytest.mark.parametrize(("kind", "file"), [
    *((kind, "model.safetensors") for kind in FAULTS),
    *(pytest.param(kind, "config.json", marks=() if kind == "half" else pytest.mark.slow) for kind in FAULTS),
])  # fmt: skip
def test_downloads_that_break_once(client: Client, hub: Hub, kind: str, file: str) -> None:
    """The one call gets the whole detector: whoever notices asks again, and nothing half stays."""
    commit = pushed(client, hub, "down")
    client("import tempfile; place = tempfile.mkdtemp()")
    revision = "main" if file == "config.json" else commit
    hub.faults.append((f"GET /org/down/resolve/{revision}/{file}", FAULTS[kind]))
    assert client("answer = seen(pkdzoo.create_detector('hf-hub:org/down', cache_dir=place)) == seen(model)") is True
    assert client("answer = [str(p) for p in Path(place).rglob('*.incomplete')]") == []


@pytest.mark.slow  # the client itself tries for five seconds each time
def test_a_line_that_stays_broken(client: Client, hub: Hub) -> None:
    pushed(client, hub, "stays")
    load = "answer = seen(pkdzoo.create_detector('hf-hub:org/stays')) == seen(model)"
    hub.faults += [("GET /org/stays", half_a_file)] * 50
    refused = client(f"pkdzoo.utils.retry.ATTEMPTS = 1; {load}")
    client("pkdzoo.utils.retry.ATTEMPTS = 3")
    hub.faults.clear()
    assert refused["error"] == "DownloadError"
    assert "org/stays: the connection was lost while config.json was downloaded" in refused["text"]
    assert client(load) is True
    hub.faults += [("HEAD /org/stays", hang_up)] * 50  # what was had once is had without a Hub
    assert client(load) is True
    hub.faults.clear()


def test_a_cache_that_may_not_be_written(client: Client, hub: Hub, tmp_path: Path) -> None:
    pushed(client, hub, "full")
    (tmp_path / "file").write_text("no folder")
    refused = client(f"pkdzoo.create_detector('hf-hub:org/full', cache_dir={str(tmp_path / 'file')!r})")
    assert refused["error"] == "DownloadError"
    assert "org/full cannot be stored in" in refused["text"] and "set cache_dir= or HF_HOME" in refused["text"]


def test_repositories_that_are_not_there(client: Client, hub: Hub) -> None:
    refused = client("pkdzoo.create_detector('hf-hub:org/nobody')")
    assert refused["error"] == "DownloadError"
    assert "RepositoryNotFoundError" in refused["text"]
    pushed(client, hub, "revisions")
    refused = client("pkdzoo.create_detector('hf-hub:org/revisions@nothing')")
    assert refused["error"] == "DownloadError"
    assert "RevisionNotFoundError" in refused["text"]


COMMIT = "POST /api/models/org/{}/commit"


@pytest.mark.parametrize("code", [409, 429, 500, 503])
def test_commits_that_fail_once(client: Client, hub: Hub, code: int) -> None:
    name = f"once-{code}"
    hub.faults.append((COMMIT.format(name), status(code)))
    answer = client(f"answer = model.push_to_hub('org/{name}', **FACTS)")
    assert isinstance(answer, str), answer
    assert sorted(hub.files(f"org/{name}")) == FILES
    assert len([line for line in hub.requests if line.startswith("PUT")]) <= 1


@pytest.mark.parametrize(
    ("code", "words"),
    [(401, "not valid: run `hf auth login`"), (403, "has no write access"), (404, "no such repository")],
)
def test_refusals(client: Client, hub: Hub, code: int, words: str) -> None:
    hub.faults.append(("POST /api/repos/create", status(code)))
    refused = client("model.push_to_hub('org/refused', **FACTS)")
    assert refused["error"] == "UploadError"
    assert f"HTTP {code}" in refused["text"] and words in refused["text"]
    # Not tried again; the client itself looks whether the repository is there already.
    assert [line for line in calls(hub) if not line.startswith("GET")] == ["POST /api/repos/create"]
    assert "org/refused" not in hub.repositories


def test_waits_as_long_as_the_hub_asks(client: Client, hub: Hub) -> None:
    hub.faults.append(("POST /api/repos/create", status(429, Retry_After="0")))
    assert isinstance(client("answer = model.push_to_hub('org/waits', **FACTS)"), str)
    assert len([line for line in hub.requests if line == "POST /api/repos/create"]) == 2


def test_a_broken_upload_goes_on(client: Client, hub: Hub) -> None:
    client("model = detector(7)")
    hub.faults += [(COMMIT.format("broken"), hang_up)] * 20
    refused = client("model.push_to_hub('org/broken', **FACTS)")
    assert refused["error"] == "UploadError"
    assert "run it again, uploaded files are not sent twice" in refused["text"]
    assert len([line for line in hub.requests if line.startswith("PUT /objects")]) == 1
    assert hub.files("org/broken") == {}  # all or nothing
    hub.faults.clear()
    pushed_again = client("answer = model.push_to_hub('org/broken', **FACTS)")
    assert isinstance(pushed_again, str), pushed_again
    assert len([line for line in hub.requests if line.startswith("PUT /objects")]) == 1
    assert sorted(hub.files("org/broken")) == FILES


def test_tensors_that_break_on_the_way_up(client: Client, hub: Hub) -> None:
    client("model = detector(8)")
    hub.faults.append(("PUT /objects", status(500)))
    hub.faults.append(("POST /verify", status(503)))
    assert isinstance(client("answer = model.push_to_hub('org/upload', **FACTS)"), str)
    assert sorted(hub.files("org/upload")) == FILES


def test_tensors_that_arrive_as_others(client: Client, hub: Hub) -> None:
    client("model = detector(9)")
    hub.faults.append(("PUT /objects", a_byte_lost))
    refused = client("model.push_to_hub('org/turned', **FACTS)")
    assert refused["error"] == "UploadError"
    assert "HTTP 400" in refused["text"]
    assert hub.files("org/turned") == {}
    assert isinstance(client("answer = model.push_to_hub('org/turned', **FACTS)"), str)
    assert client("answer = seen(pkdzoo.create_detector('hf-hub:org/turned')) == seen(model)") is True


def test_a_repository_that_goes_meanwhile(client: Client, hub: Hub) -> None:
    hub.faults.append((COMMIT.format("gone"), status(404, X_Error_Code="RepoNotFound")))
    refused = client("model.push_to_hub('org/gone', **FACTS)")
    assert (refused["error"], "HTTP 404" in refused["text"]) == ("UploadError", True)
    assert "no such repository, or the token has no access to it" in refused["text"]


@pytest.mark.slow  # a client of its own
def test_a_hub_without_xet(hub: Hub, tmp_path: Path) -> None:
    """By itself the client sends tensors to the Xet storage; loading asks for nothing of the kind."""
    usual = Client(hub, tmp_path / "home", HF_HUB_DISABLE_XET="0")
    try:
        refused = usual("model.push_to_hub('org/xet', **FACTS)")
        assert refused["error"] == "UploadError"
        assert "this Hub has no Xet storage, set HF_HUB_DISABLE_XET=1" in refused["text"]
        assert len([line for line in hub.requests if "xet-write-token" in line]) == 1
        usual(f"model.save_pretrained({str(tmp_path / 'saved')!r})")
        hub.put("org/xet", {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()})
        assert usual("answer = seen(pkdzoo.create_detector('hf-hub:org/xet')) == seen(model)") is True
    finally:
        usual.close()


# -- teachers --------------------------------------------------------------------------------------------------------


def test_facts_of_a_teacher_from_the_hub(client: Client, hub: Hub) -> None:
    commit = pushed(client, hub, "teacher")
    client("pkdzoo.create_detector('hf-hub:org/teacher')")
    hub.requests.clear()
    facts = client(
        "from pkdzoo.training import Distill\nfrom pkdzoo.training.provenance import about_teacher\n"
        "answer = about_teacher(Distill('hf-hub:org/teacher', {'pkd': {'weight': 3.0}}))"
    )
    assert calls(hub) == []
    assert (facts["teacher"], facts["teacher_revision"]) == ("org/teacher", commit)
    assert facts["teacher_sha256"] == hashlib.sha256(hub.files("org/teacher")["model.safetensors"]).hexdigest()
    assert (facts["teacher_AP"], facts["teacher_license"]) == (12.5, "MIT")
    assert facts["methods"]["pkd"]["weight"] == 3.0
