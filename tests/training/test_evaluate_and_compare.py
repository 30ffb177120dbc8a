"""Measuring over a loader equals measuring by hand; the table of runs; sheets of predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.tiny_coco import content, write
from PIL import Image

import pkdzoo
from pkdzoo.data import CocoDataset, make_shapes
from pkdzoo.data.synthetic import CLASSES
from pkdzoo.evaluation import METRICS, CocoEvaluator
from pkdzoo.inference.result import Result
from pkdzoo.structures import Detections, Instances, Letterbox
from pkdzoo.training import build, loaders
from pkdzoo.training.compare import TrainedRun, add_gap, compare, table
from pkdzoo.training.evaluate import evaluate, open_detector
from pkdzoo.training.evaluate import table as metrics_table
from pkdzoo.training.recipe import Data, Distill, Recipe
from pkdzoo.training.sheet import TILE, TITLE_FONT, choose_images, prediction_sheet, sheet


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=1, val=5, size=(64, 96))
    place = (folder / "annotations" / "instances_val2017.json", folder / "val2017")
    return build.val_dataset(place, (96, 144), CLASSES)  # enlarged by half: boxes have to come back


class Oracle(pkdzoo.Detector):
    """Returns the truth, in the pixels of the batch."""

    def __init__(self) -> None:
        detector = pkdzoo.create_detector("retina_r10w16", num_classes=6)
        super().__init__(detector.backbone, detector.neck, 6)

    def detect(self, batch, inference=None):
        assert not torch.is_grad_enabled()
        return [Detections(i.boxes, torch.linspace(1, 0.5, len(i)), i.labels) for i in batch.instances]


@pytest.mark.parametrize("batch", [1, 2])
def test_the_truth_scores_a_hundred(dataset, batch) -> None:
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(loaders.val_loader(dataset, batch, 0))
    metrics = evaluate(Oracle(), loader, dataset, accelerator)
    assert metrics["AP"] == pytest.approx(100) and metrics["AR100"] == pytest.approx(100)
    assert set(METRICS) <= set(metrics) and tuple(metrics["per_class"]) == CLASSES
    text = metrics_table(metrics)
    assert "100.0" in text and "moon" in text and "moon" not in metrics_table(metrics, per_class=False)


class AtOwnSize(Oracle):
    """Knows the truth of batches of its own image size alone, and detects nothing in others."""

    def __init__(self, resize: tuple[int, int], size: tuple[int, int], letterbox: Letterbox | None = None) -> None:
        super().__init__()
        self.resize, self.size, self.letterbox, self.label_names = resize, size, letterbox, CLASSES

    def detect(self, batch, inference=None):
        if batch.instances is None or tuple(batch.images.shape[-2:]) != self.size:
            return [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())] * len(batch.sizes)
        return super().detect(batch, inference)


@pytest.mark.parametrize(
    "teacher",
    [
        AtOwnSize((96, 144), (96, 160)),  # the student's size, padded to a multiple of 32
        AtOwnSize((64, 96), (64, 96)),
        AtOwnSize((192, 288), (192, 288)),
        AtOwnSize((160, 160), (160, 160), Letterbox()),
    ],
    ids=["the same", "smaller", "larger", "letterbox"],
)
def test_a_teacher_is_compared_at_its_own_size(dataset, teacher, tmp_path, capsys) -> None:
    """It used to be evaluated on the student's images, where it finds less, and the gap looked smaller than it is."""
    accelerator = Accelerator(cpu=True)
    student = pkdzoo.create_detector("retina_r10w16", label_names=CLASSES, resize=(96, 144))
    loader = accelerator.prepare(loaders.val_loader(dataset, 2, 0))
    data = Data(short=96, long=144, eval_batch_size=2, workers=0)
    plain = Recipe("plain", "retina_r10w16", data=data)
    distilled = replace(plain, name="distilled", distill=Distill("fcos_r10w16", {"pkd": {}}, teacher_weights="random"))
    metrics = dict.fromkeys(METRICS, 50.0)
    runs = [
        TrainedRun(recipe, student, model, {**metrics, "AP": ap}, tmp_path / recipe.name, dataset, loader, accelerator)
        for recipe, model, ap in ((plain, None, 40.0), (distilled, teacher, 55.0))
    ]
    rows = {row["name"]: row for row in compare(runs, tmp_path)}
    assert rows[teacher.name]["AP"] == pytest.approx(100)
    assert rows[teacher.name]["image_size"] == list(teacher.resize) and rows["plain"]["image_size"] == [96, 144]
    assert rows["distilled"]["gap_closed"] == pytest.approx(0.25)
    assert dataset[0].size == (96, 144)  # the student's images are as before
    printed = capsys.readouterr().out
    sizes = f"{teacher.resize[0]} x {teacher.resize[1]} of {teacher.name}, 96 x 144 of plain"
    assert (sizes in printed) is (teacher.resize != (96, 144))


