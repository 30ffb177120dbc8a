"""Views of an image, masks at the image's own size, videos and links through ``predict``, and what is refused."""

from __future__ import annotations

import copy
import io
import json
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import fails, run
from helpers.serving import serving
from PIL import Image
from pycocotools import mask as coco_mask

import pkdzoo
from pkdzoo.data import CocoDataset, UnreadableImage, read_image
from pkdzoo.inference import PredictOptions
from pkdzoo.inference.predictor import flip_detections, make_views
from pkdzoo.inference.result import Result
from pkdzoo.inference.video import frame_rate, read_video, writing_video
from pkdzoo.ops.masks import paste_mask, paste_masks, run_lengths
from pkdzoo.structures import Detections

FAMILIES = ["retina_r10w16", "fcos_r10w16", "gfl_r10w16", "atss_r10w16", "tood_r10w16", "reppoints_r10w16"]
FAMILIES += ["faster_rcnn_r10w16", "mask_rcnn_r50"]
SMALL = {"backbone": "r10w16", "width": 16, "box_width": 32, "mask_width": 16, "norm": "gn", "frozen_stages": 0}


def test_no_result_has_a_box_without_area() -> None:
    """TOOD clips its boxes after NMS: those outside the image have no area then."""
    model = detector("tood_r10w16")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("head"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    image = torch.randint(0, 255, (3, 61, 91), dtype=torch.uint8)
    empty = model.detect(pkdzoo.Batch(image[None].float(), [(61, 91)]))[0].boxes
    assert (empty[:, 2:] <= empty[:, :2]).any()
    boxes = model.predict(image, threshold=0.0).boxes
    assert len(boxes) > 5 and (boxes[:, 2:] > boxes[:, :2]).all()


def detector(name: str, **changes: object) -> pkdzoo.Detector:
    torch.manual_seed(0)
    more = SMALL if name == "mask_rcnn_r50" else {}
    return pkdzoo.create_detector(name, label_names=("cat", "dog", "fox"), resize=(64, 96), **more, **changes)


@pytest.fixture(scope="module")
def model() -> pkdzoo.Detector:
    return detector("retina_r10w16")


@pytest.fixture(scope="module")
def masked() -> pkdzoo.Detector:
    return detector("mask_rcnn_r50")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)


def found_in(result: Result | list[Result]) -> Result:
    assert isinstance(result, Result)
    return result


class TestViews:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_of_a_symmetric_image(self, name: str, pixels: np.ndarray) -> None:
        """An image that is its own mirror image gives detections that are, too, once both views count."""
        image = np.concatenate([pixels, pixels[:, ::-1]], axis=1)[:, ::2].copy()
        image[:, 40:] = image[:, 39::-1]
        result = found_in(
            detector(name).predict(image, threshold=0.0, max_detections=1000, flip=True, nms_threshold=1.0)
        )
        assert len(result) > 4
        rows = {(int(label), *(round(v) for v in box)) for label, box in zip(result.labels, result.boxes.tolist())}
        turned = {(label, 80 - x2, y1, 80 - x1, y2) for label, x1, y1, x2, y2 in rows}
        assert len(rows & turned) / len(rows) > 0.9

    def test_a_union_suppressed_once_more(self, model: pkdzoo.Detector, pixels: np.ndarray) -> None:
        alone = [found_in(model.predict(pixels, threshold=0.0, sizes=(size,))) for size in (64, 96)]
        both = found_in(model.predict(pixels, threshold=0.0, sizes=(64, 96)))
        assert torch.equal(alone[0].boxes, found_in(model.predict(pixels, threshold=0.0)).boxes)
        assert len(both) == 100  # as many as one view gives
        assert float(both.scores[0]) == max(float(a.scores[0]) for a in alone)
        everything = {tuple(box) for a in alone for box in a.boxes.tolist()}
        assert {tuple(box) for box in both.boxes.tolist()} <= everything
        fewer = found_in(model.predict(pixels, threshold=0.0, sizes=(64, 96), max_detections=7))
        assert torch.equal(fewer.scores, both.scores[:7])

    def test_masks_are_mirrored_with_their_boxes(self) -> None:
        cells = torch.zeros(1, 4, 4)
        cells[0, :, 0] = 1
        back = flip_detections(
            Detections(torch.tensor([[1.0, 2, 5, 6]]), torch.ones(1), torch.zeros(1).long(), None, cells), 20
        )
        assert back.boxes.tolist() == [[15.0, 2, 19, 6]]
        assert back.mask_probabilities is not None and back.mask_probabilities[0, 0].tolist() == [0, 0, 0, 1]

    def test_masks_of_several_views(self, masked: pkdzoo.Detector, pixels: np.ndarray) -> None:
        result = found_in(masked.predict(pixels, threshold=0.0, max_detections=20, flip=True, sizes=(64, 80)))
        assert result.mask_probabilities is not None and result.mask_probabilities.shape == (20, 28, 28)

    @pytest.mark.parametrize("sizes", [(), (0,), (16, 800)])
    def test_sizes_that_are_none(self, model: pkdzoo.Detector, pixels: np.ndarray, sizes: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="short sides in pixels from 32 up"):
            model.predict(pixels, sizes=sizes)

    def test_the_long_side_follows(self, model: pkdzoo.Detector) -> None:
        assert [(v.resize, v.flip) for v in make_views(model, True, (128,))] == [
            ((128, 192), False),
            ((128, 192), True),
        ]


