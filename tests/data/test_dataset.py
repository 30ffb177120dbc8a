"""What a data set hands out: labels, boxes, masks, images, and the same ones however it is loaded."""

from __future__ import annotations

import json
import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.processes import on_each
from helpers.tiny_coco import annotation, content, image, write
from PIL import Image
from torch.utils.data import DataLoader

from pkdzoo.data import (
    AspectBatchSampler,
    CocoDataset,
    Compose,
    RandomFlip,
    Resize,
    TooManyUnreadable,
    UnreadableImage,
    collate,
    find_split,
    open_dataset,
    train_transform,
)
from pkdzoo.data.image_dataset import item_seed
from pkdzoo.data.image_files import ORIENTATION


@pytest.fixture
def tiny(tmp_path):
    return write(tmp_path, content())


def many(folder: Path, count: int, **options) -> CocoDataset:
    """``count`` images of different sizes with a box each."""
    rows = [{"id": 100 + k, "file_name": f"{k}.png", "height": 20 + k % 7, "width": 30} for k in range(count)]
    boxes = [annotation(k + 1, 100 + k, [k % 9, 3, 10, 12]) for k in range(count)]
    data = {"images": rows, "annotations": boxes, "categories": [{"id": 3, "name": "cat"}]}
    return CocoDataset(*write(folder, data), **options)


def test_labels_follow_the_category_ids(tiny):
    found = CocoDataset(*tiny)
    assert (found.label_names, found.label_to_coco_id) == (["cat", "dog"], [3, 7])
    assert [found.load_instances(k).labels.tolist() for k in range(3)] == [[0, 1, 0], [1], []]


def test_labels_follow_the_model_where_it_has_names(tiny):
    found = CocoDataset(*tiny, label_names=["dog", "bird", "cat"])
    assert found.label_to_coco_id == [7, -1, 3]
    assert found.load_instances(0).labels.tolist() == [2, 0, 2]
    assert found.report.per_class == {"dog": 2, "bird": 0, "cat": 2}


def test_other_classes_can_be_left_out(tiny):
    found = CocoDataset(*tiny, label_names=["dog"], skip_other_classes=True)
    assert [len(found.load_instances(k)) for k in range(3)] == [1, 1, 0]
    assert found.report.other_classes == 2


def test_boxes_are_corners_and_crowd_is_flagged(tiny):
    found = CocoDataset(*tiny).load_instances(0)
    assert found.boxes.tolist() == [[5, 6, 25, 16], [30, 20, 40, 30], [0, 0, 60, 40]]
    assert found.crowd.tolist() == [False, False, True]
    assert (found.boxes.dtype, found.labels.dtype, found.masks) == (torch.float32, torch.int64, None)


def test_order_sizes_and_groups_are_the_files(tiny):
    found = CocoDataset(*tiny)
    assert found.image_ids.tolist() == [10, 4, 7]
    assert found.sizes.tolist() == [[40, 60], [60, 40], [40, 60]]
    assert found.aspect_groups().tolist() == [1, 0, 1]
    assert [found.file_name(k) for k in range(3)] == ["a.png", "deep/b.png", "c.png"]


def test_images_and_meta(tiny):
    sample = CocoDataset(*tiny)[1]
    assert torch.equal(sample.image, torch.from_numpy(image(60, 40, 1)).permute(2, 0, 1))
    assert sample.meta == {
        "image_id": 4,
        "file_name": "deep/b.png",
        "original_size": (60, 40),
        "scale": (1.0, 1.0),
        "flipped": False,
    }


def test_empty_and_small_images_can_be_left_out(tmp_path):
    data = content()
    data["images"].append({"id": 1, "file_name": "small.png", "height": 31, "width": 90})
    data["annotations"].append(annotation(9, 1, [1, 1, 9, 9]))
    found = CocoDataset(*write(tmp_path, data), drop_empty=True, min_image_size=32)
    assert found.image_ids.tolist() == [10, 4]
    assert (found.report.empty_images, found.report.small_images) == (1, 1)
    assert "1 image has no box (left out)" in str(found.report)
    assert "1 image has no box (kept)" in str(CocoDataset(*write(tmp_path, data)).report)


def test_handed_out_tensors_are_the_callers(tiny):
    found = CocoDataset(*tiny)
    found.load_instances(0).boxes.zero_()
    assert found.load_instances(0).boxes.sum() > 0


def test_masks_are_what_the_file_draws(tmp_path):
    data = content()
    runs = {"size": [40, 60], "counts": [0, 40, 2360]}  # the first column
    concave = [[5, 5, 15, 5, 15, 15], [30, 30, 40, 30, 40, 40, 30, 40]]  # two parts
    data["annotations"][0]["segmentation"] = runs
    data["annotations"][2]["segmentation"] = concave
    data["annotations"][3]["segmentation"] = {"size": [1, 1], "counts": [0, 1]}  # of another image
    found = CocoDataset(*write(tmp_path, data), with_masks=True).load_instances(0)
    assert found.masks.shape == (3, 40, 60)
    assert found.masks[0].nonzero()[:, 1].unique().tolist() == [0]
    assert found.masks[0].sum() == 40
    assert found.masks[1, 35, 35]
    assert found.masks[1, 6, 12]
    assert not found.masks[1, 14, 6]
    assert not found.masks[2].any()


