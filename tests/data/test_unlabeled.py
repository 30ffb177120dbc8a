"""Images without annotations: which files of a folder they are, and how a batch gets them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from PIL import Image
from torch.utils.data import DataLoader

from pkdzoo.data import (
    AspectBatchSampler,
    MixTransform,
    UnlabeledImages,
    find_split,
    make_shapes,
    open_dataset,
    train_transform,
)
from pkdzoo.data.sampler import PairedBatchSampler
from pkdzoo.data.unlabeled import PairedDataset, SplitFiles, collate_both, files_of_same_bytes
from pkdzoo.structures import Batch, Instances
from pkdzoo.utils.files import sha256_of_file


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=5, val=2, size=(64, 96))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Five images in two folders, one of them hidden, and a file that is no image."""
    root, rng = tmp_path / "photos", np.random.default_rng(0)
    (root / "more").mkdir(parents=True)
    for name, size in (("b.png", (60, 80)), ("a.jpg", (90, 50)), ("more/c.png", (40, 70)), ("more/d.bmp", (30, 70)),
                       (".e.png", (40, 40))):  # fmt: skip
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(root / name)
    (root / "notes.txt").write_text("no image")
    return root


def names(images: UnlabeledImages) -> list[str]:
    return [images.file_name(k) for k in range(len(images))]


