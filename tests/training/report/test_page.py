"""The report of runs: what it says, and that hostile names and missing files do no harm."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import torch
from helpers.commands import fails, run
from helpers.run_folders import write_comparison, write_run

from pkdzoo.data import make_shapes
from pkdzoo.evaluation.matches import Difference
from pkdzoo.evaluation.saved_detections import DETECTIONS, SavedDetections
from pkdzoo.training.report import contenders as reading
from pkdzoo.training.report.charts import Line, histogram, line_chart, thinned
from pkdzoo.training.report.contenders import Contender, read_contenders
from pkdzoo.training.report.measures import verdict
from pkdzoo.training.report.page import render, update_report, write_report
from pkdzoo.training.report.pairs import pair_students


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("own") / "photos", train=1, val=6, size=(64, 96))


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short bootstrap; tests/evaluation/test_matches.py tests it."""
    monkeypatch.setattr("pkdzoo.evaluation.matches.SAMPLES", 30)


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mine"
    write_comparison(folder, data)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return write_report([folder]).read_text()


def content(page: str) -> dict:
    """The data of the page's script."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def text(page: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", page))


def test_the_verdict_has_the_numbers_and_their_uncertainty(folder: Path, page: str) -> None:
    plain, distilled = (json.loads((folder / name / "metrics.json").read_text()) for name in ("plain", "distilled"))
    found = re.search(r'<p class="verdict">(.*?)</p>', page, re.DOTALL)
    assert found is not None
    said = unescape(found[1])
    assert f"reaches AP {distilled['AP']:.1f}, the plain one {plain['AP']:.1f}" in said
    assert f"{distilled['AP'] - plain['AP']:+.1f} (95 % interval +" in said and "distillation helped" in said
    assert "of the gap to the teacher" in said and "runs with another seed may differ" in said


def test_every_part_is_there(page: str) -> None:
    said = text(page)
    for part in (
        "Comparison", "AP by epoch", "Pearson's r by level", "At IoU 0.5", "AP by class", "F1 by threshold",
        "Confusion", "Validation images", "Size and speed", "How it was made", "pkdzoo distill --data photos",
        "F1 is highest at", "12.5", "retina_r10w16",
    ):  # fmt: skip
        assert part in said, part
    assert page.count("<svg") >= 6


def test_a_threshold_is_not_rounded_up_to_where_nothing_is_found(folder: Path, monkeypatch) -> None:
    best = {"threshold": 0.99995, "precision": 90.0, "recall": 80.0, "f1": 84.7}
    monkeypatch.setattr("pkdzoo.training.report.measures.best_thresholds", lambda *_: {"all": best, "per_class": {}})
    said = text(render(read_contenders([folder]), "mine"))
    assert "F1 is highest at 0.99995: precision 90.0" in said and said.count("scores above 0.99995") == 2


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)""", page)
    assert "default-src 'none'" in page and not re.search(r"url\(|@import|fetch\(|XMLHttp|innerHTML", page)


def test_the_gallery_begins_with_the_largest_difference(page: str) -> None:
    images = content(page)["gallery"]
    assert len(images) == 6 and all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    errors = [[int(number) for number in re.findall(r": (\d+)", image["caption"])] for image in images]
    differences = [abs(one - other) for one, other in errors]
    assert differences == sorted(differences, reverse=True)
    assert [tile["title"] for tile in images[0]["tiles"]] == ["ground truth", "plain", "distilled"]
    wrong = sum(1 for box in images[0]["tiles"][2]["boxes"] if not box[6])
    assert wrong <= errors[0][0]
    assert all(-5 <= value <= 105 for box in images[0]["tiles"][0]["boxes"] for value in box[:4])


def test_costs_are_counted(folder: Path) -> None:
    teacher, plain, distilled = read_contenders([folder])
    assert [c.role for c in (teacher, plain, distilled)] == ["teacher", "plain", "distilled"]
    assert plain.costs == distilled.costs and plain.costs is not None and 0.5 < plain.costs[0] < 1


def test_runs_side_by_side(folder: Path, tmp_path: Path) -> None:
    path = write_report([folder / "plain", folder / "distilled", folder], tmp_path / "both.html", pictures=False)
    contenders = read_contenders([folder / "plain", folder / "distilled", folder])
    assert [c.title for c in contenders] == ["big", "plain", "distilled"]
    assert content(path.read_text())["gallery"] == [] and "Left out of this report" in path.read_text()


