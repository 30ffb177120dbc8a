"""The generated data set: a function of its seed, sound as COCO, whole or absent."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pkdzoo.data import CocoDataset, find_split, make_shapes, synthetic
from pkdzoo.data.synthetic import CLASSES


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=40, val=10, seed=3)


def test_it_is_coco_and_clean(root):
    for split, count in (("train", 40), ("val", 10)):
        found = CocoDataset(*find_split(root, split), with_masks=True)
        assert len(found) == count
        assert found.label_names == list(CLASSES)
        assert found.check_files() == []
        assert found.report.reasons() in ("", f"{found.report.empty_images} images have no box (kept)")
        assert found.report.boxes > 3 * count
    assert not set(found.image_ids.tolist()) & set(range(1, 41))


def test_every_class_and_every_size_is_there(root):
    found = CocoDataset(*find_split(root, "train"))
    assert min(found.report.per_class.values()) > 0.05 * found.report.boxes
    area = found.ground_truth()["area"]
    shares = [(area < 32**2).mean(), ((area >= 32**2) & (area < 96**2)).mean(), (area >= 96**2).mean()]
    assert shares[0] > 0.3
    assert shares[1] > 0.3
    assert shares[2] > 0


def test_boxes_bound_their_masks_and_masks_do_not_overlap(root):
    found = CocoDataset(*find_split(root, "train"), with_masks=True)
    for k in range(10):
        instances = found.load_instances(k)
        assert instances.masks.sum(0).max() <= 1
        for box, mask in zip(instances.boxes.int().tolist(), instances.masks):
            x1, y1, x2, y2 = box
            assert mask[y1:y2, x1:x2].sum() == mask.sum() > 0
            assert mask[y1].any()
            assert mask[y2 - 1].any()
            assert mask[:, x1].any()
            assert mask[:, x2 - 1].any()


def test_color_hints_at_the_class_and_does_not_tell_it(root):
    found = CocoDataset(*find_split(root, "train"), with_masks=True)
    own = torch.tensor(synthetic.COLORS).float()
    right = []
    for sample in found:
        for label, mask in zip(sample.instances.labels.tolist(), sample.instances.masks):
            color = sample.image[:, mask].float().mean(1)
            right.append(int((own - color).norm(dim=1).argmin()) == label)
    share = sum(right) / len(right)
    assert 0.4 < share < 0.8  # chance is 1/6


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_seed_writes_the_same_bytes(root, tmp_path):
    assert files(make_shapes(tmp_path / "again", train=40, val=10, seed=3)) == files(root)
    other = files(make_shapes(tmp_path / "other", train=2, val=1, seed=4))
    assert other["train2017/000000000001.jpg"] != files(root)["train2017/000000000001.jpg"]


def test_a_longer_set_begins_like_a_shorter_one(root, tmp_path):
    short = files(make_shapes(tmp_path / "short", train=5, val=2, seed=3))
    long = files(root)
    images = [name for name in short if name.endswith(".jpg")]
    assert len(images) == 7
    assert all(short[name] == long[name] for name in images)


def test_it_is_not_drawn_twice_and_nothing_is_drawn_over(root, tmp_path):
    before = (root / "shapes.json").stat().st_mtime_ns
    assert make_shapes(root, train=40, val=10, seed=3) == root
    assert (root / "shapes.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"drawn with train=40 \(requested: 41\).*another folder"):
        make_shapes(root, train=41, val=10, seed=3)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="holds something else"):
        make_shapes(tmp_path, train=1, val=1)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert make_shapes(empty, train=1, val=1, size=(64, 64)) == empty


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    real, calls = synthetic.draw_image, []

    def failing(*args):
        calls.append(args)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(synthetic, "draw_image", failing)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "a", train=5, val=5)
    assert list(tmp_path.iterdir()) == []


def test_outlines_fill_the_unit_circle():
    for name in CLASSES:
        corners = synthetic.outline(name)
        assert 0.8 < np.abs(corners).max() <= 1.15
        x, y = corners.T
        area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        assert area > 0.6, name


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"size": (32, 400)}, {"seed": -1}])
def test_impossible_settings(tmp_path, wrong):
    with pytest.raises(ValueError, match="at least one image per split"):
        make_shapes(tmp_path / "a", **wrong)


def test_parameters_are_on_record(root):
    assert json.loads((root / "shapes.json").read_text())["size"] == [192, 256]