class TestFolder:
    def test_subfolders_count_and_hidden_files_do_not(self, photos) -> None:
        images = UnlabeledImages(photos)
        assert names(images) == ["a.jpg", "b.png", "more/c.png", "more/d.bmp"]
        assert images.sizes.tolist() == [[90, 50], [60, 80], [40, 70], [30, 70]]
        assert images.describe() == f"{photos}: 4 images without labels"
        assert all(len(sample.instances) == 0 for sample in images) and images[0].size == (90, 50)

    def test_images_of_a_split_that_names_another_folder_are_left_out(self, photos, shapes, tmp_path) -> None:
        """Such names are found in the image folder wherever images are read, so they are here, too."""
        content = json.loads((shapes / "annotations" / "instances_val2017.json").read_text())
        for image in content["images"]:
            image["file_name"] = f"/data/images/val2017/{image['file_name']}"
        truth = tmp_path / "instances_test.json"
        truth.write_text(json.dumps(content))
        shutil.copy(shapes / "val2017" / "000010000001.jpg", photos / "test.jpg")
        images = UnlabeledImages(photos, {"test": SplitFiles(truth, shapes / "val2017")})
        assert images.left_out == {"of the same bytes as an image of the test split": ["test.jpg"]}

    def test_a_test_file_of_coco_may_list_images_alone(self, photos, shapes, tmp_path) -> None:
        """As COCO's own image_info_test2017.json does."""
        content = json.loads((shapes / "annotations" / "instances_val2017.json").read_text())
        truth = tmp_path / "image_info_test.json"
        truth.write_text(json.dumps({"images": content["images"], "categories": content["categories"]}))
        shutil.copy(shapes / "val2017" / "000010000001.jpg", photos / "test.jpg")
        images = UnlabeledImages(photos, {"test": SplitFiles(truth, shapes / "val2017")})
        assert images.left_out == {"of the same bytes as an image of the test split": ["test.jpg"]}

    @pytest.mark.parametrize("format", ["yolo", "voc"])
    def test_images_of_a_test_split_without_labels_are_left_out(self, photos, tmp_path, format) -> None:
        """Labels of a test split are often kept secret: YOLO then has no text files, and VOC a list alone."""
        root = tmp_path / "data"
        folder = {"yolo": root / "images" / "test", "voc": root / "JPEGImages"}[format]
        folder.mkdir(parents=True)
        shutil.copy(photos / "more" / "c.png", folder / "7.png")
        if format == "yolo":
            (root / "data.yaml").write_text("test: images/test\nnames: [cell]\n")
        else:
            shutil.copy(photos / "a.jpg", folder / "8.jpg")  # of another split
            (root / "ImageSets" / "Main").mkdir(parents=True)
            (root / "ImageSets" / "Main" / "test.txt").write_text("7\n")
        images = UnlabeledImages(photos, {"test": SplitFiles(*find_split(root, "test"))})
        assert images.left_out == {"of the same bytes as an image of the test split": ["more/c.png"]}

    def test_labeled_images_are_left_out_by_their_bytes(self, photos, shapes) -> None:
        train, val = open_dataset(shapes, "train"), open_dataset(shapes, "val")
        shutil.copy(val.image_dir / val.file_name(1), photos / "more" / "new name.jpg")
        shutil.copy(train.image_dir / train.file_name(0), photos / "z.jpg")
        images = UnlabeledImages(photos, {"train": train, "val": val})
        assert len(images) == 4
        assert "1 of the same bytes as an image of the val split ('more/new name.jpg')" in images.describe()
        assert "1 of the same bytes as an image of the train split ('z.jpg')" in images.describe()

    def test_files_of_one_size_are_read_as_a_whole_only_where_their_ends_are_equal(
        self, photos, shapes, monkeypatch
    ) -> None:
        train = open_dataset(shapes, "train")
        whole = (train.image_dir / train.file_name(0)).read_bytes()
        (photos / "begin.jpg").write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])  # in the JFIF header
        (photos / "end.jpg").write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        read: list[str] = []
        monkeypatch.setattr(
            "pkdzoo.data.unlabeled.sha256_of_file", lambda path: read.append(path.name) or sha256_of_file(path)
        )
        assert files_of_same_bytes(photos, ["begin.jpg", "end.jpg"], train) == set()
        assert "begin.jpg" in read and "end.jpg" not in read

    def test_small_images_are_left_out(self, photos) -> None:
        images = UnlabeledImages(photos, min_image_size=45)
        assert names(images) == ["a.jpg", "b.png"]
        assert "2 smaller than 45 pixels ('more/c.png', 'more/d.bmp')" in images.describe()

    def test_unreadable_files_are_named(self, photos) -> None:
        (photos / "b.png").write_bytes(b"no image")
        content = (photos / "a.jpg").read_bytes()
        (photos / "a.jpg").write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match="2 of 4 unlabeled images cannot be read: ") as found:
            UnlabeledImages(photos)
        assert str(photos / "b.png") in str(found.value) and str(photos / "a.jpg") in str(found.value)

    def test_folders_without_usable_images_are_refused(self, photos, shapes, tmp_path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match=r"empty has no images; looked for .jpg"):
            UnlabeledImages(tmp_path / "empty")
        with pytest.raises(ValueError, match="nowhere is no folder"):
            UnlabeledImages(tmp_path / "nowhere")
        with pytest.raises(ValueError, match=r"no unlabeled image of .* is left: 4 smaller than 500 pixels"):
            UnlabeledImages(photos, min_image_size=500)
        train = open_dataset(shapes, "train")
        with pytest.raises(ValueError, match="5 of the same bytes as an image of the train split"):
            UnlabeledImages(train.image_dir, {"train": train})

    def test_a_file_that_is_damaged_later_is_replaced_as_a_labeled_one_is(self, photos) -> None:
        images = UnlabeledImages(photos)
        images.max_unreadable = 0.5
        (photos / "a.jpg").write_bytes(b"no image any more")
        assert images[0].meta["file_name"] == "b.png" and images.skipped == 1

    def test_the_digest_follows_names_and_sizes_and_not_the_place(self, photos, tmp_path) -> None:
        first = UnlabeledImages(photos).digest()
        moved = Path(shutil.copytree(photos, tmp_path / "moved"))
        assert UnlabeledImages(moved).digest() == first
        (moved / "b.png").rename(moved / "bb.png")
        assert UnlabeledImages(moved).digest() != first

    def test_augmentation_depends_on_seed_epoch_and_image(self, photos) -> None:
        def pixels(seed: int, epoch: int) -> list[torch.Tensor]:
            images = UnlabeledImages(photos, transform=train_transform((30, 40, 50), 100), seed=seed)
            images.set_epoch(epoch)
            return [images[k].image for k in range(len(images))]

        def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
            return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other))

        assert equal(pixels(0, 1), pixels(0, 1))
        assert not equal(pixels(0, 1), pixels(0, 2)) and not equal(pixels(0, 1), pixels(1, 1))

    def test_without_objects_mosaic_is_not_needed_for_squares(self, photos) -> None:
        images = UnlabeledImages(photos, transform=MixTransform(64, mosaic=0.0, mixup=0.0))
        assert [sample.size for sample in images.__getitems__([0, 1, 2])] == [(64, 64)] * 3


