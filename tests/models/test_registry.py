"""Names and rows: the registry's rules, and every published number against a copy of what its source prints."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.reference import load

import pkdzoo
from pkdzoo.data.labels import label_names
from pkdzoo.hub.weights import Distilled, Weights
from pkdzoo.models import _registry
from pkdzoo.models._registry import Entry
from pkdzoo.models._zoo_index import INDEX_FILE, read_index
from pkdzoo.models.backbones.weights import IMAGENET

PUBLISHED = load("published")


@pytest.mark.parametrize("name", PUBLISHED["weights"])
def test_published_rows(name: str) -> None:
    expected, row = PUBLISHED["weights"][name], pkdzoo.get_weights(name)
    assert row.url == expected["url"]
    assert row.sha256 == expected["sha256"]
    assert row.metrics.get("AP") == expected["AP"]
    assert row.metrics.get("mask_AP") == expected.get("mask_AP", row.metrics.get("mask_AP"))
    assert row.direct is not any(site in expected["url"] for site in ("drive.google", "pan.baidu"))
    assert row.license == expected.get("license", "Apache-2.0" if row.direct else "CC-BY-NC-4.0")
    assert row.source
    assert row.labels == "coco"


@pytest.mark.parametrize("name", PUBLISHED["distilled"])
def test_published_pairs(name: str) -> None:
    expected = PUBLISHED["distilled"][name]
    distilled = _registry.find(name)[0].distilled
    assert distilled is not None
    assert (distilled.student, distilled.teacher) == (expected["student"], expected["teacher"])
    assert list(distilled.methods) == expected["methods"]
    assert list(distilled.triple or ()) == expected["triple"]
    assert distilled.source


def test_nothing_else_is_published() -> None:
    linked = {name for name in pkdzoo.list_detectors(pretrained=True) if pkdzoo.get_weights(name).url}
    assert linked == set(PUBLISHED["weights"])


def test_backbone_files() -> None:
    from torchvision.models import ResNet18_Weights, ResNet34_Weights, ResNet50_Weights, ResNet101_Weights

    rows = [row for files in IMAGENET.values() for row in files.values()]
    ours = {
        enum.IMAGENET1K_V1.url for enum in (ResNet18_Weights, ResNet34_Weights, ResNet50_Weights, ResNet101_Weights)
    }
    assert {row.url for row in rows} == ours | set(PUBLISHED["backbones"])
    assert all(row.sha256 in (row.url or "") for row in rows)


@pytest.mark.parametrize("name", pkdzoo.list_pairs())
def test_pairs_name_what_exists(name: str) -> None:
    distilled = _registry.find(name)[0].distilled
    assert distilled is not None
    assert pkdzoo.is_detector(distilled.teacher)
    assert pkdzoo.is_detector(distilled.student)
    if distilled.triple is not None:
        teacher, plain, reached = distilled.triple
        share = (reached - plain) / (teacher - plain) if distilled.gain_shown else None
        assert distilled.gap_closed == pytest.approx(share)


def test_the_default_is_the_highest_ap_that_can_be_had() -> None:
    assert pkdzoo.get_weights("retina_r50").tag == "coco_2x"
    assert pkdzoo.get_weights("retina_x101_64x4d").tag == "coco_1x"  # 41.0 against 40.8
    by_hand = Weights("a", url="page", direct=False, metrics={"AP": 50.0})
    direct = Weights("b", url="file", metrics={"AP": 40.0})
    assert Entry("x", "f", dict, {}, (by_hand, direct)).default is direct
    assert Entry("x", "f", dict, {}, (Weights("c"),)).default is None


def test_list_detectors() -> None:
    assert "retina_r50" in pkdzoo.list_detectors()
    assert pkdzoo.list_detectors("retina_r50_pkd_swin", pretrained=True) == ["retina_r50_pkd_swin.coco_2x"]
    assert pkdzoo.list_detectors("retina_r50.*", pretrained=True) == ["retina_r50.coco_1x", "retina_r50.coco_2x"]
    assert pkdzoo.list_detectors(["gfl_r50", "atss_r50"]) == ["atss_r50", "gfl_r50"]
    found = pkdzoo.list_detectors("*pkd*", exclude=["*crosskd*", "faster*"], family="retina")
    published = ["retina_r50_pkd_fcos_x101", "retina_r50_pkd_swin", "retina_r50_pkd_x101"]
    assert found == published
    assert pkdzoo.list_detectors("nothing*") == []
    assert set(pkdzoo.list_pairs("*swin*")) == {"retina_r50_pkd_swin", "retina_r50_on_output_crosskd_swin_t"}
    names = pkdzoo.list_detectors()
    assert names == sorted(names)


def test_names() -> None:
    assert pkdzoo.is_detector("retina_r50")
    assert pkdzoo.is_detector("retina_r50.coco_2x")
    assert not pkdzoo.is_detector("retina_r50.coco_9x")
    assert not pkdzoo.is_detector("retina_r51")
    with pytest.raises(ValueError, match=r"no detector 'retina_r5'\. Did you mean .*retina_r50"):
        _registry.find("retina_r5")
    with pytest.raises(ValueError, match=r"no detector 'bccd'\. Did you mean \w+\.bccd\?"):
        _registry.find("bccd")
    with pytest.raises(ValueError, match=r"no detector 'swin'\. Did you mean .*mask_rcnn_swin_t"):
        _registry.find("swin")
    with pytest.raises(ValueError, match="its tags: coco_1x, coco_2x"):
        _registry.find("retina_r50.coco")
    with pytest.raises(ValueError, match="no weights for 'gfl_r18'"):
        pkdzoo.get_weights("gfl_r18")


def test_registering_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_ENTRIES", dict(_registry._ENTRIES))
    _registry.register(Entry("test_arch", "test", dict, {}))
    with pytest.raises(ValueError, match="registered already"):
        _registry.register(Entry("test_arch", "test", dict, {}))
    with pytest.raises(ValueError, match="a dot separates"):
        _registry.register(Entry("test.arch", "test", dict, {}))
    with pytest.raises(ValueError, match="two weights with the same tag"):
        _registry.register(Entry("other", "test", dict, {}, (Weights("a"), Weights("a"))))
    with pytest.raises(ValueError, match="register its student 'nobody' first"):
        _registry.register_distilled("x", Distilled("nobody", "retina_r50", ("pkd",)))


def test_families_that_nobody_has() -> None:
    assert pkdzoo.list_detectors(family="retina")
    with pytest.raises(ValueError, match=r"no family 'retna'\. Did you mean retina"):
        pkdzoo.list_detectors(family="retna")
    with pytest.raises(ValueError, match="no family 'yolo'"):
        pkdzoo.results(family="yolo")


def test_the_index_is_what_the_families_register(tmp_path: Path) -> None:
    """In a process of its own, where no other test has registered anything."""
    code = """
