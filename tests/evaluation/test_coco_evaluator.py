"""COCO's numbers: by hand where that can be done, else equal to plain pycocotools on the same files."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import math

import numpy as np
import pytest
import torch
from helpers.coco_truth import BACKENDS, detections, evaluate, truth, write
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pkdzoo.data import CocoDataset
from pkdzoo.evaluation import METRICS, CocoEvaluator
from pkdzoo.evaluation import coco as module
from pkdzoo.structures import Detections


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(tmp_path, backend):
    """Cat: one of two objects found, exactly. Dog: found at IoU 0.6, after a false one. Cow: none in the file.

    Cat: precision 1 up to recall 0.5, so 51 of 101 recall points: AP 51/101 at every threshold.
    Dog: precision 1/2 at every recall point for the thresholds 0.5, 0.55, 0.6 (the box is 50 x 40 and the
    detection its first 30 columns: IoU 0.6 exactly), nothing above: AP50 1/2, AP 3/10 x 1/2.
    """
    file = write(tmp_path, truth([[(2, 10, 10, 40, 40), (9, 100, 100, 50, 40)], [(2, 10, 10, 100, 100)]]))
    found = [
        detections((0, 0.9, 10, 10, 50, 50), (2, 0.9, 200, 10, 240, 60), (2, 0.5, 100, 100, 130, 140)),
        detections(),
    ]  # labels follow the sorted ids: cat 0, cow 1, dog 2
    metrics = evaluate(file, found, backend)
    cat, dog = 51 / 101, 0.5
    assert metrics["per_class"] == {
        "cat": pytest.approx(100 * cat),
        "cow": None,
        "dog": pytest.approx(100 * 0.3 * dog),
    }
    assert metrics["AP50"] == pytest.approx(100 * (cat + dog) / 2)
    assert metrics["AP75"] == pytest.approx(100 * cat / 2)
    assert metrics["AP"] == pytest.approx(100 * (cat + 0.3 * dog) / 2)
    assert metrics["AR100"] == pytest.approx(100 * (0.5 + 0.3) / 2)
    assert metrics["APs"] is None  # nothing below 32 x 32
    assert metrics["APl"] == 0.0
    assert list(metrics) == [*METRICS, "per_class"]
    json.dumps(metrics, allow_nan=False)


def random_case(seed, folder, images=12):
    rng = np.random.default_rng(seed)
    boxes = [
        [
            (
                int(rng.choice([2, 9, 4])),
                *(float(v) for v in rng.integers(0, 100, 2)),
                *(float(v) for v in rng.integers(4, 120, 2)),
            )
            for _ in range(rng.integers(0, 9))
        ]
        for _ in range(images)
    ]
    boxes[1] = [
        (*box, {"iscrowd": 1, "segmentation": {"size": [200, 300], "counts": [3000, 9000, 48000]}}) for box in boxes[1]
    ]
    file = write(folder, truth(boxes))
    found = []
    for image in boxes:
        rows = []
        for category, x, y, w, h, *_ in image:
            for _ in range(rng.integers(0, 4)):
                dx, dy = rng.normal(0, 6, 2)
                label = [2, 4, 9].index(category) if rng.random() < 0.8 else int(rng.integers(3))
                rows.append((label, round(rng.random(), 2), x + dx, y + dy, x + w + dy, y + h + dx))  # some scores tie
        masks = torch.zeros(len(rows), 200, 300, dtype=torch.bool)
        for mask, (_, _, x1, y1, x2, y2) in zip(masks, rows):
            mask[max(int(y1), 0) : int(y2) + 1, max(int(x1), 0) : int(x2) + 1] = True
        found.append(detections(*rows, masks=masks))
    return file, found


def plain(file, results, kind):
    """The twelve numbers and per-class APs as a script around pycocotools has them."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
        run = COCOeval(coco, coco.loadRes(results), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    values = {name: 100 * value for name, value in zip(METRICS, run.stats)}
    for k, number in enumerate(run.params.catIds):
        part = run.eval["precision"][:, :, k, 0, -1]
        if (part > -1).any():
            values[coco.cats[number]["name"]] = 100 * part[part > -1].mean()
    return values


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_plain_pycocotools(tmp_path, backend, seed):
    file, found = random_case(seed, tmp_path)
    evaluator = CocoEvaluator(file, backend=backend, kinds=("bbox", "segm"))
    for k in range(0, 12, 5):
        evaluator.update(range(5 + k, min(10 + k, 17)), found[k : k + 5])
    metrics = evaluator.compute()
    for kind, numbers in (("bbox", metrics), ("segm", metrics["segm"])):
        key = {"bbox": "segmentation", "segm": "bbox"}[kind]
        results = [{k: v for k, v in row.items() if k != key} for row in evaluator.to_coco_results()]
        expected = plain(file, json.loads(json.dumps(results)), kind)
        for name in METRICS:
            assert (-100 if numbers[name] is None else numbers[name]) == pytest.approx(expected[name], abs=1e-9), name
        for name, value in numbers["per_class"].items():
            assert value == pytest.approx(expected[name], abs=1e-9), name
    assert 0 < metrics["AP"] < 100
    assert 0 < metrics["segm"]["AP"] < 100
    assert metrics["AP"] != metrics["segm"]["AP"]


def test_a_data_set_and_its_file_give_the_same(tmp_path):
    file, found = random_case(9, tmp_path)
    expected = evaluate(file, found, kinds=("bbox", "segm"))
    assert evaluate(CocoDataset(file, tmp_path), found, kinds=("bbox", "segm")) == expected
    assert evaluate(CocoDataset(file, tmp_path, with_masks=True), found, kinds=("bbox", "segm")) == expected
    assert evaluate(CocoDataset(file, tmp_path), found, kinds=("segm",)) == expected["segm"]


def test_a_model_with_other_classes_in_another_order(tmp_path):
    file, found = random_case(3, tmp_path)
    expected = evaluate(file, found)
    names = ["zebra", "dog", "cow", "cat"]
    for image in found:
        image.labels = torch.tensor([names.index(("cat", "cow", "dog")[k]) for k in image.labels.tolist()]).long()
    found[0] = Detections(  # what the data set does not have, it cannot judge
        torch.cat((found[0].boxes, torch.tensor([[0.0, 0, 9, 9]]))),
        torch.cat((found[0].scores, torch.ones(1))),
        torch.cat((found[0].labels, torch.zeros(1, dtype=torch.int64))),
    )
    metrics = evaluate(CocoDataset(file, tmp_path, label_names=names), found)
    assert metrics["per_class"].pop("zebra") is None
    assert metrics["per_class"] == expected["per_class"]
    assert metrics["AP"] == expected["AP"]


def test_some_classes_only(tmp_path):
    file, found = random_case(3, tmp_path)
    dataset = CocoDataset(file, tmp_path, label_names=["dog"], skip_other_classes=True)
    dogs = []
    for image in found:
        keep = image[image.labels == 2]
        keep.labels = torch.zeros_like(keep.labels)
        dogs.append(keep)
    metrics = evaluate(dataset, dogs)
    assert metrics["AP"] == metrics["per_class"]["dog"] == evaluate(file, found)["per_class"]["dog"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_perfect_and_nothing(tmp_path, backend):
    data = truth([[(2, 10, 10, 20, 20), (9, 50, 50, 60, 60)], [(4, 5, 5, 120, 120)]])
    file = write(tmp_path, data)
    perfect = [
        detections((0, 0.9, 10, 10, 30, 30), (2, 0.8, 50, 50, 110, 110)),
        detections((1, 0.7, 5, 5, 125, 125)),
    ]
    metrics = evaluate(file, perfect, backend)
    assert {name: metrics[name] for name in METRICS} == dict.fromkeys(METRICS, pytest.approx(100.0))
    nothing = evaluate(file, [detections(), detections()], backend)
    assert {nothing[name] for name in METRICS} == {0.0}
    assert nothing["per_class"] == {"cat": 0.0, "cow": 0.0, "dog": 0.0}


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_ground_truth_is_none_and_not_minus_one(tmp_path, backend):
    metrics = evaluate(write(tmp_path, truth([[], []])), [detections((0, 0.9, 1, 1, 9, 9)), detections()], backend)
    assert {metrics[name] for name in METRICS} == {None}
    assert set(metrics["per_class"].values()) == {None}


@pytest.mark.parametrize("backend", BACKENDS)
def test_annotation_ids_from_zero_do_not_cost_score(tmp_path, backend):
    data = truth([[(2, 10, 10, 50, 50)]])
    data["annotations"][0]["id"] = 0
    found = detections((0, 0.9, 10, 10, 60, 60))
    file = write(tmp_path, data)
    assert evaluate(file, [found], backend)["AP"] == pytest.approx(100)
    evaluator = CocoEvaluator(file)
    evaluator.update([5], [found])
    assert plain(file, evaluator.to_coco_results(), "bbox")["AP"] == 0  # the trap itself


def test_missing_area_and_crowd_and_ids(tmp_path):
    file, found = random_case(5, tmp_path)
    expected = evaluate(file, found)
    data = json.loads(file.read_text())
    for row in data["annotations"]:
        del row["id"], row["area"]
        if not row["iscrowd"]:
            del row["iscrowd"]
    assert evaluate(write(tmp_path, data), found) == expected


def test_an_image_counts_once(tmp_path):
    file, found = random_case(1, tmp_path)
    expected = evaluate(file, found)
    evaluator = CocoEvaluator(file, backend="pycocotools")
    evaluator.update(range(5, 17), found)
    evaluator.update([5, 9], [detections((0, 1.0, 0, 0, 50, 50)), found[4]])
    assert evaluator.seen == 12
    assert evaluator.compute() == expected


@pytest.mark.parametrize("kinds", [("bbox",), ("bbox", "segm")])
def test_processes_merge_to_what_one_evaluates(tmp_path, kinds):
    file, found = random_case(2, tmp_path)
    one = CocoEvaluator(file, kinds=kinds)
    one.update(range(5, 17), found)
    ranks = [CocoEvaluator(file, kinds=kinds) for _ in range(2)]
    for k in range(0, 12, 2):  # images dealt out, the last one twice as Accelerate pads
        for rank in range(2):
            ranks[rank].update([5 + k + rank], [found[k + rank]])
    ranks[1].update([5], [found[0]])
    states = [rank.state() for rank in ranks]
    assert all(isinstance(value, torch.Tensor) for state in states for value in state.values())
    gathered = CocoEvaluator(file, kinds=kinds)
    gathered.load(states)
    assert gathered.seen == 12
    assert gathered.compute() == one.compute()


def test_a_process_without_images_merges_too(tmp_path):
    file, found = random_case(2, tmp_path)
    for kinds in (("bbox",), ("bbox", "segm")):
        idle, busy, gathered = (CocoEvaluator(file, kinds=kinds) for _ in range(3))
        busy.update(range(5, 17), found)
        gathered.load([idle.state(), busy.state()])
        assert gathered.compute() == busy.compute()


def test_only_the_images_seen(tmp_path):
    file, found = random_case(2, tmp_path)
    evaluator = CocoEvaluator(file, backend="pycocotools")
    evaluator.update(range(5, 9), found[:4])
    part = json.loads(file.read_text())
    part["images"] = part["images"][:4]
    part["annotations"] = [row for row in part["annotations"] if row["image_id"] < 9]
    seen = evaluator.compute(seen_only=True)
    assert seen == evaluate(write(tmp_path, part), found[:4])
    assert evaluator.compute()["AR100"] < seen["AR100"]


def test_reset(tmp_path):
    file, found = random_case(2, tmp_path)
    evaluator = CocoEvaluator(file)
    evaluator.update(range(5, 17), found)
    first = evaluator.compute()
    evaluator.reset()
    assert evaluator.seen == 0
    evaluator.update(range(5, 17), found)
    assert evaluator.compute() == first == evaluator.compute()


def test_it_says_nothing(tmp_path, capsys):
    file, found = random_case(2, tmp_path)
    evaluate(file, found)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("before", [True, False])
def test_the_garbage_collector_rests_and_is_left_as_it_was(tmp_path, monkeypatch, before):
    file, found = random_case(2, tmp_path)
    evaluator = CocoEvaluator(file)
    evaluator.update(range(5, 5 + len(found)), found)
    evaluate_kind, during = evaluator._evaluate, []
    monkeypatch.setattr(evaluator, "_evaluate", lambda *args: during.append(gc.isenabled()) or evaluate_kind(*args))
    try:
        (gc.enable if before else gc.disable)()
        assert evaluator.compute()["AP"] is not None
        assert gc.isenabled() == before
        monkeypatch.setattr(evaluator, "_evaluate", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluator.compute()
        assert gc.isenabled() == before
    finally:
        gc.enable()
    assert during == [False]


def test_results_are_cocos_list(tmp_path):
    file = write(tmp_path, truth([[(2, 10, 10, 50, 50)]]))
    evaluator = CocoEvaluator(file)
    evaluator.update(torch.tensor([5]), [detections((2, 0.5, 10, 20, 40, 60))])
    assert evaluator.to_coco_results() == [{"image_id": 5, "category_id": 9, "bbox": [10, 20, 30, 40], "score": 0.5}]


def test_detections_may_carry_gradients_and_half_precision(tmp_path):
    file = write(tmp_path, truth([[(2, 10, 10, 50, 50)]]))
    found = detections((0, 0.5, 10, 10, 60, 60))
    found = Detections(found.boxes.half().requires_grad_(), found.scores.bfloat16().requires_grad_(), found.labels)
    assert evaluate(file, [found])["AP"] == pytest.approx(100)


def test_wrong_calls(tmp_path):
    file = write(tmp_path, truth([[(2, 10, 10, 50, 50)]]))
    with pytest.raises(ValueError, match="write one of 'auto', 'pycocotools', 'faster'"):
        CocoEvaluator(file, backend="fast")
    with pytest.raises(ValueError, match=r"write \('bbox',\), \('segm',\) or both"):
        CocoEvaluator(file, kinds=("keypoints",))
    (tmp_path / "list.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="it has no 'annotations' and no 'categories'"):
        CocoEvaluator(tmp_path / "list.json")
    evaluator = CocoEvaluator(file)
    with pytest.raises(ValueError, match="image id 6 is not in the data set"):
        evaluator.update([6], [detections()])
    with pytest.raises(ValueError, match="2 image ids but detections of 1"):
        evaluator.update([5, 6], [detections()])
    with pytest.raises(ValueError, match="no detections were given"):
        evaluator.compute(seen_only=True)
    evaluator.update([5], [detections((3, 0.5, 1, 1, 2, 2))])
    with pytest.raises(ValueError, match=r"label 3, but the data set has classes 0\.\.2"):
        evaluator.compute()
    with pytest.raises(ValueError, match="these detections have none"):
        CocoEvaluator(file, kinds=("segm",)).update([5], [detections((0, 0.5, 1, 1, 2, 2))])


def test_the_fast_backend_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    file = write(tmp_path, truth([[(2, 10, 10, 50, 50)]]))
    assert CocoEvaluator(file).backend == "pycocotools"
    with pytest.raises(ValueError, match=r"pip install -e .*\[fast\]"):
        CocoEvaluator(file, backend="faster")


def test_a_box_the_loader_drops_still_counts_as_missed(tmp_path):
    file = write(tmp_path, truth([[(2, 10, 10, 50, 50), (2, 10, 10, 0.5, 50)]]))
    dataset = CocoDataset(file, tmp_path)
    assert dataset.report.thin == 1
    metrics = evaluate(dataset, [detections((0, 0.9, 10, 10, 60, 60))])
    assert metrics["AR100"] == pytest.approx(50)
    assert not math.isnan(metrics["AP"])