def test_the_loop_equals_predict(dataset) -> None:
    torch.manual_seed(0)
    model = pkdzoo.create_detector("fcos_r10w16", num_classes=6, resize=(96, 144))
    accelerator = Accelerator(cpu=True)
    metrics = evaluate(model, accelerator.prepare(loaders.val_loader(dataset, 1, 0)), dataset, accelerator)
    by_hand = CocoEvaluator(dataset)
    for index, number in enumerate(dataset.image_ids):
        result = model.predict(dataset.image_dir / dataset.file_name(index))
        by_hand.update([number], [Detections(result.boxes, result.scores, result.labels)])
    assert metrics == by_hand.compute()


def row(name: str, role: str, ap: float | None) -> dict:
    return {"name": name, "role": role, **dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"), ap)}


def test_the_share_of_the_gap() -> None:
    rows = [
        row("t", "teacher", 40.0),
        row("p", "plain", 30.0),
        row("a", "distilled", 37.5),
        row("b", "distilled", 29.0),
    ]
    add_gap(rows)
    assert [r.get("gap_closed") for r in rows] == [None, None, 0.75, pytest.approx(-0.1)]
    text = table(rows)
    assert "75%" in text and "-10%" in text and len({len(line) for line in text.splitlines()[1:]}) == 1


def test_the_plain_student_of_a_gap_is_the_same_student() -> None:
    """A teacher's own run and another student are no baseline, wherever they stand."""
    rows = [
        row("t", "teacher", 40.0),
        row("teachers run", "its run", 39.0) | {"student": "gfl"},
        row("other", "plain", 10.0) | {"student": "fcos"},
        row("p", "plain", 30.0) | {"student": "retina"},
        row("a", "distilled", 35.0) | {"student": "retina"},
        row("b", "distilled", 35.0) | {"student": "atss"},
    ]
    add_gap(rows)
    assert [r.get("gap_closed") for r in rows] == [None, None, None, None, 0.5, None]


def test_each_student_has_its_own_teacher_and_plain_student() -> None:
    """Two teachers in one comparison, and a plain student that was trained for longer."""
    settings = {"student": "retina", "settings": "aa"}
    rows = [
        row("t", "teacher", 40.0),
        row("t (2)", "teacher", 50.0),
        row("longer", "plain", 35.0) | settings | {"settings": "bb"},
        row("p", "plain", 30.0) | settings,
        row("a", "distilled", 35.0) | settings | {"teacher": "t"},
        row("b", "distilled", 35.0) | settings | {"teacher": "t (2)"},
        row("c", "distilled", 35.0) | settings | {"teacher": None},  # of other classes
    ]
    add_gap(rows)
    assert [r.get("gap_closed") for r in rows[4:]] == [0.5, 0.25, None]


def test_the_plain_student_of_a_gap_has_the_same_seed() -> None:
    rows = [
        row("t", "teacher", 40.0),
        *(row(f"p{seed}", "plain", ap) | {"seed": seed} for seed, ap in ((0, 30.0), (1, 36.0))),
        *(row(f"d{seed}", "distilled", 38.0) | {"seed": seed} for seed in (0, 1, 2)),
    ]
    add_gap(rows)
    assert [r.get("gap_closed") for r in rows[3:]] == [0.8, 0.5, None]


def test_no_gap_no_share() -> None:
    for teacher, plain, distilled in ((30.0, 30.0, 31.0), (None, 30.0, 31.0), (40.0, 30.0, None)):
        rows = [row("t", "teacher", teacher), row("p", "plain", plain), row("d", "distilled", distilled)]
        add_gap(rows)
        assert rows[2].get("gap_closed") is None
        assert table(rows)


def test_a_sheet_shows_the_truth_beside_every_model(dataset) -> None:
    model = pkdzoo.create_detector("fcos_r10w16", num_classes=6)
    page = prediction_sheet([("one", model), ("two", model)], dataset, count=2)
    assert page.width > 3 * TILE and page.height > 2 * TILE * 64 // 96
    cells = [[Image.new("RGB", (10, 20), "red"), Image.new("RGB", (30, 5), "blue")]]
    small = sheet(["a", "b"], cells, margin=4)
    head = small.height - 20 - 4
    assert small.width == 10 + 30 + 3 * 4 and head > TITLE_FONT
    assert small.getpixel((4, head)) == (255, 0, 0) and small.getpixel((4, head - 1)) == (255, 255, 255)
    assert small.getpixel((4 + 10 + 4, head)) == (0, 0, 255)


def ink(image: Image.Image, box: tuple[int, int, int, int]) -> bool:
    """Whether anything is drawn on the white of an area."""
    return image.crop(box).convert("L").getextrema()[0] < 128


def test_titles_stay_in_their_columns_and_the_threshold_is_named(dataset) -> None:
    """A long title on narrow images is broken into lines: nothing of it stands above the next column."""
    tile = Image.new("RGB", (200, 100), "white")
    long = "fcos_r18w24_pkd_gfl_r18w64_of_my_second_try, AP 31.2"
    page = sheet([long, ""], [[tile, tile]])
    head = page.height - 100 - 8
    assert head > 3 * TITLE_FONT
    assert ink(page, (8, 0, 208, head)) and not ink(page, (210, 0, page.width, head))
    model = pkdzoo.create_detector("fcos_r10w16", num_classes=6)
    page = prediction_sheet([("one", model)], dataset, count=1, threshold=0.25)
    assert ink(page, (0, page.height - TITLE_FONT, 400, page.height))


def test_images_of_different_classes_are_shown(dataset) -> None:
    """Of a model that is always right, the first two images do not show the same class again."""

    class Subset:
        """Six images of two objects each: of classes 0 and 0, except for the last image's 0 and 5."""

        def __init__(self) -> None:
            self.image_dir, self.sizes = dataset.image_dir, [(64, 96)] * 6

        def __len__(self) -> int:
            return 6

        def file_name(self, index: int) -> str:
            return dataset.file_name(index % len(dataset))

        def load_instances(self, index: int) -> Instances:
            boxes = torch.tensor([[1.0, 1, 9, 9], [20, 20, 40, 40]])
            return Instances(boxes, torch.tensor([0, 5 if index == 5 else 0]))

    class Right:
        calls = -1

        def predict(self, image, threshold):
            Right.calls += 1
            truth = Subset().load_instances(Right.calls)
            return Result(truth.boxes, torch.ones(2), truth.labels, CLASSES, (image.height, image.width))

    assert choose_images(Right(), Subset(), 2, 0.3) == [0, 5]


def test_images_on_which_the_first_model_is_right_are_shown(dataset) -> None:
    """A model that detects exactly the objects of two images alone: these are chosen, in the order of the data."""
    known = {3, 1}
    sizes = {index: dataset.load_instances(index) for index in range(len(dataset))}

    class Partial:
        calls = 0

        def predict(self, image, threshold):
            index = Partial.calls
            Partial.calls += 1
            objects = sizes[index][: len(sizes[index]) if index in known else 0]
            scores = torch.ones(len(objects))
            return Result(objects.boxes, scores, objects.labels, CLASSES, (image.height, image.width))

    clear = [index for index, objects in sizes.items() if 2 <= len(objects) <= 6]
    assert clear == list(range(len(dataset))), "the test counts one prediction for each image, in their order"
    assert choose_images(Partial(), dataset, 2, 0.3) == [1, 3]


def test_a_photo_with_an_exif_turn_is_shown_as_its_boxes_were_drawn(tmp_path) -> None:
    """Boxes on the stored pixels: the tile, the detections and the choice of images are of these pixels."""
    data = content()
    data["images"], data["annotations"] = data["images"][:1], data["annotations"][:1]
    annotations, images = write(tmp_path, data)
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.full((40, 60, 3), 60, np.uint8)
    pixels[6:16, 5:25] = 250  # the object
    Image.fromarray(pixels).save(images / "a.png", exif=exif)
    seen = []

    class Bright:
        """Detects what is bright."""

        def predict(self, image, threshold):
            seen.append(image.size)
            boxes = torch.tensor([Image.fromarray(np.asarray(image)[..., 0]).point(lambda v: v > 128).getbbox()])
            return Result(
                boxes.float(), torch.ones(1), torch.ones(1).long(), ("dog", "cat"), (image.height, image.width)
            )

    photo = CocoDataset(annotations, images)
    page = prediction_sheet([("one", Bright())], photo, count=1)
    assert set(seen) == {(60, 40)} and page.width == 2 * TILE + 3 * 8
    head = next(y for y in range(page.height) if page.getpixel((8, y)) != (255, 255, 255))  # below the titles
    truth, found = (page.crop((x, head, x + TILE, head + 320)) for x in (8, 8 + TILE + 8))
    inside = tuple(round(v * TILE / 60) + d for v, d in ((5, 8), (6, 8), (25, -8), (16, -8)))
    assert truth.crop(inside).convert("L").getextrema()[0] > 128  # the box lies on its object
    assert found.crop(inside).convert("L").getextrema()[0] > 128


def test_masks_are_drawn_on_the_sheet(dataset) -> None:
    """The same boxes with a mask that fills them, and without one."""

    class Masked:
        def __init__(self, masked: bool) -> None:
            self.masked = masked

        def predict(self, image, threshold):
            boxes = torch.tensor([[8.0, 8.0, 56.0, 40.0]])
            masks = torch.ones(1, 28, 28) if self.masked else None
            size = (image.height, image.width)
            return Result(boxes, torch.ones(1), torch.zeros(1).long(), CLASSES, size, mask_probabilities=masks)

    page = prediction_sheet([("without", Masked(False)), ("with", Masked(True))], dataset, count=1)
    margin, scale = 8, TILE / 96
    head = next(y for y in range(page.height) if page.getpixel((margin, y)) != (255, 255, 255))  # below the titles
    y, x = head + round(24 * scale), margin + round(32 * scale)
    columns = [page.getpixel((x + k * (TILE + margin), y)) for k in range(3)]
    assert columns[0] == columns[1] != columns[2]


def test_detectors_by_folder(tmp_path) -> None:
    model = pkdzoo.create_detector("retina_r10w16", num_classes=6)
    model.save_pretrained(tmp_path / "run" / "last")
    assert open_detector(tmp_path / "run").num_classes == 6
    assert open_detector(f"local-dir:{tmp_path / 'run' / 'last'}").num_classes == 6
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2)
    model.save_pretrained(tmp_path / "run" / "best")
    assert [open_detector(tmp_path / "run", best).num_classes for best in (True, False)] == [2, 6]
    with pytest.raises(ValueError, match="holds no detector"):
        open_detector(tmp_path)