import sys
from pkdzoo.maintain import zoo
from pkdzoo.models import _registry
_registry.INDEX["gone"] = _registry.INDEX["retina_r50"]  # of a detector that has left the code
_registry._BUILT_IN["gone"] = _registry._ENTRIES["gone"] = _registry.Entry.from_index("gone")
zoo.measure = lambda name: (0.0, 0.0)  # counting multiply-adds takes long and has tests of its own
zoo.write_zoo_index(sys.argv[1])
assert not {"gone"} & {*_registry.INDEX, *(entry.name for entry in _registry.entries())}
"""
    path = tmp_path / "index.json"
    around = {**os.environ, "PYTHONPATH": str(Path(pkdzoo.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=around, timeout=200)
    current, stored = read_index(path), read_index(INDEX_FILE)
    assert list(current) == list(stored) == sorted(stored), "write it again: python -m pkdzoo.maintain zoo"
    for name, row in current.items():
        assert replace(row, params=stored[name].params, gflops=stored[name].gflops) == stored[name]
        default = _registry.find(name)[0].default
        classes = row.num_classes if default is None else len(label_names(default.labels))
        assert stored[name].params == round(row.parameters[classes] / 1e6, 3)


def test_what_is_no_wildcard_is_refused() -> None:
    with pytest.raises(ValueError, match=r"5 is no wildcard of names: write e\.g\. \"retina"):
        pkdzoo.list_detectors(5)  # type: ignore[arg-type]