def test_compressed_runs_are_read_back(tmp_path):
    from pycocotools import mask as coco_mask

    drawn = np.random.default_rng(0).random((60, 40)) < 0.3
    runs = coco_mask.encode(np.asfortranarray(drawn, np.uint8))
    data = content()
    data["annotations"][1]["segmentation"] = {"size": runs["size"], "counts": runs["counts"].decode()}
    found = CocoDataset(*write(tmp_path, data), with_masks=True).load_instances(1)
    assert np.array_equal(found.masks[0], drawn)


def test_a_turned_image_keeps_its_boxes_on_their_objects(tmp_path):
    data = content()
    file, images = write(tmp_path, data)
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    Image.fromarray(image(40, 60)).save(images / "a.png", exif=tags)  # stored as the boxes were drawn
    Image.fromarray(image(40, 60)).save(images / "deep" / "b.png", exif=tags)  # drawn on the turned one
    found = CocoDataset(file, images)
    assert found[0].size == (40, 60)
    assert found[1].size == (60, 40)


def test_indices(tiny):
    found = CocoDataset(*tiny)
    assert found[-1].meta["image_id"] == 7
    with pytest.raises(IndexError):
        found[3]


# ---- randomness


def test_item_seeds_differ_and_stay():
    seeds = {item_seed(s, e, i) for s in range(5) for e in range(5) for i in range(100)}
    assert len(seeds) == 2500
    assert item_seed(1, 2, 3) == 6520558355739401531
    assert all(0 <= seed < 2**63 for seed in seeds)


def read_all(dataset, workers=0, epoch=0, **options):
    dataset.set_epoch(epoch)
    sampler = AspectBatchSampler(dataset.aspect_groups(), 4, seed=3)
    sampler.set_epoch(epoch)
    return list(DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate, **options))


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and a.meta == b.meta and a.sizes == b.sizes for a, b in zip(first, second)
    )


def test_workers_do_not_change_what_is_drawn(tmp_path):
    dataset = many(tmp_path, 24, transform=train_transform((20, 40), 80, mode="range"), seed=5)
    first = read_all(dataset)
    assert same(first, read_all(dataset, workers=2))
    assert not same(first, read_all(dataset, epoch=1))
    assert same(first, read_all(dataset, epoch=0))
    other = many(tmp_path, 24, transform=train_transform((20, 40), 80, mode="range"), seed=6)
    assert not same(first, read_all(other))


def test_the_epoch_reaches_workers_that_are_running(tmp_path):
    dataset = many(tmp_path, 16, transform=Compose([Resize((20, 60), 90, mode="range"), RandomFlip()]))
    loader = DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=collate, persistent_workers=True)
    dataset.set_epoch(0)
    first = list(loader)
    dataset.set_epoch(1)
    second = list(loader)
    plain = DataLoader(dataset, batch_size=4, collate_fn=collate)
    assert same(second, list(plain))
    dataset.set_epoch(0)
    assert same(first, list(plain))
    assert not same(first, second)


def test_spawned_workers_share_the_epoch_and_the_marks(tmp_path):
    dataset = many(tmp_path, 8, on_error="skip", max_unreadable=0.5)
    (dataset.image_dir / "3.png").unlink()
    loader = DataLoader(dataset, batch_size=4, num_workers=1, collate_fn=collate, multiprocessing_context="spawn")
    ids = [row["image_id"] for batch in loader for row in batch.meta]
    assert ids == [100, 101, 102, 104, 104, 105, 106, 107]
    assert dataset.skipped == 1


def test_a_pickled_data_set_is_the_same(tiny):
    first = CocoDataset(*tiny, with_masks=True)
    again = pickle.loads(pickle.dumps(first))
    assert torch.equal(first[0].image, again[0].image)
    assert torch.equal(first[0].instances.masks, again[0].instances.masks)


# ---- unreadable images


def skips_on_each(folder: Path) -> tuple[int, str]:
    """The number of skipped images, and the error at the end of an epoch, where each process skipped another one."""
    dataset = many(folder / str(torch.distributed.get_rank()), 8, on_error="skip", max_unreadable=0.2)
    name = dataset.file_name(torch.distributed.get_rank())
    (dataset.image_dir / name).write_bytes(b"")
    for index in range(8):
        dataset[index]
    before = dataset.skipped
    dataset.share_skipped(torch.device("cpu"))
    try:
        dataset.check_skipped()
    except TooManyUnreadable as error:
        return before, str(error)
    return before, ""


def test_all_processes_count_the_images_that_any_of_them_skipped(tmp_path: Path) -> None:
    for before, error in on_each(partial(skips_on_each, tmp_path / "data"), tmp_path / "found"):
        assert before == 1 and error.startswith("2 of 8 images cannot be read, more than 20%")


def test_evaluation_stops_at_an_unreadable_image(tiny):
    (tiny[1] / "c.png").write_bytes(b"broken")
    with pytest.raises(UnreadableImage, match=r"c\.png"):
        CocoDataset(*tiny)[2]