def test_the_command_writes_it_again(capsys, folder: Path, tmp_path: Path, monkeypatch) -> None:
    (folder / "report.html").unlink(missing_ok=True)
    code, out, _ = run(capsys, "report", folder, "--json")
    assert code == 0 and json.loads(out)["output"] == str(folder / "report.html")
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "report", folder / "plain", folder / "distilled", "--no-images")
    assert code == 0 and out == "report.html\n" and (tmp_path / "report.html").is_file()
    assert "holds no run" in fails(capsys, "report", tmp_path)


def test_one_run_before_and_after_its_first_evaluation(folder: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(folder / "plain" / "recipe.json", begun)
    assert "No evaluation yet" in write_report([begun]).read_text()
    assert "The plain detector reaches AP" in write_report([folder / "plain"], tmp_path / "p.html").read_text()
    said = write_report([folder / "distilled"], tmp_path / "d.html").read_text()
    assert "Whether the teacher helped is not known" in said


def test_without_the_annotations_the_numbers_stay(folder: Path, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder / "plain", tmp_path / "plain"))
    detections = SavedDetections.read(copy / DETECTIONS)
    replace(detections, annotations=tmp_path / "gone" / "x.json").write(copy / DETECTIONS)
    said = write_report([copy]).read_text()
    assert "AP by class" in said and "Validation images" not in said
    replace(detections, images=tmp_path / "gone").write(copy / DETECTIONS)
    assert "The validation images could not be read" in write_report([copy]).read_text()


def test_a_damaged_file_is_an_error_by_name_and_no_end_of_a_run(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder / "plain", tmp_path / "plain"))
    (copy / "log.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2"):
        write_report([copy])
    with pytest.warns(UserWarning, match="was not written: ValueError"):
        update_report(copy, light=True)
    (copy / "log.jsonl").write_text('{"step": 1}\n{"st')
    assert len(read_contenders([copy])[0].log) == 1
    (copy / DETECTIONS).write_bytes(b"x" * 50)
    with pytest.raises(ValueError, match="not as an evaluation wrote it"):
        write_report([copy])
    write_report([copy], light=True)


