"""AP from matches equals pycocotools'; intervals, confusion and errors by image are right where they can be counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pkdzoo import Detections
from pkdzoo.data import make_shapes, open_dataset
from pkdzoo.evaluation import CocoEvaluator
from pkdzoo.evaluation.ground_truth import AnnotationFile
from pkdzoo.evaluation.matches import (
    Matches,
    confusion,
    errors_by_image,
    f1_by_threshold,
    paired_difference,
    score_histogram,
)  # fmt: skip
from pkdzoo.evaluation.saved_detections import SavedDetections


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, with a crowd region and an ignored object."""
    root = make_shapes(tmp_path_factory.mktemp("shapes"), train=1, val=12, size=(64, 96))
    file = root / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"][3]["iscrowd"] = 1
    content["annotations"][7]["ignore"] = 1
    file.write_text(json.dumps(content))
    return root


def noisy(dataset, seed: int, noise: float) -> list[Detections]:
    """The objects, moved, some of another class and some missing, with random scores and random boxes."""
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator)

    result = []
    for index in range(len(dataset)):
        truth = dataset.load_instances(index)
        kept = random(len(truth)) > 0.2
        boxes = truth.boxes[kept] + noise * (random(int(kept.sum()), 4) - 0.5)
        labels = torch.where(random(len(boxes)) < 0.2, (truth.labels[kept] + 1) % 6, truth.labels[kept])
        corner = 40 * random(9, 2)
        wrong = torch.cat([corner, corner + 5 + 20 * random(9, 2)], 1)
        boxes = torch.cat([boxes, wrong])
        labels = torch.cat([labels, (6 * random(9)).long()])
        result.append(Detections(boxes, random(len(boxes)).mul(50).round() / 50, labels))
    return result


def saved(root: Path, seed: int, noise: float) -> tuple[SavedDetections, dict, CocoEvaluator]:
    dataset = open_dataset(root, "val")
    evaluator = CocoEvaluator(dataset, "pycocotools")
    evaluator.update(dataset.image_ids.tolist(), noisy(dataset, seed, noise))
    state = evaluator.state()
    return (
        SavedDetections(state, dataset.json_path, dataset.image_dir, tuple(dataset.label_names)),
        evaluator.compute(thresholds=True),
        evaluator,
    )


def matches_of(root: Path, seed: int, noise: float) -> Matches:
    detections = saved(root, seed, noise)[0]
    truth = AnnotationFile(detections.annotations)
    return detections.matches(truth, truth.ground_truth())


@pytest.mark.parametrize("noise", [0.0, 4.0, 12.0])
def test_ap_is_that_of_pycocotools(root: Path, noise: float) -> None:
    metrics = saved(root, 3, noise)[1]
    matches = matches_of(root, 3, noise)
    assert matches.ap() == pytest.approx(metrics["AP"], abs=1e-9)
    by_class = 100 * np.nanmean(matches.precision, axis=(0, 1))
    expected = [metrics["per_class"][name] for name in saved(root, 3, noise)[0].label_names]
    assert by_class.tolist() == pytest.approx(expected, abs=1e-9)
    assert 100 * np.nanmean(matches.precision[0]) == pytest.approx(metrics["AP50"], abs=1e-9)


def test_an_image_that_counts_twice_is_an_image_that_is_there_twice(root: Path) -> None:
    matches = matches_of(root, 1, 4.0)
    weights = np.ones(12)
    weights[[2, 5]] = [0, 2]
    content = {name: list(column) for name, column in matches.truth.items() if name != "segmentation"}
    found = {name: list(column) for name, column in matches.found.items()}
    for columns in (content, found):  # image 5 once more as image 2
        kept = [k for k, number in enumerate(columns["image_id"]) if number != matches.image_ids[2]]
        again = [k for k in kept if columns["image_id"][k] == matches.image_ids[5]]
        for name, column in columns.items():
            more = [matches.image_ids[2] if name == "image_id" else column[k] for k in again]
            columns[name] = np.array([column[k] for k in kept] + more)
    twice = Matches(content, found, matches.image_ids, matches.category_ids)
    assert matches.weighted_ap(weights) == pytest.approx(twice.ap(), abs=1.0)  # ties of the copies have another order
    assert matches.weighted_ap(np.ones(12)) == pytest.approx(matches.ap(), abs=0.2)
    assert matches.weighted_ap(np.zeros(12)) is None