def test_training_takes_the_next_one_and_counts(tmp_path):
    dataset = many(tmp_path, 100, on_error="skip")
    (dataset.image_dir / "99.png").write_bytes(b"broken")
    assert [dataset[99].meta["image_id"] for _ in range(3)] == [100] * 3  # once round; counted once
    assert dataset.skipped == 1
    dataset.check_skipped()


@pytest.mark.parametrize("workers", [0, 2])
def test_more_than_one_in_a_hundred_stops_the_run(tmp_path, workers):
    dataset = many(tmp_path, 100, on_error="skip")
    (dataset.image_dir / "7.png").unlink()
    whole = (dataset.image_dir / "50.png").read_bytes()
    (dataset.image_dir / "50.png").write_bytes(whole[: len(whole) // 2])
    batches = iter(DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=collate))
    with pytest.raises(TooManyUnreadable, match="2 of 100 images cannot be read, more than 1%") as caught:
        list(batches)
    for worker in getattr(batches, "_workers", []):
        worker.terminate()  # else torch waits five seconds for each worker of a loader that failed
    assert "7.png: there is no such file" in str(caught.value)
    assert "50.png: " in str(caught.value)
    assert dataset.skipped == 2
    with pytest.raises(TooManyUnreadable):
        dataset.check_skipped()


def test_nothing_readable_ends_however_much_is_allowed(tiny):
    for name in ("a.png", "deep/b.png", "c.png"):
        os.unlink(tiny[1] / name)
    with pytest.raises(TooManyUnreadable, match="3 of 3"):
        CocoDataset(*tiny, on_error="skip", max_unreadable=1.0)[0]


@pytest.mark.parametrize("kind", ["yolo", "csv"])
def test_images_that_cannot_be_read_are_not_left_out_as_small(tmp_path, kind):
    images = tmp_path / "images" / "train"
    images.mkdir(parents=True)
    for k in range(4):
        if k < 2:
            Image.fromarray(image(64, 96, k)).save(images / f"{k}.png")
        labels = tmp_path / "labels" / "train" / f"{k}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("0 0.5 0.5 0.4 0.4")
    if kind == "yolo":
        (tmp_path / "train.txt").write_text("".join(f"images/train/{k}.png\n" for k in range(4)))
        (tmp_path / "data.yaml").write_text("train: train.txt\nnames: [box]\n")
    else:
        rows = "".join(f"{k}.png,box,9,9,40,40\n" for k in range(4))
        (tmp_path / "train.csv").write_text(f"filename,class,xmin,ymin,xmax,ymax\n{rows}")
    dataset = open_dataset(tmp_path, "train", on_error="skip", min_image_size=32, drop_empty=True)
    found = dataset.report
    assert (len(dataset), found.unread_images, found.small_images, found.empty_images, found.outside) == (4, 2, 0, 0, 0)
    assert [Path(name).name for name in dataset.check_files()] == ["2.png", "3.png"]
    assert str(found).endswith("4 images; 2 images cannot be read")
    with pytest.raises(TooManyUnreadable, match="1 of 4 images cannot be read, more than 1%"):
        dataset[2]


def test_skipping_does_not_depend_on_workers(tmp_path):
    dataset = many(tmp_path, 40, on_error="skip", max_unreadable=0.2, transform=train_transform(25, 60))
    for k in (3, 4, 20):
        (dataset.image_dir / f"{k}.png").unlink()
    assert same(read_all(dataset), read_all(dataset, workers=2))
    assert dataset.skipped == 3


@pytest.mark.slow
def test_an_image_of_a_hundred_megapixels(tmp_path):
    data = content()
    data["images"][0].update(height=9_000, width=12_000)
    data["annotations"][0]["bbox"] = [600, 900, 6000, 4500]
    file, images = write(tmp_path, data, with_images=False)
    Image.new("1", (12_000, 9_000)).save(images / "a.png")
    sample = CocoDataset(file, images, transform=train_transform(800, 1333, flip=0.0))[0]
    assert sample.image.shape == (3, 800, 1067)
    assert torch.allclose(sample.instances.boxes[0], torch.tensor([53.35, 80.0, 586.85, 480.0]))


# ---- real files


@pytest.mark.parametrize("name", ["bccd", "deeppcb", "coco_ccby"])
def test_real_data_says_what_json_says(name):
    root = os.environ.get("PKDZOO_TEST_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip("set PKDZOO_TEST_DATA to a folder with bccd, deeppcb and coco_ccby")
    file, images = find_split(Path(root) / name, "train")
    data = json.loads(file.read_text())
    found = CocoDataset(file, images)
    assert found.check_files() == []
    assert found.report.boxes == len(data["annotations"])
    assert found.report.reasons() == "" or name == "coco_ccby"
    for k in range(0, len(found), 50):
        expected = [row["bbox"] for row in data["annotations"] if row["image_id"] == found.image_ids[k]]
        boxes = found[k].instances.boxes
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)
        assert torch.allclose(boxes, torch.tensor(expected, dtype=torch.float32).reshape(-1, 4), atol=0.02)