def test_hostile_names_stay_text(data: Path, tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    file = copy / "annotations" / "instances_val2017.json"
    annotations = json.loads(file.read_text())
    annotations["categories"][0]["name"] = evil
    old = annotations["images"][0]["file_name"]
    annotations["images"][0]["file_name"] = "<b>&.jpg"
    (copy / "val2017" / old).rename(copy / "val2017" / "<b>&.jpg")
    file.write_text(json.dumps(annotations))
    write_run(tmp_path / "run", copy, 2.0)
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    (tmp_path / "run" / "recipe.json").write_text(json.dumps({**recipe, "name": evil, "note": evil}))
    page = write_report([tmp_path / "run"]).read_text()
    assert page.count("</script>") == 2 and "<img" not in page and "<b>&.jpg" not in page
    assert content(page)["classes"][0] == evil and evil in unescape(page)


def test_ten_thousand_classes_are_cut_and_said_so(data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    file = copy / "annotations" / "instances_val2017.json"
    annotations = json.loads(file.read_text())
    annotations["categories"] += [{"id": 1000 + k, "name": f"class {k}"} for k in range(2000)]
    file.write_text(json.dumps(annotations))
    contender = Contender("run", "plain", None, {"AP": 1.0, "per_class": {f"class {k}": 0.0 for k in range(2000)}})
    detections = SavedDetections(
        {
            "image_ids": torch.tensor([row["id"] for row in annotations["images"]]),
            "counts": torch.zeros(6, dtype=torch.int64),
            "boxes": torch.zeros(0, 4),
            "scores": torch.zeros(0),
            "labels": torch.zeros(0, dtype=torch.int32),
        },
        file, copy / "val2017", tuple(row["name"] for row in annotations["categories"]),
    )  # fmt: skip
    contender.detections = detections
    page = render([contender], "many", pictures=False)
    assert "classes with most objects of 2006" in page and len(page) < 1_000_000


def verdict_on(*folders: Path) -> str:
    """The sentences at the top of a report."""
    found = re.search(r'<p class="verdict">(.*?)</p>', write_report(folders, folders[0].parent / "x.html").read_text())
    assert found is not None
    return unescape(found[1])


def change(run: Path, name: str, /, **values: object) -> None:
    """Replace fields of a file of a run."""
    content = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps({**content, **values}))


def test_a_teacher_is_no_plain_student(folder: Path, tmp_path: Path) -> None:
    """A student was said to be better than "the plain one", which was its teacher."""
    runs = Path(shutil.copytree(folder.parent, tmp_path / "runs"))
    teacher, distilled = runs / "teachers" / "big", runs / "mine" / "distilled"
    change(distilled, "recipe.json", distill={"teacher": f"local-dir:{teacher / 'best'}", "methods": {"pkd": {}}})
    assert [c.role for c in read_contenders([distilled, teacher])] == ["teacher", "distilled"]
    said = verdict_on(teacher, distilled)
    assert "helped is not known: distilled has no plain student among these runs: train the same recipe" in said
    assert "the plain one" not in said
    said = verdict_on(teacher, runs / "mine" / "plain", distilled)
    assert "the plain one" in said and "of the gap to the teacher" in said


@pytest.mark.parametrize(
    ("file", "changed", "reason"),
    [
        ("recipe.json", {"model": "fcos_r10w16"}, "has no plain student among these runs"),
        ("recipe.json", {"schedule": {"epochs": 3}}, "has no plain student among these runs"),
        ("metrics.json", {"annotations_sha256": "cd34"}, "has no plain student among these runs"),
        ("recipe.json", {"seed": 5}, "share no seed"),
        ("checkpoints/step_00000010/manifest.json", {"progress": {"step": 10, "done": False}}, "plain is not finished"),
    ],
)
def test_the_verdict_compares_what_pkdzoo_compare_does(
    capsys, folder: Path, tmp_path: Path, file: str, changed: dict, reason: str
) -> None:
    runs = Path(shutil.copytree(folder, tmp_path / "mine"))
    path = runs / "plain" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **changed}))
    said = verdict_on(runs / "plain", runs / "distilled")
    assert "Whether the teacher helped is not known: " in said and reason in said and "interval" not in said
    code, out, _ = run(capsys, "compare", runs / "plain", runs / "distilled")
    assert code == 0 and reason in out


def test_the_verdict_doubts_a_pair_of_unequal_length(folder: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(folder, tmp_path / "mine"))
    assert "steps" not in verdict_on(runs)
    change(runs / "plain", "metrics.json", step=5)
    assert "distilled was trained for 10 steps and its plain student for 5 (seed 0)" in verdict_on(runs)


def test_the_teachers_column_is_of_the_detector_that_taught(folder: Path, tmp_path: Path) -> None:
    """AP was that of its best student; AP by class and latency were those of its last epoch."""
    runs = Path(shutil.copytree(folder.parent, tmp_path / "runs"))
    teacher, mine = runs / "teachers" / "big", runs / "mine"
    distill = {"teacher": str(teacher), "methods": {"pkd": {}}}
    change(mine / "distilled", "recipe.json", distill=distill)
    comparison = json.loads((mine / "comparison.json").read_text())
    rows = [{k: v for k, v in row.items() if k not in ("per_class", "ms_per_image", "hardware")} for row in comparison]
    (mine / "comparison.json").write_text(json.dumps(rows))
    change(teacher, "metrics.json", per_class={"circle": 1.25}, ms_per_image=77.5, hardware="last")
    change(teacher / "best", "metrics.json", per_class={"circle": 88.75}, ms_per_image=3.25, hardware="1 x H100")
    found = read_contenders([mine])[0]
    assert found.metrics["AP"] == rows[0]["AP"] and found.metrics["per_class"] == {"circle": 88.75}
    said = text(write_report([mine]).read_text())
    assert "88.8" in said and "77.5" not in said
    # one line named a single machine for all latencies
    assert "measured on   1 x H100" not in said and "it was measured on the same hardware" in said
    row = re.search(r"Size and speed.*?</section>", (mine / "report.html").read_text(), re.DOTALL)
    assert row is not None and row[0].count("one core") == 2 and row[0].count("1 x H100") == 1
    change(teacher / "best", "metrics.json", annotations_sha256="of other images")
    assert "per_class" not in read_contenders([mine], light=True)[0].metrics


