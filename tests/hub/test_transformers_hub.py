"""Teachers of transformers from a Hub on loopback: pinned revisions, provenance, and what is never fetched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.hub_client import ROOT, Client
from helpers.loopback_hub import Hub, loopback_hub
from helpers.tiny_transformers import tiny_model

from pkdzoo.data import make_shapes

pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # a process that imports torch and transformers is started

PICKLE = b"cposix\nsystem\n(S'touch x'\ntR."
LOAD = """
teacher = pkdzoo.create_teacher({name!r})
total = sum(float(value.double().sum()) for value in teacher.backbone.state_dict().values())
answer = [teacher.origin.name, teacher.origin.license, teacher.origin.revision, teacher.origin.sha256, total]
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with loopback_hub() as found:
        yield found


@pytest.fixture(scope="module")
def client(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    found = Client(hub, tmp_path_factory.mktemp("home"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """The files of a D-FINE as transformers saves it, with two sets of weights."""
    versions = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("dfine")
        tiny_model("d_fine", seed).save_pretrained(folder)
        (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
        (folder / "preprocessor_config.json").write_text('{"size": {"height": 96, "width": 96}}')
        versions.append({path.name: path.read_bytes() for path in folder.iterdir()})
    return versions


def test_a_revision_is_pinned_and_its_commit_is_known(client: Client, hub: Hub, saved: list[dict[str, bytes]]) -> None:
    old, new = (hub.put("org/dfine", files) for files in saved)
    hub.repositories["org/dfine"].branches["v2"] = old
    hub.requests.clear()
    answers = [client(LOAD.format(name=f"transformers:org/dfine{at}")) for at in ("", f"@{old}", "@v2")]
    for answer, commit, files in zip(answers, (new, old, old), (saved[1], saved[0], saved[0]), strict=True):
        digest = hashlib.sha256(files["model.safetensors"]).hexdigest()
        assert answer[:4] == ["transformers:org/dfine", "apache-2.0", commit, digest]
    assert answers[1] == answers[2] and answers[0][4] != answers[1][4]
    fetched = [line for line in hub.requests if line.startswith("GET") and line.endswith("model.safetensors")]
    assert sorted(fetched) == sorted(f"GET /org/dfine/resolve/{commit}/model.safetensors" for commit in (old, new))


@pytest.mark.slow
def test_a_run_records_the_commit_of_its_teacher(
    client: Client, hub: Hub, saved: list[dict[str, bytes]], tmp_path: Path
) -> None:
    commit = hub.put("org/teacher", saved[0])
    hub.put("org/teacher", saved[1])
    data = make_shapes(tmp_path / "data", train=8, val=4, size=(64, 96))
    distill = {"teacher": f"transformers:org/teacher@{commit}", "methods": {"pkd": {"adapter": True}}}
    values = [
        f"distill={json.dumps(distill)}", "schedule.epochs=1", "schedule.max_steps=2", "data.short=64", "data.long=96",
        "schedule.milestones=[]", "data.batch_size=4", "data.workers=0", "data.min_image_size=0", "init=none",
        "model=retina_r10w16", "model_args={}",
    ]  # fmt: skip
    words = ["retina_r50_1x", "--data", str(data), "--output", str(tmp_path / "run"), "--cpu", "--threads", "1"]
    words += [word for value in values for word in ("--set", value)]
    script = str(ROOT / "recipes" / "train.py")
    answer = client(f"import runpy; runpy.run_path({script!r}, run_name='script')['main']({words!r})")
    assert answer is None, answer
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["teacher"]
    assert (facts["teacher"], facts["teacher_revision"]) == ("transformers:org/teacher", commit)
    assert facts["teacher_sha256"] == hashlib.sha256(saved[0]["model.safetensors"]).hexdigest()
    assert facts["teacher_license"] == "apache-2.0"


def refused(client: Client, name: str) -> str:
    answer: dict[str, Any] = client(f"pkdzoo.create_teacher({f'transformers:{name}'!r})")
    assert answer["error"] in ("ValueError", "FileNotFoundError", "DownloadError")
    text: str = answer["text"]
    assert "Traceback" not in text and "\n" not in text.strip()
    return text


def test_pickles_and_code_are_never_fetched(client: Client, hub: Hub, saved: list[dict[str, bytes]]) -> None:
    rest = {name: content for name, content in saved[0].items() if name != "model.safetensors"}
    hub.put("org/pickled", {**rest, "pytorch_model.bin": PICKLE})
    config = json.loads(rest["config.json"])
    coded = {**config, "auto_map": {"AutoModel": "evil.Model"}}
    code = {"evil.py": b"raise SystemExit('it was run')", "model.safetensors": b"much"}
    hub.put("org/coded", {**rest, **code, "config.json": json.dumps(coded).encode()})
    hub.put("org/detr", {**rest, **code, "config.json": json.dumps({**config, "model_type": "detr"}).encode()})
    hub.requests.clear()
    assert "has no model.safetensors: pickled weights in it are never loaded" in refused(client, "org/pickled")
    assert "runs code of its own repository, which pkdzoo never does" in refused(client, "org/coded")
    assert "is a 'detr', and pkdzoo knows the maps of" in refused(client, "org/detr")
    assert not any(line.endswith((".bin", ".py")) for line in hub.requests)
    assert not any("safetensors" in line for line in hub.requests if "pickled" not in line)


def test_pickles_of_timm_are_never_fetched(client: Client, hub: Hub) -> None:
    pytest.importorskip("timm")
    hub.put("timm/mobilenetv4_conv_small.e2400_r224_in1k", {"config.json": b"{}", "pytorch_model.bin": PICKLE})
    hub.requests.clear()
    model = "m = pkdzoo.create_detector('retina_r10w16', backbone='timm:mobilenetv4_conv_small', norm='bn')"
    answer = client(f"{model}; pkdzoo.load_backbone(m)")
    assert answer["error"] == "FileNotFoundError"
    assert "has no model.safetensors: pickled weights in it are never loaded" in answer["text"]
    assert not any(line.endswith(".bin") for line in hub.requests)


def test_what_does_not_exist_is_said(client: Client, hub: Hub, saved: list[dict[str, bytes]]) -> None:
    hub.put("org/known", saved[0])
    assert "could not be downloaded from the Hub" in refused(client, "org/unknown")
    assert "could not be downloaded from the Hub" in refused(client, "org/known@v7")
    assert "is no repository on the Hub" in refused(client, "org/known@../main")