class TestBatches:
    GROUPS = [0] * 7 + [1] * 4

    def batches(self, epoch: int, count: int = 3, seed: int = 0) -> list[list[tuple[int, tuple[int, ...]]]]:
        sampler = PairedBatchSampler(AspectBatchSampler([0] * 10, 4, seed=seed), self.GROUPS, count)
        sampler.set_epoch(epoch)
        return list(sampler)

    def test_labeled_batches_stay_as_they_are(self) -> None:
        plain = AspectBatchSampler([0] * 10, 4)
        plain.set_epoch(2)
        assert [[index for index, _ in batch] for batch in self.batches(2)] == list(plain)

    def test_every_batch_has_the_same_number_also_a_short_one(self) -> None:
        batches = self.batches(0)
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert {len(drawn) for batch in batches for _, drawn in batch} == {3}

    def test_every_order_has_all_images_and_a_few_twice_where_they_do_not_fill_a_batch(self) -> None:
        """11 images, 3 a batch: an order has 4 batches, of which the last one needs an image of the first ones."""
        drawn = [number for epoch in range(8) for batch in self.batches(epoch) for number in batch[0][1]]
        for start in range(0, len(drawn), 12):
            assert sorted(Counter(drawn[start : start + 12]).values()) == [1] * 10 + [2]
        several = PairedBatchSampler(AspectBatchSampler([0] * 10, 4), [0] * 12, 2)  # 3 of 6 batches in an epoch
        used: Counter[int] = Counter()
        for epoch in range(2):
            several.set_epoch(epoch)
            used.update(number for batch in several for number in batch[0][1])
        assert set(used.values()) == {1} and len(used) == 12

    @pytest.mark.parametrize("groups", [[0] * 8 + [1] * 3, [1] * 8 + [0] * 3])
    def test_the_few_images_of_one_aspect_are_used_too(self, groups) -> None:
        sampler = PairedBatchSampler(AspectBatchSampler([0] * 12, 4), groups, 4)
        assert {number for batch in sampler for number in batch[0][1]} == set(range(11))

    def test_batches_have_one_aspect_as_far_as_possible(self) -> None:
        groups = [{self.GROUPS[k] for k in batch[0][1]} for batch in self.batches(0)]
        assert sum(len(group) == 1 for group in groups) >= 2

    def test_orders_follow_seed_and_epoch_alone(self) -> None:
        assert self.batches(3) == self.batches(3)
        assert self.batches(3) != self.batches(4) and self.batches(3) != self.batches(3, seed=1)

    def test_fewer_images_than_a_batch_takes_are_repeated(self) -> None:
        assert {len(batch[0][1]) for batch in self.batches(0, count=25)} == {25}

    def test_every_process_gets_as_many_when_accelerate_completes_the_last_batch(self) -> None:
        shards = [
            list(BatchSamplerShard(PairedBatchSampler(AspectBatchSampler([0] * 9, 2), self.GROUPS, 3), 2, rank))
            for rank in range(2)
        ]
        assert [len(shard) for shard in shards] == [3, 3]
        assert all(len(batch) == 2 and len(batch[0][1]) == 3 for shard in shards for batch in shard)
        first = list(PairedBatchSampler(AspectBatchSampler([0] * 9, 2), self.GROUPS, 3))
        assert [shards[0][0], shards[1][0]] == first[:2]

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_loader_gives_both_and_unlabeled_images_have_no_objects(self, photos, shapes, workers) -> None:
        labeled = open_dataset(shapes, "train", transform=train_transform(64, 96))
        unlabeled = UnlabeledImages(photos, transform=train_transform(64, 96))
        sampler = PairedBatchSampler(AspectBatchSampler([0] * 5, 2), unlabeled.aspect_groups(), 2)
        loader = DataLoader(
            PairedDataset(labeled, unlabeled), batch_sampler=sampler, collate_fn=collate_both, num_workers=workers
        )
        batches = list(loader)
        assert [len(batch) for batch in batches] == [2, 2, 1]
        for batch, drawn in zip(batches, sampler):
            assert batch.instances is not None and batch.unlabeled.instances is None
            assert [meta["file_name"] for meta in batch.unlabeled.meta] == [unlabeled.file_name(k) for k in drawn[0][1]]
        moved = batches[0].to("meta")
        assert moved.unlabeled.images.device.type == moved.images.device.type == "meta"

    def test_impossible_settings(self) -> None:
        for groups, count in (([0], 0), ([], 2)):
            with pytest.raises(ValueError, match="unlabeled images per batch"):
                PairedBatchSampler(AspectBatchSampler([0], 1), groups, count)
        images = torch.zeros(1, 3, 32, 32)
        labeled = Batch(images, [(32, 32)], [Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))])
        with pytest.raises(ValueError, match="put labeled images into the batch itself"):
            Batch(images, [(32, 32)], unlabeled=labeled)