def test_one_machine_is_named_once(page: str) -> None:
    assert "Latency: one image at a time, median, measured on one core." in text(page)


@pytest.mark.parametrize("first", ["a", "b"])
def test_of_two_teachers_name_and_run_are_those_of_the_row(first: str, folder: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(folder.parent, tmp_path / "runs"))
    mine = runs / "mine"
    names = ["b", "a"] if first == "b" else ["a", "b"]  # whatever the order of the folders is
    for name, teacher in zip(names, ("first", "second")):
        shutil.copytree(runs / "teachers" / "big", runs / "teachers" / teacher)
        change(runs / "teachers" / teacher, "recipe.json", name=teacher)
        shutil.copytree(mine / "distilled", mine / name)
        distill = {"teacher": str(runs / "teachers" / teacher), "methods": {"pkd": {}}}
        change(mine / name, "recipe.json", name=name, distill=distill)
    old = json.loads((mine / "comparison.json").read_text())
    teachers = [{**old[0], "name": name} for name in ("fcos", "gfl")]
    students = [{**old[2], "name": name, "teacher": taught} for name, taught in zip(names, ("fcos", "gfl"))]
    (mine / "comparison.json").write_text(json.dumps([*teachers, *students]))
    shutil.rmtree(mine / "distilled")
    found = [c for c in read_contenders([mine]) if c.role == "teacher"]
    assert [(c.title, c.recipe["name"]) for c in found] == [("fcos", "first"), ("gfl", "second")]
    assert [c.folder for c in found] == [runs / "teachers" / name for name in ("first", "second")]
    assert [c.detections is None for c in found] == [False, True], "those of the first are saved"
    said = text(write_report([mine]).read_text())
    assert " fcos " in said and " gfl " in said


def test_verdicts(tmp_path: Path) -> None:
    rows = [
        Contender(role, role, None, {"AP": ap})
        for role, ap in (("teacher", 30.0), ("plain", 20.0), ("distilled", 21.0))
    ]
    rows[2].recipe = {"distill": {"teacher": f"local-dir:{tmp_path}", "methods": {"pkd": {}}}}

    def gap_closed(rows: list[Contender]) -> float | None:
        (tmp_path / "metrics.json").write_text(json.dumps({"AP": rows[0].metrics["AP"]}))
        pair = pair_students(rows)
        assert pair is not None
        return pair.gap_closed

    assert gap_closed(rows) == pytest.approx(0.1)
    assert "these images show no difference" in verdict(rows, Difference(1.0, -0.5, 2.5), 50)
    assert "+1.0 (95 % interval -0.5 to +2.5, bootstrap over 50 images)" in verdict(
        rows, Difference(1.0, -0.5, 2.5), 50
    )
    assert "distillation hurt" in verdict(rows, Difference(-1.0, -2.0, -0.5), 50)
    rows[2].metrics["AP"] = 19.0
    assert "It closes nothing of the gap to the teacher (AP 30.0)." in verdict(rows, Difference(-1, -2, 1), 50)
    rows[2].metrics["AP"] = 31.0
    assert "It passes the teacher (AP 30.0)." in verdict(rows, Difference(11, 9, 13), 50)
    rows[0].metrics["AP"] = 10.0
    assert gap_closed(rows) is None and "is not better than the plain student" in verdict(
        rows, Difference(1, 0.5, 2), 9
    )


def test_charts() -> None:
    assert line_chart([], "x", "y") == line_chart([Line("a", [], "s0")], "x", "y") == histogram([0], [0], None) == ""
    counts = histogram([0, 3], [120, 40], 0.5)
    assert [text in counts for text in (">0<", ">1<", ">10<", ">100<", ">1000<", ">99<")] == [True] * 4 + [False] * 2
    one = line_chart([Line("a", [(1.0, 5.0)], "s0")], "epoch", "AP")
    assert "<circle" in one and "nan" not in one
    long = [(float(k), 0.5) for k in range(5000)]
    assert len(thinned(long)) == 200 and thinned(long)[-1] == (4999.0, 0.5)
    assert "nan" not in line_chart([Line("a", long, "s0")], "step", "r")
    assert reading.ORDER["teacher"] < reading.ORDER["distilled"]
