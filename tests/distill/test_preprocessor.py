"""How a model of transformers takes its images: what its preprocessor_config.json says, and what it may not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pkdzoo.distill.adapters.preprocessor import Preprocessor, preprocessor_config, read_preprocessor

UNIT = (0.0,) * 3, (255.0,) * 3
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def read(folder: Path, content: Any, size: Any = None, normalizes: bool = False) -> Preprocessor:
    path = folder / "preprocessor_config.json"
    if content is not None:
        path.write_text(json.dumps(content))
    return read_preprocessor(path, size, (640, 640), 32, normalizes)


@pytest.mark.parametrize(
    ("content", "normalizes", "size", "statistics"),
    [
        (None, False, (640, 640), UNIT),
        (None, True, (640, 640), IMAGENET),  # RF-DETR
        ({"size": 96, "do_normalize": True}, False, (96, 96), IMAGENET),
        ({"size": {"height": 96, "width": 128}, "do_normalize": False}, True, (96, 128), UNIT),
        ({"do_rescale": False}, False, (640, 640), ((0.0,) * 3, (1.0,) * 3)),
        ({"rescale_factor": 1 / 127.5}, False, (640, 640), ((0.0,) * 3, (127.5,) * 3)),
        ({"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}, False, (640, 640),
         ((127.5,) * 3, (51.0,) * 3)),
    ],
)  # fmt: skip
def test_sizes_and_statistics_are_those_of_the_file(content, normalizes, size, statistics, tmp_path) -> None:
    found = read(tmp_path, content, normalizes=normalizes)
    assert found.size == size
    torch.testing.assert_close(torch.tensor(found[1:3]), torch.tensor(statistics))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "holds a list"),
        ({"size": {"shortest_edge": 800}}, r"write teacher_args=\{'input_size': \[640, 640\]\}"),
        ({"size": 96.0}, "input_size is 96.0"),
        ({"size": {"height": 100, "width": 64}}, r"'input_size': \[96, 64\]"),
        ({"size": 1 << 20}, r"up to 4096: write teacher_args=\{'input_size': \[4096, 4096\]\}"),
        ({"do_normalize": True, "image_mean": None}, "three numbers of each"),
        ({"do_normalize": True, "image_std": [0, 0, 0]}, "every std above 0"),
        ({"rescale_factor": 0}, "a factor above 0"),
        ({"rescale_factor": "x"}, "a factor above 0"),
    ],
)
def test_what_cannot_be_used_is_refused(content, says, tmp_path) -> None:
    with pytest.raises(ValueError, match=says):
        read(tmp_path, content)


@pytest.mark.parametrize("size", [{"shortest_edge": 800}, 96.0, "x", 100])
def test_a_given_size_replaces_one_that_cannot_be_used(size, tmp_path) -> None:
    assert read(tmp_path, {"size": size}, size=[96, 64]).size == (96, 64)


@pytest.mark.parametrize("statistics", [UNIT, IMAGENET, ((0.0,) * 3, (1.0,) * 3)])
def test_what_is_written_is_read_again(statistics, tmp_path) -> None:
    own = Preprocessor((96, 64), *statistics, (64, 80))
    found = read(tmp_path, preprocessor_config(own))
    assert (found.size, found.resize) == (own.size, own.resize)
    torch.testing.assert_close(torch.tensor(found[1:3]), torch.tensor(own[1:3]))


@pytest.mark.parametrize("normalizes", [False, True])
def test_the_library_reads_it_in_the_same_way(normalizes, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    own = Preprocessor((96, 64), *(IMAGENET if normalizes else UNIT), (64, 80))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor_config(own)))
    image = torch.randint(0, 256, (3, 96, 64), dtype=torch.uint8)
    theirs = transformers.RTDetrImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"][0]
    mean, std = (torch.tensor(part)[:, None, None] for part in own[1:3])
    torch.testing.assert_close(theirs, (image - mean) / std, rtol=1e-4, atol=1e-5)
