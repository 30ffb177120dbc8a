"""Options of ``predict``: one default threshold, classes in every spelling, and values out of range."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pkdzoo
from pkdzoo.cli import build_parser
from pkdzoo.inference.options import DEFAULT_THRESHOLD
from pkdzoo.inference.result import Result

NAMES = ("cat", "dog", "fox")


def detector(**changes: Any) -> pkdzoo.Detector:
    torch.manual_seed(0)
    return pkdzoo.create_detector("retina_r10w16", label_names=NAMES, resize=(64, 96), **changes)


@pytest.fixture(scope="module")
def model() -> pkdzoo.Detector:
    return detector()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)


def found(result: Result | list[Result]) -> Result:
    assert isinstance(result, Result)
    return result


def test_one_default_threshold() -> None:
    shapes = pkdzoo.create_detector("fcos_r18w24", pretrained=True)
    image = np.full((128, 160, 3), 90, np.uint8)
    image[30:80, 40:100] = 250
    everything = found(shapes.predict(image, threshold=None))
    plain = found(shapes.predict(image))
    assert len(plain) == int((everything.scores > DEFAULT_THRESHOLD).sum()) < len(everything)
    # the command leaves the default to the library: an exported file may have a higher one of its own
    assert build_parser().parse_args(["predict", "retina_r50", "a.jpg"]).threshold is None


@pytest.mark.parametrize(
    "classes", [1, "dog", np.int64(1), torch.tensor(1), [1], ["dog"], np.array([1]), torch.tensor([1])], ids=repr
)
def test_classes_in_every_spelling(model: pkdzoo.Detector, pixels: np.ndarray, classes: Any) -> None:
    result = found(model.predict(pixels, threshold=0.0, classes=classes))
    assert set(result.names) == {"dog"}
    assert set(found(model.predict(pixels, threshold=0.0, classes=0)).names) == {"cat"}


def test_a_class_alone_has_the_detections_that_it_has_among_all(pixels: np.ndarray) -> None:
    """Also where candidates of other classes fill the top k: the numbers of an evaluation hold for each class."""
    crowded = detector()
    crowded.postprocess_config = replace(crowded.postprocess_config, pre_nms_top_k=20, max_detections=10_000)
    everything = found(crowded.predict(pixels, threshold=0.0))
    for label, name in enumerate(NAMES):
        alone, among_all = found(crowded.predict(pixels, threshold=0.0, classes=name)), everything.labels == label
        assert len(alone) > 0 and torch.equal(alone.boxes, everything.boxes[among_all])
        assert torch.equal(alone.scores, everything.scores[among_all])


@pytest.mark.parametrize("classes", [3, -1, True, "wolf", 1.0, np.array([3])], ids=repr)
def test_classes_that_the_detector_does_not_have(model: pkdzoo.Detector, pixels: np.ndarray, classes: Any) -> None:
    with pytest.raises(ValueError, match="no class"):
        model.predict(pixels, classes=classes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 50}, "threshold=50: write a number from 0 to 1"),
        ({"threshold": -0.1}, "threshold=-0.1: write a number from 0 to 1"),
        ({"threshold": float("nan")}, "threshold=nan: write"),
        ({"threshold": "0.5"}, "threshold='0.5': write a number from 0 to 1"),
        ({"sizes": "640"}, "sizes='640': write one or several short sides in pixels"),
        ({"sizes": 640.0}, "sizes=640.0: write one"),
        ({"sizes": (640, 0.5)}, "write one or several short sides"),
        ({"sizes": ()}, "write one or several short sides"),
        ({"tiles": 64, "overlap": "half"}, "overlap='half': write a share of a tile"),
        ({"nms_threshold": 60}, "nms_threshold=60: write"),
        ({"max_detections": -1}, "max_detections=-1: write a whole number of at least 1"),
        ({"max_detections": 0}, "max_detections=0: write"),
        ({"max_detections": 2.5}, "max_detections=2.5: write"),
        ({"flip": "no"}, "flip='no': write True or False"),
        ({"flip": np.zeros(2)}, "flip=array.*: write True or False"),
        ({"classes": 1.5}, r"no class 1\.5: write names or labels of classes, e\.g\. \('cat', 'dog'\)"),
        ({"classes": object()}, "no class <object"),
        ({"batch_size": 0}, "batch_size=0: write"),
        ({"batch_size": True}, "batch_size=True: write"),
    ],
)
def test_values_out_of_range(model: pkdzoo.Detector, pixels: np.ndarray, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.predict(pixels, **options)
    with pytest.raises(ValueError, match=message):
        model.predict_stream([], **options)  # at once


@pytest.mark.parametrize(
    ("written", "meant"), [({"sizes": np.int64(96)}, {"sizes": (96,)}), ({"tiles": 64, "overlap": None}, {"tiles": 64})]
)
def test_one_size_and_no_overlap_are_taken_as_they_are_meant(
    model: pkdzoo.Detector, pixels: np.ndarray, written: Any, meant: Any
) -> None:
    one, other = (found(model.predict(pixels, threshold=0.0, **options)) for options in (written, meant))
    assert len(one) > 0 and torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores)


def test_numbers_of_numpy_are_numbers(model: pkdzoo.Detector, pixels: np.ndarray) -> None:
    options: Any = {"threshold": np.float32(0), "max_detections": np.int64(3), "batch_size": np.int32(2)}
    assert len(found(model.predict(pixels, **options))) == 3


def test_a_dictionary_is_no_list_of_images(model: pkdzoo.Detector, pixels: np.ndarray) -> None:
    with pytest.raises(TypeError, match=r"not a dictionary: write list\(images\.values\(\)\)"):
        model.predict({"image": pixels})


def test_a_damaged_pil_image_fails_alone(model: pkdzoo.Detector, pixels: np.ndarray) -> None:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    cut = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    closed = Image.open(BytesIO(buffer.getvalue()))
    closed.close()
    results = model.predict([pixels, Image.open(BytesIO(cut)), closed, pixels])
    assert [result.error is None for result in results] == [True, False, False, True]
    assert "truncated" in str(results[1].error)
    with pytest.raises(pkdzoo.data.UnreadableImage, match=r"a PIL image: .*truncated"):
        model.predict(Image.open(BytesIO(cut)))


def test_threads_share_a_model_in_train_mode(pixels: np.ndarray) -> None:
    """Predictions of several threads at once are those of eval mode, and every module gets its own mode back."""
    model = detector(norm="bn", frozen_stages=0)
    images = [pixels[: 48 - 4 * k] for k in range(4)]
    expected = [found(model.eval().predict(image, threshold=0.0, max_detections=20)) for image in images]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    model.neck.eval()
    modes = [module.training for module in model.modules()]
    barrier = threading.Barrier(4)

    def predict(number: int) -> Result:
        barrier.wait(timeout=60)
        return found(model.predict(images[number], threshold=0.0, max_detections=20))

    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            for result, own in zip(pool.map(predict, range(4)), expected):
                assert torch.allclose(result.scores, own.scores, atol=1e-5)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["retina_r10w16", "faster_rcnn_r10w16", "tood_r10w16"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name: str, dtype: torch.dtype, pixels: np.ndarray) -> None:
    torch.manual_seed(0)
    model = pkdzoo.create_detector(name, num_classes=3, resize=(64, 96))
    expected = found(model.predict(pixels, threshold=0.0, max_detections=10))
    result = found(model.to(dtype).predict(pixels, threshold=0.0, max_detections=10))
    assert result.boxes.dtype == result.scores.dtype == torch.float32
    assert len(result) == len(expected)
    assert torch.allclose(result.scores, expected.scores, atol=2e-3)


def test_the_wrapper_of_torch_compile_warns(pixels: np.ndarray) -> None:
    model = detector()
    compiled = torch.compile(model, backend="eager")
    for name in ("predict", "predict_stream"):
        with pytest.warns(UserWarning, match=rf"torch.compile\(model\).{name} runs uncompiled.*model.compile\(\)"):
            getattr(compiled, name)(pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(pixels)


@pytest.mark.slow
def test_compiled_parts_predict(pixels: np.ndarray) -> None:
    graphs = 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return graph.forward

    model = detector()
    expected = found(model.predict(pixels, threshold=0.0))
    model.compile(backend=backend)
    result = found(model.predict(pixels, threshold=0.0))
    assert graphs >= 3  # backbone, neck and head
    assert torch.allclose(result.scores, expected.scores, atol=1e-6)