class TestSettings:
    def test_every_option_is_named_in_the_docstrings(self) -> None:
        for method in (pkdzoo.Detector.predict, pkdzoo.Detector.predict_stream):
            assert all(f"``{name}``" in method.__doc__ for name in PredictOptions.__annotations__)
        assert all(f"{name}:" in PredictOptions.__doc__ for name in PredictOptions.__annotations__)

    def test_a_mistyped_option_raises_at_once(self, model: pkdzoo.Detector, pixels: np.ndarray) -> None:
        with pytest.raises(TypeError, match=r"no option 'treshold'\. Did you mean threshold"):
            model.predict(pixels, treshold=0.5)
        with pytest.raises(TypeError, match=r"no option 'max_detection'\. Did you mean max_detections"):
            model.predict_stream([], max_detection=5)

    def test_top_counts_the_wanted_classes(self, model: pkdzoo.Detector, pixels: np.ndarray) -> None:
        everything = found_in(model.predict(pixels, threshold=0.0))
        expected = everything[everything.labels == 1]
        assert torch.equal(
            found_in(model.predict(pixels, threshold=0.0, classes=["dog"], max_detections=5)).scores,
            expected.scores[:5],
        )

    def test_wanted_classes_count_alone(self, model: pkdzoo.Detector, pixels: np.ndarray) -> None:
        """Objects of another class that score higher do not use up the detector's own limit."""
        crowded = copy.deepcopy(model)
        with torch.no_grad():
            crowded.head.cls.bias.view(-1, 3)[:, 0] += 5  # cats everywhere
        options: PredictOptions = {"threshold": 0.0, "nms_threshold": 1.0}
        assert set(found_in(crowded.predict(pixels, **options)).names) == {"cat"}
        result = found_in(crowded.predict(pixels, **options, classes=["dog"]))
        assert len(result) == 100 and set(result.names) == {"dog"}
        tiled = found_in(crowded.predict(pixels, **options, classes=["dog"], tiles=40))
        assert len(tiled) >= 100 and set(tiled.names) == {"dog"}

    def test_another_number_of_channels(self, pixels: np.ndarray) -> None:
        thermal = pkdzoo.create_detector("retina_r10w16", num_classes=2, in_chans=4)
        with pytest.raises(ValueError, match=r"takes 4 channels: write model\.detect\(pkdzoo\.Batch"):
            thermal.predict(pixels)
        assert len(thermal.detect(pkdzoo.Batch(torch.zeros(1, 4, 64, 64), [(64, 64)]))) == 1

    def test_memory_does_not_grow_with_the_stream(self, model: pkdzoo.Detector) -> None:
        def images(count: int) -> Iterator[np.ndarray]:
            return (np.full((400, 600, 3), shade % 255, np.uint8) for shade in range(count))

        def peak(count: int) -> int:
            tracemalloc.start()
            for result in model.predict_stream(images(count), threshold=0.9, batch_size=2):
                assert result.image is not None
            used = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return used

        peak(2)
        assert peak(24) < peak(4) + 400 * 600 * 3 * 2  # NumPy's and Python's share; 20 images more would be 14 MB

    @pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"workers": 2, "batch_size": 2}], ids=str)
    def test_a_source_that_fails_has_given_its_images(self, model: pkdzoo.Detector, options: PredictOptions) -> None:
        memory = np.zeros((48, 64, 3), np.uint8)

        def camera() -> Iterator[np.ndarray]:
            for shade in range(4):
                memory[:] = 50 * shade
                yield memory
            raise RuntimeError("the camera is gone")

        results = model.predict_stream(camera(), **options)
        shades = [next(results).image.getpixel((0, 0))[0] for _ in range(4)]  # type: ignore[union-attr,index]
        assert shades == [0, 50, 100, 150]
        with pytest.raises(RuntimeError, match="the camera is gone"):
            next(results)