def test_a_difference_has_an_interval(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkdzoo.evaluation.matches.SAMPLES", 40)
    good, bad = matches_of(root, 1, 1.0), matches_of(root, 1, 12.0)
    difference = paired_difference(good, bad)
    assert difference is not None and difference.shows
    assert difference.low < difference.value == good.ap() - bad.ap() < difference.high  # type: ignore[operator]
    assert paired_difference(good, bad) == difference  # the same draws each time
    reverse = paired_difference(bad, good)
    assert reverse is not None and reverse.low == pytest.approx(-difference.high)
    same = paired_difference(good, good)
    assert same is not None and (same.value, same.low, same.high) == (0, 0, 0) and not same.shows


def test_confusion_counts_every_object_and_detection_once(root: Path) -> None:
    matches = matches_of(root, 1, 1.0)
    counts = confusion(matches, 0.0)
    assert counts[:-1].sum() == matches.real.sum() == len(matches.real) - 2
    assert counts[:, :-1].sum() <= (matches.found["score"] > 0).sum()
    assert confusion(matches, 1.0)[:-1, -1].sum() == matches.real.sum()  # nothing is above 1: all are missed
    right = int(((matches.status[0] == 1) & (matches.found["score"] > 0)).sum())
    assert abs(int(np.diag(counts).sum()) - right) <= 3  # here a detection may take an object of another class first


def test_errors_are_those_of_the_confusion(root: Path) -> None:
    matches = matches_of(root, 1, 1.0)
    errors = errors_by_image(matches, 0.5)
    above = matches.found["score"] > 0.5
    assert errors[:, 0].sum() == ((matches.status[0] == 0) & above).sum()
    assert errors[:, 1].sum() == matches.real.sum() - ((matches.status[0] == 1) & above).sum()


def test_scores_and_f1(root: Path) -> None:
    matches, best = matches_of(root, 1, 1.0), saved(root, 1, 1.0)[1]["best_f1"]["all"]
    right, wrong = score_histogram(matches)
    assert sum(right) + sum(wrong) == (matches.status[0] != 2).sum()
    assert max(f1_by_threshold(matches)) == pytest.approx(best["f1"], abs=1.0)
    assert max(f1_by_threshold(matches)) <= best["f1"] + 1e-9


def test_nothing_found_and_nothing_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkdzoo.evaluation.matches.SAMPLES", 5)
    matches = matches_of(root, 1, 1.0)
    empty = {name: column[:0] for name, column in matches.found.items()}
    nothing = Matches(matches.truth, empty, matches.image_ids, matches.category_ids)
    assert nothing.ap() == 0 and confusion(nothing, 0.5)[:-1, -1].sum() == matches.real.sum()
    no_truth = {name: column[:0] for name, column in matches.truth.items() if name != "segmentation"}
    assert Matches(no_truth, matches.found, matches.image_ids, matches.category_ids).ap() is None
    assert paired_difference(nothing, matches) is not None


def test_detections_are_read_as_they_were_written(root: Path, tmp_path: Path) -> None:
    detections = saved(root, 1, 1.0)[0]
    detections.write(tmp_path / "d.safetensors")
    again = SavedDetections.read(tmp_path / "d.safetensors")
    assert again.label_names == detections.label_names and again.annotations == detections.annotations
    assert all(torch.equal(again.state[key], detections.state[key]) for key in again.state)
    (tmp_path / "d.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(ValueError, match="not as an evaluation wrote it"):
        SavedDetections.read(tmp_path / "d.safetensors")
