"""``pkdzoo list`` and ``pkdzoo info``, for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.commands import fails, run

import pkdzoo
from pkdzoo.cli.models import model_facts


class TestListAndInfo:
    def test_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capsys, "list", "*pkd*", "--family", "retina")
        assert (code, err) == (0, "")
        rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}
        assert rows["retina_r50_pkd_swin"] == ["41.5", "COCO", "2017", "mask_rcnn_swin_s.coco_3x"]
        assert all(name.startswith("retina") and "pkd" in name for name in rows)

    def test_data_sets_are_listed_one_after_another(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows = json.loads(run(capsys, "list", "--json")[1])
        data = {row["name"]: (row["data"], row["AP"]) for row in rows}
        lines = run(capsys, "list")[1].splitlines()[1:]
        order = [data[line.split()[0]] for line in lines]
        assert len(order) == len(rows)
        named = [name for name, ap in order if ap is not None]
        assert named == sorted(named, key=lambda name: (name != "COCO 2017", name))
        assert {"COCO 2017", "generated shapes", "BCCD", "DeepPCB"} == set(named)
        assert all(ap is None for _, ap in order[len(named) :])
        assert all(name in line for line, (name, ap) in zip(lines, order) if ap is not None)

    def test_names_and_aps_are_sorted(self, capsys: pytest.CaptureFixture[str]) -> None:
        words = ("list", "gfl_*", "retina_*")
        by_ap = json.loads(run(capsys, *words, "--sort", "AP", "--json")[1])
        scored = {row["name"]: row["AP"] for row in by_ap if row["data"] == "COCO 2017"}
        texts = (run(capsys, *words, *more)[1].splitlines()[1:] for more in ((), ("--sort", "AP")))
        named, best = ([line.split()[0] for line in lines][: len(scored)] for lines in texts)
        assert named == sorted(scored) and len(named) > 10
        assert best == list(scored) and list(scored.values()) == sorted(scored.values(), reverse=True)

    def test_list_for_machines(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows = json.loads(run(capsys, "list", "--pretrained", "--pairs", "--json")[1])
        assert [row["name"] for row in rows] == [
            name for name in pkdzoo.list_detectors(pretrained=True) if name.split(".")[0] in pkdzoo.list_pairs()
        ]
        assert {"name", "family", "AP", "data", "weights", "teacher", "methods"} == set(rows[0])
        assert len(rows) < len(json.loads(run(capsys, "list", "--json")[1]))

    def test_nothing_fits(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no detector matches 'retina_r51'. Did you mean" in fails(capsys, "list", "retina_r51")
        said = fails(capsys, "list", "*bccd*")
        assert "no detector is called '*bccd*', but weights are: write --pretrained to list them" in said
        assert "no family 'yolo'." in fails(capsys, "list", "--family", "yolo")

    def test_info(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = run(capsys, "info", "retina_r50_pkd_swin")[1]
        assert "teacher 48.2, plain student 37.4, distilled 41.5" in out
        assert "80: person, bicycle" in out
        parsed = json.loads(run(capsys, "info", "retina_r50_pkd_swin.coco_2x", "--json")[1])
        assert parsed["distilled"]["teacher"] == "mask_rcnn_swin_s.coco_3x"
        assert [row["tag"] for row in parsed["weights"]] == ["coco_2x"]
        assert parsed["resize"] == [800, 1333]

    def test_info_of_a_detector_without_weights_says_how_to_train_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = run(capsys, "info", "gfl_r34")[1]
        assert "weights      none are published" in out and "distilled    gfl_r34_ld_r101" in out
        assert "pkdzoo train gfl_r34_ld_r101 --data DIR" in out
        assert "own data     pkdzoo distill --data DIR --student gfl_r34" in out
        parsed = json.loads(run(capsys, "info", "retina_r50", "--json")[1])
        assert "retina_r50_pkd_swin" in parsed["students"] and "retina_r50_2x" in parsed["recipes"]

    def test_info_of_a_run_names_its_teacher(
        self, capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path
    ) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "best").symlink_to(folder)
        recipe = {"name": "x", "model": "retina_r10w16", "distill": {"teacher": "gfl_r18", "methods": {"pkd": {}}}}
        (tmp_path / "run" / "recipe.json").write_text(json.dumps(recipe))
        (tmp_path / "run" / "metrics.json").write_text(json.dumps({"AP": 12.34, "epoch": 7}))
        out = run(capsys, "info", tmp_path / "run")[1]
        assert "architecture retina_r10w16\n  family       retina\n" in out
        assert "teacher      gfl_r18, by pkd\n  AP           12.3 after epoch 7\n" in out

    def test_info_counts_the_weights_classes(self, capsys: pytest.CaptureFixture[str]) -> None:
        parsed = json.loads(run(capsys, "info", "fcos_r18w24", "--json")[1])
        model = pkdzoo.create_detector("fcos_r18w24", pretrained=True)
        assert parsed["label_names"] == list(model.label_names) and parsed["num_classes"] == 6
        assert parsed["parameters"] == sum(p.numel() for p in model.parameters())

    def test_info_of_weights_gives_the_image_size_that_they_were_trained_with(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "short side 320, long side up to 320 pixels" in run(capsys, "info", "gfl_cspnext_tiny.bccd")[1]
        assert "short side 800, long side up to 1333 pixels" in run(capsys, "info", "gfl_cspnext_tiny")[1]

    @pytest.mark.parametrize(
        "name", ["retina_r10w16", "fcos_r18w24.shapes", "gfl_r10w16_crosskd_cspnext_tiny", "tood_r50"]
    )
    def test_info_from_the_index_is_that_of_the_detector(self, capsys: pytest.CaptureFixture[str], name: str) -> None:
        content = json.loads(run(capsys, "info", name, "--json")[1])
        weights = [row["labels"] for row in content["weights"]]
        labels = weights[0] if weights else None
        facts = model_facts(pkdzoo.create_detector(name, label_names=labels))
        assert {key: content[key] for key in facts} == json.loads(json.dumps(facts))

    def test_info_says_how_weights_that_are_not_published_are_trained(self, capsys: pytest.CaptureFixture[str]) -> None:
        said = run(capsys, "info", "gfl_cspnext_tiny.bccd")[1]
        assert "not published; train them with python recipes/experiments/run.py recipes/experiments/gfl_bccd" in said
        assert "no source" not in said and "SHA-256" not in said
        said = run(capsys, "info", "rtmdet_tiny.deeppcb")[1]
        assert "train them with" in said and "rtmdet_tiny_300e" not in said  # the architecture's recipe, for COCO
        assert "  recipes      rtmdet_tiny_300e\n" in run(capsys, "info", "rtmdet_tiny")[1]
        said = run(capsys, "info", "gfl_r10w16_crosskd_cspnext_tiny.bccd")[1]
        assert "gfl_r10w16_crosskd_cspnext_tiny_bccd.safetensors, inside the package\n" in said

    def test_info_of_a_folder(self, capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
        parsed = json.loads(run(capsys, "info", folder, "--json")[1])
        model = pkdzoo.create_detector(f"local-dir:{folder}")
        assert parsed["label_names"] == ["cat", "dog", "red fox"]
        assert parsed["architecture"] == "retina_r10w16"
        assert parsed["parameters"] == sum(p.numel() for p in model.parameters())
        assert "classes      3: cat, dog, red fox" in run(capsys, "info", folder)[1]
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "best").symlink_to(folder)
        assert "classes      3: cat, dog, red fox" in run(capsys, "info", tmp_path / "run")[1]