class TestLinksAndVideos:
    def test_a_link(self, model: pkdzoo.Detector, pixels: np.ndarray) -> None:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        with serving() as server:
            link, _ = server.put("/a.png", buffer.getvalue())
            result = found_in(model.predict(link, threshold=0.0))
            several = model.predict([link, server.url + "/none.png"], threshold=0.0)
            with pytest.raises(UnreadableImage, match="HTTP 404"):
                model.predict(server.url + "/none.png")
        assert torch.equal(result.boxes, found_in(model.predict(pixels, threshold=0.0)).boxes)
        assert result.path == link and result.plot().size == (80, 48)  # the server is gone
        assert [r.error is None for r in several] == [True, False]

    @pytest.fixture
    def video(self, tmp_path: Path, pixels: np.ndarray) -> Path:
        pytest.importorskip("av")
        with writing_video(tmp_path / "clip.mp4", Fraction(10)) as file:
            for k in range(6):
                file.add(Image.fromarray(np.roll(pixels, k, axis=1)))
        return tmp_path / "clip.mp4"

    def test_a_video(self, model: pkdzoo.Detector, video: Path) -> None:
        results = model.predict(video, threshold=0.0, max_detections=3)
        assert isinstance(results, list) and [r.frame for r in results] == list(range(6))
        assert results[2].time == pytest.approx(0.2) and results[2].to_json()["frame"] == 2
        assert results[2].title.startswith(f"{video} frame 2 at 0.20 s (80 x 48): 3 detections")
        with pytest.raises(ValueError, match="frames of a list are not kept; use predict_stream"):
            results[2].plot()  # a list of frames would fill the memory
        assert next(model.predict_stream(video)).plot().size == (80, 48)

    def test_a_video_on_the_command_line(
        self, model: pkdzoo.Detector, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        saved = model.save_pretrained(tmp_path / "model")
        out, words = tmp_path / "out", ("--threshold", 0, "--max-detections", 2, "--every", 2, "--json")
        start = ("predict", saved, video, *words)
        code, printed, err = run(capsys, *start, "--output", out, "--save", out / "found.json")
        assert (code, err) == (0, "")
        assert [json.loads(line)["frame"] for line in printed.splitlines()] == [0, 2, 4]
        written = json.loads((out / "found.json").read_text())
        assert [(i["file_name"], i["frame"]) for i in written["images"]] == [(f"{video}#{k}", k) for k in (0, 2, 4)]
        assert written["images"][1]["time"] == pytest.approx(0.2)
        assert [f.time for f in read_video(out / "clip.mp4")] == pytest.approx([0, 0.2, 0.4])
        assert frame_rate(out / "clip.mp4") == 5 and len(model.predict(out / "clip.mp4")) == 3
        (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:500])
        code, _, err = run(capsys, "predict", saved, tmp_path / "cut.mp4", video, *words, "--output", out)
        assert code == 1 and err.splitlines()[-1] == "pkdzoo: 1 of 4 images could not be read"

    def test_links_on_the_command_line(
        self, model: pkdzoo.Detector, pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        saved, buffer = model.save_pretrained(tmp_path / "model"), io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG")
        with serving() as server:
            link, _ = server.put("/photos/a.jpg", buffer.getvalue())
            words = (
                "--threshold",
                0,
                "--max-detections",
                2,
                "--output",
                tmp_path / "out",
                "--flip",
                "--sizes",
                "64,80",
            )
            code, out, err = run(capsys, "predict", saved, link, server.url + "/none.jpg", *words)
        assert code == 1 and out.startswith(f"{link} (80 x 48): 2 detections")
        assert "none.jpg: HTTP 404" in err
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.jpg"]
        assert "from 32 up" in fails(capsys, "predict", saved, saved / "*.json", "--sizes", "8")


class TestMasks:
    def test_drawn_at_the_images_own_size(self, masked: pkdzoo.Detector, pixels: np.ndarray) -> None:
        result = found_in(masked.predict(pixels, threshold=0.0, max_detections=5))
        assert result.mask_probabilities is not None and result.masks is not None
        assert result.masks.shape == (5, 48, 80) and result.masks.dtype == torch.bool
        assert torch.equal(result.masks, paste_masks(result.mask_probabilities, result.boxes, (48, 80)))
        assert set(result.to_dict()) == {"boxes", "scores", "labels", "masks"}
        assert result[:2].masks.shape == (2, 48, 80)  # type: ignore[union-attr]

    def test_in_files(
        self, masked: pkdzoo.Detector, pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        saved = masked.save_pretrained(tmp_path / "model")
        (tmp_path / "photos").mkdir()
        Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
        words = (
            "--threshold",
            0,
            "--max-detections",
            4,
            "--json",
            "--save",
            tmp_path / "found.json",
            "--output",
            tmp_path / "drawn",
        )
        row = json.loads(run(capsys, "predict", saved, tmp_path / "photos", *words)[1])
        result = found_in(masked.predict(tmp_path / "photos" / "a.png", threshold=0.0, max_detections=4))
        assert result.masks is not None
        for mask, found in zip(result.masks, row["detections"]):
            assert np.array_equal(coco_mask.decode(found["mask"]), mask.numpy())
        written = json.loads((tmp_path / "found.json").read_text())
        assert [a["area"] for a in written["annotations"]] == result.masks.sum(dim=(1, 2)).tolist()
        again = CocoDataset(tmp_path / "found.json", tmp_path / "photos", with_masks=True)[0].instances
        assert again.masks is not None and torch.equal(again.masks[0], result.masks[0])
        assert read_image(tmp_path / "drawn" / "a.png").shape == (3, 48, 80)

    def test_a_huge_image_costs_what_its_objects_cost(self) -> None:
        size, cells = (9000, 12000), torch.rand(50, 28, 28)
        boxes = torch.tensor([[100.0, 200, 180, 260]]).repeat(50, 1)
        image = Image.new("RGB", size[::-1])
        result = Result(
            boxes, torch.ones(50), torch.zeros(50).long(), ("cat",), size, mask_probabilities=cells, image=image
        )
        rows = result.to_coco(1)  # 50 masks of that size would be 5.4 GB
        assert 0 < coco_mask.area(rows[0]["segmentation"]) < 80 * 60
        with pytest.raises(ValueError, match="mask_rcnn"):
            Result(boxes, torch.ones(50), torch.zeros(50).long(), ("cat",), size).mask_runs(0)

    @pytest.mark.parametrize("seed", range(20))
    def test_run_lengths_are_cocos(self, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        size = tuple(torch.randint(1, 12, (2,), generator=rng).tolist())
        x1, y1 = (torch.rand(2, generator=rng) * 6 - 2).tolist()
        width, height = (torch.rand(2, generator=rng) * 12).tolist()
        box, cells = torch.tensor([x1, y1, x1 + width, y1 + height]), torch.rand(5, 5, generator=rng)
        part = paste_mask(cells, box, size)  # type: ignore[arg-type]
        whole = paste_masks(cells[None], box[None], size)[0].numpy()  # type: ignore[arg-type]
        lengths = run_lengths(*part, size)  # type: ignore[arg-type]
        assert sum(lengths) == size[0] * size[1]
        runs = coco_mask.frPyObjects({"size": list(size), "counts": lengths}, *size)
        assert runs["counts"] == coco_mask.encode(np.asfortranarray(whole, np.uint8))["counts"]
