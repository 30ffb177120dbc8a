"""What predict returns, what it draws, and the inputs it takes."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

import pkdzoo
from pkdzoo.data.image_files import UnreadableImage
from pkdzoo.data.image_io import read_image
from pkdzoo.inference.draw import class_color, draw_detections, place_captions, text_color_on
from pkdzoo.inference.result import Result
from pkdzoo.structures import Detections


@pytest.fixture(scope="module")
def model() -> pkdzoo.Detector:
    torch.manual_seed(0)
    return pkdzoo.create_detector("retina_r10w16", num_classes=3, resize=(96, 160))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)


def a_result(**changes: object) -> Result:
    found = Detections(
        torch.tensor([[10.0, 20.0, 60.0, 80.0], [0.0, 0.0, 30.0, 30.0]]), torch.tensor([0.9, 0.2]), torch.tensor([1, 0])
    )
    return Result.of(found, ("cat", "dog"), (100, 120), **changes)


class TestInputs:
    def test_all_kinds_of_one_image_agree(self, model: pkdzoo.Detector, pixels: np.ndarray, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        Image.fromarray(pixels).save(path)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        results = [model.predict(x, threshold=0.0) for x in (path, str(path), Image.open(path), pixels, tensor)]
        assert len(results[0]) > 0
        for result in results:
            assert isinstance(result, Result)
            assert torch.equal(result.boxes, results[0].boxes)
            assert result.size == (90, 120)

    def test_one_in_one_out_list_in_list_out(self, model: pkdzoo.Detector, pixels: np.ndarray, tmp_path: Path) -> None:
        Image.fromarray(pixels).save(tmp_path / "a.png")
        (tmp_path / "notes.txt").write_text("no image")
        assert isinstance(model.predict([pixels]), list)
        assert len(model.predict(pixels for _ in range(3))) == 3
        assert [Path(r.path).name for r in model.predict(tmp_path)] == ["a.png"]
        assert model.predict([]) == []

    def test_batches_change_nothing_for_equal_sizes(self, model: pkdzoo.Detector, pixels: np.ndarray) -> None:
        other = pixels[:, ::-1].copy()
        alone = [model.predict(p, threshold=0.0) for p in (pixels, other)]
        for a, b in zip(alone, model.predict([pixels, other], threshold=0.0, batch_size=2)):
            torch.testing.assert_close(a.boxes, b.boxes, atol=1e-3, rtol=1e-4)

    def test_gray_numpy(self, model: pkdzoo.Detector, pixels: np.ndarray) -> None:
        gray = pixels[:, :, 0]
        same = np.repeat(gray[:, :, None], 3, axis=2)
        assert torch.equal(model.predict(gray, threshold=0.0).boxes, model.predict(same, threshold=0.0).boxes)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (np.zeros((4, 4, 3), np.float32), "uint8 RGB"),
            (torch.zeros(3, 4, 4), r"image \* 255"),
            (torch.zeros(1, 4, 4, dtype=torch.uint8), "uint8 RGB"),
        ],
    )
    def test_arrays_that_are_no_images(self, model: pkdzoo.Detector, wrong: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            model.predict(wrong)

    def test_what_is_no_image_at_all(self, model: pkdzoo.Detector) -> None:
        with pytest.raises(TypeError, match="predict takes paths"):
            model.predict(3)

    @pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "I"])
    def test_an_image_without_pixels_fails_alone(
        self, model: pkdzoo.Detector, pixels: np.ndarray, mode: str, size: tuple[int, int]
    ) -> None:
        empty, error = Image.new(mode, size), f"a PIL image: it has no pixels ({size[0]} x {size[1]})"
        with pytest.raises(UnreadableImage, match="it has no pixels"):
            model.predict(empty)
        found = list(model.predict_stream(iter([pixels, empty, pixels]), threshold=None, workers=1, batch_size=2))
        assert [result.error for result in found] == [None, error, None]
        assert len(found[1].scores) == 0 and torch.equal(found[0].scores, found[2].scores)

    def test_an_unreadable_image_fails_alone(self, model: pkdzoo.Detector, pixels: np.ndarray, tmp_path: Path) -> None:
        Image.fromarray(pixels).save(tmp_path / "good.png")
        whole = (tmp_path / "good.png").read_bytes()
        (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
        good, cut, missing = model.predict([tmp_path / n for n in ("good.png", "cut.png", "none.png")], threshold=0.0)
        assert good.error is None
        assert len(good)
        assert "cut.png" in cut.error
        assert len(cut) == 0
        assert "no such file" in missing.error
        assert "error" in missing.to_json()
        with pytest.raises(UnreadableImage, match=r"^\S*none\.png: there is no such file$"):
            model.predict(tmp_path / "none.png")

    def test_an_empty_folder(self, model: pkdzoo.Detector, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="has no images"):
            model.predict(tmp_path)


class TestStream:
    def test_one_batch_at_a_time(self, model: pkdzoo.Detector, pixels: np.ndarray) -> None:
        read: list[int] = []

        def endless() -> Iterator[np.ndarray]:
            while True:
                read.append(1)
                yield pixels

        results = model.predict_stream(endless(), threshold=0.0, batch_size=2)
        assert read == []
        first = next(results)
        assert len(read) == 2
        next(results)
        assert len(read) == 2
        assert torch.equal(next(results).boxes, first.boxes)
        assert len(read) == 4

    def test_the_same_as_predict(self, model: pkdzoo.Detector, pixels: np.ndarray, tmp_path: Path) -> None:
        Image.fromarray(pixels).save(tmp_path / "a.png")
        (tmp_path / "b.png").write_bytes(b"no image")
        for images in (tmp_path, tmp_path / "a.png", [pixels, pixels]):
            streamed = list(model.predict_stream(images, threshold=0.0))
            together = model.predict(images, threshold=0.0)
            for a, b in zip(streamed, together if isinstance(together, list) else [together]):
                assert torch.equal(a.boxes, b.boxes)
                assert (a.path, a.error) == (b.path, b.error)
        (broken,) = model.predict_stream(tmp_path / "b.png")
        assert "b.png" in broken.error

    def test_wrong_arguments_fail_at_once(self, model: pkdzoo.Detector, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="class_1"):
            model.predict_stream([], classes=["klass_1"])
        with pytest.raises(ValueError, match="has no images"):
            model.predict_stream(tmp_path)
        with pytest.raises(ValueError, match="batch_size=0"):
            model.predict([], batch_size=0)


class TestSettings:
    def test_score_top_and_classes(self, model: pkdzoo.Detector, pixels: np.ndarray) -> None:
        everything = model.predict(pixels, threshold=0.0)
        threshold = float(everything.scores[len(everything) // 2])
        assert float(model.predict(pixels, threshold=threshold).scores.min()) > threshold
        assert len(model.predict(pixels, threshold=0.0, max_detections=7)) == 7
        assert set(model.predict(pixels, threshold=0.0, classes=["class_1"]).names) <= {"class_1"}
        assert model.postprocess_config.score_threshold == 0.05  # a call's settings are the call's alone

    def test_no_reported_score_is_below_the_one_asked_for(self, pixels: np.ndarray) -> None:
        torch.manual_seed(0)
        fcos = pkdzoo.create_detector("fcos_r10w16", num_classes=3, resize=(96, 160))  # centerness lowers its scores
        threshold = float(fcos.predict(pixels, threshold=0.0).scores.median())
        found = fcos.predict(pixels, threshold=threshold)
        assert len(found) > 0
        assert float(found.scores.min()) > threshold

    def test_an_unknown_class(self, model: pkdzoo.Detector, pixels: np.ndarray) -> None:
        with pytest.raises(ValueError, match="class_1"):
            model.predict(pixels, classes=["klass_1"])

    def test_boxes_lie_in_the_image_and_the_mode_is_kept(self, model: pkdzoo.Detector, pixels: np.ndarray) -> None:
        model.train()
        result = model.predict(pixels, threshold=0.0)
        assert model.training
        model.eval()
        assert result.boxes.min() >= 0
        assert result.boxes[:, 2].max() <= 120
        assert result.boxes[:, 3].max() <= 90

    def test_training_works_after_prediction(self, model: pkdzoo.Detector, pixels: np.ndarray) -> None:
        model.predict(pixels)
        target = pkdzoo.Instances(torch.tensor([[10.0, 10.0, 50.0, 60.0]]), torch.tensor([1]))
        batch = pkdzoo.Batch(torch.rand(1, 3, 96, 128) * 255, [(90, 120)], [target])
        sum(model(batch).values()).backward()
        assert all(p.grad is not None for p in model.parameters())
        model.zero_grad()


class TestResult:
    def test_names_filter_and_text(self) -> None:
        result = a_result(path="street.jpg")
        assert result.names == ["dog", "cat"]
        assert result[result.scores > 0.5].names == ["dog"]
        assert "street.jpg (120 x 100): 2 detections" in str(result)
        assert str(result).splitlines()[1].split() == ["class", "score", "x1", "y1", "x2", "y2"]
        assert str(result).splitlines()[2].split() == ["dog", "0.90", "10.0", "20.0", "60.0", "80.0"]
        assert repr(result) == "<Result street.jpg (120 x 100): 2 detections>"

    def test_forms(self) -> None:
        result = a_result()
        assert set(result.to_dict()) == {"boxes", "scores", "labels"}
        row = result.to_coco(7, {0: 1, 1: 18})[0]
        assert row == {"image_id": 7, "category_id": 18, "bbox": [10.0, 20.0, 50.0, 60.0], "score": pytest.approx(0.9)}
        assert result.to_json()["detections"][0]["name"] == "dog"

    def test_to_supervision(self) -> None:
        supervision = pytest.importorskip("supervision")
        result = a_result()
        found = result.to_supervision()
        assert isinstance(found, supervision.Detections)
        assert found.xyxy.tolist() == result.boxes.tolist()
        assert found.class_id.tolist() == result.labels.tolist()
        assert list(found.data["class_name"]) == result.names
        assert len(result[result.scores > 2].to_supervision()) == 0
        assert found.confidence.tolist() == result.scores.tolist() and found.mask is None
        cells = torch.stack([torch.ones(28, 28), torch.zeros(28, 28)])
        drawn = dataclasses.replace(result, mask_probabilities=cells).to_supervision()
        assert drawn.mask.shape == (2, 100, 120)
        assert drawn.area.tolist() == [pytest.approx(3000, rel=0.1), 0]
        image = np.zeros((100, 120, 3), np.uint8)
        assert supervision.BoxAnnotator().annotate(image.copy(), found).any()  # its own tools take it

    def test_to_supervision_without_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "supervision", None)
        with pytest.raises(ImportError, match=r"pip install -e .*\[supervision\]"):
            a_result().to_supervision()

    def test_plot_draws_what_scores_enough(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (120, 100))
        result = a_result(image=image)
        drawn = np.asarray(result.plot(threshold=0.5, enlarge=False))
        assert drawn.shape == (100, 120, 3)
        assert tuple(drawn[79, 40]) == class_color(1)  # lower side of the dog's box
        assert not drawn[:4, 5:8].any()  # nothing of the cat's
        assert not np.asarray(image).any()  # the image itself is untouched
        result.save(tmp_path / "out.png")
        assert Image.open(tmp_path / "out.png").size == (120, 100)
        assert result.plot(enlarge=True).size == (480, 400)  # four times, so that the caption has room

    def test_plot_draws_all_that_was_reported(self) -> None:
        drawn = np.asarray(a_result(image=Image.new("RGB", (120, 100))).plot())
        assert tuple(drawn[29, 15]) == class_color(0)  # lower side of the cat's box, whose score is 0.2

    @pytest.mark.parametrize("threshold", ["out.png", 30, None])
    def test_plot_with_what_is_no_threshold(self, threshold: Any) -> None:
        with pytest.raises(ValueError, match=r"threshold=.*: write a number from 0 to 1"):
            a_result(image=Image.new("RGB", (120, 100))).plot(threshold)

    @pytest.mark.parametrize(
        "index",
        ["dog", b"a", 1.5, None, ..., {}, {1}, True, torch.tensor(True), [0.5], [None], ["dog"], (slice(1), 0), [[1]]],
        ids=repr,
    )
    def test_an_index_of_another_kind(self, index: Any) -> None:
        with pytest.raises(TypeError, match="write a number, a slice, a bool mask or several numbers"):
            a_result()[index]

    @pytest.mark.parametrize("mask", [[True], [False] * 3, torch.zeros(0, dtype=torch.bool)], ids=repr)
    def test_a_mask_of_another_length(self, mask: Any) -> None:
        with pytest.raises(IndexError, match=rf"a mask of {len(mask)} for 2 detections: write one value for each"):
            a_result()[mask]

    def test_nothing_to_draw_on(self) -> None:
        with pytest.raises(ValueError, match="this result has no image"):
            a_result().plot()

    @pytest.mark.parametrize("size", [(16, 16), (3000, 2000)])
    def test_labels_stay_inside(self, size: tuple[int, int]) -> None:
        boxes = np.array([[size[0] - 4, 0, size[0], 4]], np.float32)
        drawn = draw_detections(Image.new("RGB", size), boxes, [0], ["a long caption 0.99"])
        assert drawn.size == size
        assert (np.asarray(drawn) == class_color(0)).all(axis=2).sum() > 8

    def test_masks_tint_their_pixels_only(self) -> None:
        mask = np.zeros((1, 40, 40), bool)
        mask[0, 10:20, 10:20] = True
        boxes = np.array([[0.0, 0.0, 2.0, 2.0]], np.float32)
        region = (mask[0, 5:25, 8:30], slice(5, 25), slice(8, 30))
        drawn = np.asarray(draw_detections(Image.new("RGB", (40, 40)), boxes, [3], ["x"], [region]))
        assert (drawn[19, 10:20] == class_color(3)).all()  # below the caption
        assert not drawn[20:].any() and not drawn[19, :10].any() and not drawn[19, 20:].any()

    @pytest.mark.parametrize("seed", range(5))
    def test_captions_leave_each_other_room(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        corners = rng.uniform(0, 150, (60, 2))
        boxes = np.concatenate([corners, np.minimum(corners + rng.uniform(1, 120, (60, 2)), (200, 160))], axis=1)
        places = place_captions(boxes.astype(np.float32), [[(70, 14), (40, 14)]] * 60, (200, 160))
        found = [place for place in places if place is not None]
        spots = np.array([spot for _, spot in found])
        assert places[0] is not None and 5 < len(found) < 60  # the rest found no room
        assert {k for k, _ in found} == {0, 1}  # some were shortened
        assert spots.min() >= 0 and spots[:, 2].max() <= 200 and spots[:, 3].max() <= 160
        assert {tuple(spot[2:] - spot[:2]) for spot in spots} <= {(70, 14), (40, 14)}
        shared = box_iou(torch.from_numpy(spots), torch.from_numpy(spots))
        assert torch.equal(shared > 1e-9, torch.eye(len(spots), dtype=torch.bool))

    def test_a_caption_does_not_hide_what_it_names(self) -> None:
        boxes = np.array([[50, 50, 58, 56], [50, 58, 58, 64]], np.float32)  # two objects smaller than a caption
        (_, first), (_, second) = (place for place in place_captions(boxes, [[(60, 14)]] * 2, (200, 160)) if place)
        for spot in (first, second):
            assert not (box_iou(torch.from_numpy(spot[None]).float(), torch.from_numpy(boxes)) > 0).any()

    def test_one_reader_for_predicting_and_drawing(self, tmp_path: Path) -> None:
        """16 bits, a turned photograph and alpha look as the detector saw them."""
        deep = np.full((30, 500), 200 << 8, np.uint16)
        Image.fromarray(deep).save(tmp_path / "deep.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (30, 500), (10, 200, 30)).save(tmp_path / "turned.jpg", exif=exif)
        Image.new("RGBA", (500, 30), (10, 200, 30, 0)).save(tmp_path / "alpha.png")
        for name in ("deep.png", "turned.jpg", "alpha.png"):
            seen = read_image(tmp_path / name)
            plain = a_result(path=str(tmp_path / name))[:0].plot()
            assert torch.equal(torch.from_numpy(np.array(plain)).permute(2, 0, 1), seen), name
        with pytest.raises(UnreadableImage, match="no such file"):
            a_result(path=str(tmp_path / "gone.png")).plot()

    def test_in_a_notebook(self, tmp_path: Path) -> None:
        result = a_result(image=Image.new("RGB", (3000, 2000)), path="<b>.jpg", frame=3)
        shown = result._repr_png_()
        assert shown is not None and Image.open(io.BytesIO(shown)).size == (1024, 683)
        html = result._repr_html_()
        assert "data:image/png;base64," in html and "&lt;b&gt;.jpg" in html and "<b>.jpg" not in html
        assert html.count("<tr>") == 3 and "dog" in html and "0.90" in html
        many = Result(torch.zeros(30, 4), torch.ones(30), torch.zeros(30).long(), ("<i>",), (9, 9), path="gone.jpg")
        html = many._repr_html_()
        assert "and 10 more" in html and "<img" not in html and "&lt;i&gt;" in html
        assert "no such file" in Result.failed("gone.jpg", "gone.jpg: no such file", ("cat",))._repr_html_()

    def test_ink_reads_on_every_class_color(self) -> None:
        assert text_color_on((255, 255, 0)) == (0, 0, 0)
        assert text_color_on((0, 0, 120)) == (255, 255, 255)
        assert len({class_color(i) for i in range(80)}) == 80


class TestSequence:
    def test_one_detection_after_another(self) -> None:
        result = a_result(path="a.png")
        assert (len(result), len(result[0]), len(result[-1])) == (2, 1, 1)
        assert (result[0].names, result[-1].names, result[0].path) == (["dog"], ["cat"], "a.png")
        assert [detection.names for detection in result] == [["dog"], ["cat"]]
        assert result[0].boxes.tolist() == [[10, 20, 60, 80]]
        for wrong in (2, -3):
            for index in (wrong, [0, wrong], torch.tensor([wrong])):
                with pytest.raises(IndexError, match=f"detection {wrong} of 2"):
                    result[index]

    @pytest.mark.parametrize(
        "index",
        [
            slice(1, None),
            [1],
            (-1,),
            range(1, 2),
            np.array([1]),
            np.array([1], np.uint8),
            np.array([False, True]),
            torch.tensor([1]),
            [False, True],
        ],
        ids=str,
    )
    def test_several(self, index: object) -> None:
        assert a_result()[index].names == ["cat"]  # type: ignore[index]

    def test_worst_first(self) -> None:
        assert a_result()[::-1].names == a_result()[[1, 0]].names == ["cat", "dog"]

    def test_none(self) -> None:
        result = a_result()
        assert len(result[:0]) == len(result[[]]) == len(list(result[:0])) == 0
        assert result[np.int64(1)].names == result[torch.tensor(1)].names == ["cat"]

    def test_show_opens_the_annotated_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shown: list[Image.Image] = []
        monkeypatch.setattr(Image.Image, "show", lambda image, title=None: shown.append(image))
        a_result(image=Image.new("RGB", (120, 100))).show()
        assert np.asarray(shown[0]).any()


class TestOfAPrediction:
    @pytest.mark.parametrize("threshold", [None, 0.0])
    def test_boxes_may_be_changed_in_place(
        self, model: pkdzoo.Detector, pixels: np.ndarray, threshold: float | None
    ) -> None:
        result = model.predict(pixels, threshold=threshold, max_detections=3)
        assert isinstance(result, Result)
        for tensor in (result.boxes, result.scores, result.labels):
            tensor += 1
            assert not tensor.is_inference()
