"""The threshold with the highest F1: by hand, and with the matches of pycocotools."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pkdzoo.evaluation.thresholds import IGNORED, RIGHT, WRONG, best_thresholds, match


def columns(rows: list[tuple[Any, ...]], *names: str) -> dict[str, Any]:
    """Columns of rows (image, category, box, ...)."""
    found: dict[str, Any] = {
        "image_id": np.array([row[0] for row in rows], np.int64),
        "category_id": np.array([row[1] for row in rows], np.int64),
        "bbox": np.array([row[2] for row in rows], np.float64).reshape(-1, 4),
    }
    for k, name in enumerate(names):
        found[name] = np.array([row[3 + k] for row in rows], float if name == "score" else bool)
    return found


def truth(*rows: tuple[Any, ...]) -> dict[str, Any]:
    return columns([(*row, False, False)[:5] for row in rows], "iscrowd", "ignore")


def found(*rows: tuple[Any, ...]) -> dict[str, Any]:
    return columns(list(rows), "score")


A, B, C = (0, 0, 10, 10), (20, 0, 10, 10), (40, 0, 10, 10)


def test_by_hand() -> None:
    """Two of three objects are found, with one wrong detection between them.

    Above 0.7: 1 right, precision 1, recall 1/3, F1 1/2. Above 0.3: 2 of 3 right, recall 2/3, F1 2/3. Lower: 2 of 4.
    """
    objects = truth((1, 5, A), (1, 5, B), (2, 5, A))
    detections = found((1, 5, A, 0.9), (2, 5, B, 0.7), (1, 5, B, 0.475), (2, 5, C, 0.3))
    best = best_thresholds(objects, detections, ["cat", "dog"], [5, 8])
    assert best["per_class"] == {"cat": best["all"], "dog": None}
    assert best["all"]["threshold"] == 0.47  # of few digits, and between 0.3 and 0.475
    for key in ("precision", "recall", "f1"):
        assert best["all"][key] == pytest.approx(200 / 3)


def test_one_threshold_for_all_classes_and_one_for_each() -> None:
    objects = truth((1, 5, A), (1, 8, B))
    detections = found((1, 5, A, 0.2), (1, 8, C, 0.6), (1, 8, B, 0.8))
    best = best_thresholds(objects, detections, ["cat", "dog"], [5, 8])
    assert (best["per_class"]["cat"]["f1"], best["per_class"]["dog"]["f1"]) == (100, 100)
    assert best["per_class"]["cat"]["threshold"] < 0.2 < 0.6 <= best["per_class"]["dog"]["threshold"] < 0.8
    assert best["all"]["f1"] == pytest.approx(80)  # 2 of 3 right
    assert 0.1 < best["all"]["threshold"] < 0.2  # not far below the lowest score that was seen


def test_equal_scores_are_not_separated() -> None:
    best = best_thresholds(truth((1, 5, A)), found((1, 5, A, 0.5), (1, 5, C, 0.5)), ["cat"], [5])["all"]
    assert (best["precision"], best["recall"]) == (50, 100)


@pytest.mark.parametrize("detections", [found(), found((1, 5, C, 0.9))])
def test_nothing_right_has_no_threshold(detections: dict[str, Any]) -> None:
    assert best_thresholds(truth((1, 5, A)), detections, ["cat"], [5]) == {"all": None, "per_class": {"cat": None}}


def test_no_object_has_no_threshold() -> None:
    assert best_thresholds(truth(), found((1, 5, C, 0.9)), ["cat"], [5])["all"] is None


def test_ignored_objects_and_crowds_take_any_number_of_detections() -> None:
    detections = found((1, 5, A, 0.9), (1, 5, A, 0.8), (1, 5, (0, 0, 5, 5), 0.7))
    assert match(truth((1, 5, A)), detections).tolist() == [RIGHT, WRONG, WRONG]
    assert match(truth((1, 5, A, False, True)), detections).tolist() == [IGNORED, IGNORED, WRONG]
    assert match(truth((1, 5, A, True, False)), detections).tolist() == [IGNORED, IGNORED, IGNORED]
    both = truth((1, 5, A), (1, 5, A, True, False))
    assert match(both, detections).tolist() == [RIGHT, IGNORED, IGNORED]


@pytest.mark.parametrize("seed", range(3))
def test_matches_are_those_of_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = [
        (int(rng.integers(4)), int(rng.integers(1, 3)), *rng.integers(0, 60, 2), *rng.integers(5, 60, 2))
        for _ in range(60)
    ]
    rows = [
        {
            "id": k + 1,
            "image_id": i,
            "category_id": c,
            "bbox": [float(v) for v in b],
            "area": 1.0,
            "iscrowd": int(k % 7 == 0),
        }
        for k, (i, c, *b) in enumerate(boxes)
    ]
    seen = []
    for k, (i, c, *b) in enumerate(boxes * 4):
        moved = np.array(b, float) + rng.normal(0, 3, 4)
        seen.append({"id": k + 1, "image_id": i, "category_id": c, "bbox": [*moved[:2], *moved[2:].clip(1)],
                     "area": 1.0, "iscrowd": 0, "score": float(rng.random())})  # fmt: skip
    ours = match(
        columns([(r["image_id"], r["category_id"], r["bbox"], r["iscrowd"], 0) for r in rows], "iscrowd", "ignore"),
        columns([(r["image_id"], r["category_id"], r["bbox"], r["score"]) for r in seen], "score"),
    )
    with contextlib.redirect_stdout(io.StringIO()):
        coco, results = COCO(), COCO()
        common = {"images": [{"id": k} for k in range(4)], "categories": [{"id": 1}, {"id": 2}]}
        coco.dataset, results.dataset = {**common, "annotations": rows}, {**common, "annotations": seen}
        coco.createIndex()
        results.createIndex()
        run = COCOeval(coco, results, "bbox")
        run.evaluate()
    theirs = np.full(len(seen), WRONG)
    for part in run.evalImgs[: 4 * 2 * 4]:
        if part is not None and part["aRng"] == run.params.areaRng[0]:
            for number, matched, ignored in zip(part["dtIds"], part["dtMatches"][0], part["dtIgnore"][0]):
                theirs[number - 1] = IGNORED if ignored else RIGHT if matched else WRONG
    assert ours.tolist() == theirs.tolist()
    assert {WRONG, RIGHT, IGNORED} == set(ours.tolist())
