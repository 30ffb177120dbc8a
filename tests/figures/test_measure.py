"""The numbers of the figures against what they say they are, on maps made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pkdzoo
from pkdzoo.distill import freeze
from pkdzoo.figures import PyramidMaps, extract_maps, pair_numbers, read_run
from pkdzoo.figures.measure import dominant
from pkdzoo.structures import FeaturePyramid


def by_hand() -> PyramidMaps:
    """Two images of 32 x 32 and 32 x 16 pixels in a batch of 32 x 32: the right half of the second is padding."""
    fine = torch.zeros(2, 3, 4, 4)
    fine[0, 1] = 2.0  # channel 1 everywhere in the first image
    fine[1, 2, :, :2] = -4.0  # the second: channels 0 and 1 are the largest, at 0
    fine[1, 1, :, 2:] = 99.0  # padding
    coarse = torch.full((2, 3, 2, 2), 0.5)
    coarse[:, 0] = 1.0
    return PyramidMaps("mine", FeaturePyramid([fine, coarse], (8, 16)), [(32, 32), (32, 16)])


class TestMaps:
    def test_patterns_are_the_largest_channel_without_the_padding(self) -> None:
        mine = by_hand()
        assert mine.level_names == ["P3", "P4"]
        first, second = mine.patterns("before", 0), mine.patterns("before", 1)
        assert [tuple(pattern.shape) for pattern in (*first, *second)] == [(4, 4), (2, 2), (4, 2), (2, 1)]
        assert (first[0] == 2).all() and (second[0] == 0).all() and (second[1] == 1).all()

    def test_numbers(self) -> None:
        numbers = by_hand().numbers()
        fine, coarse = numbers["levels"]
        assert (fine["level"], fine["stride"], fine["channels"]) == ("P3", 8, 3)
        cells = 16 + 8  # the padding does not count
        assert fine["before"]["mean"] == pytest.approx((16 * 2 + 8 * 4) / (3 * cells))
        assert fine["before"]["max"] == 4.0
        assert (fine["before"]["channel"], fine["before"]["share"]) == (1, pytest.approx(16 / cells))
        assert fine["before"]["share_of_5"] == 1.0
        assert (coarse["before"]["channel"], coarse["before"]["share"]) == (0, 1.0)
        assert numbers["level_ratio"]["before"] == pytest.approx((64 / 72) / (2 / 3))
        assert coarse["after"]["max"] == 0.0 and numbers["level_ratio"]["after"] is None  # nothing varies
        json.dumps(numbers, allow_nan=False)

    def test_normalization_takes_dominance_away(self) -> None:
        torch.manual_seed(0)
        maps = torch.randn(2, 16, 8, 8)
        maps[:, 5] += 10
        one = PyramidMaps("loud", FeaturePyramid([maps], (8,)), [(64, 64)] * 2)
        level = one.numbers()["levels"][0]
        assert (level["before"]["channel"], level["before"]["share"]) == (5, 1.0)
        assert level["after"]["share"] < 0.2
        assert level["after"]["std"] == pytest.approx((1 - 2 / torch.pi) ** 0.5, abs=0.05)  # of |N(0, 1)|

    def test_dominant_counts_every_pixel_once(self) -> None:
        values = torch.randn(7, 100)
        assert dominant(values).shape == (7,) and int(dominant(values).sum()) == 100

    def test_a_detector_keeps_its_mode(self) -> None:
        model = pkdzoo.create_detector("retina_r10w16").train()
        batch = pkdzoo.Batch(torch.rand(2, 3, 64, 64) * 255, [(64, 60), (50, 64)])
        seen = extract_maps(model, batch, levels=None, name="other")
        assert model.training and seen.name == "other" and len(seen.features.levels) == 5
        assert torch.equal(seen.features.levels[0], model.eval().extract_features(batch).levels[0])


class TestPairs:
    def test_r_is_pkds_and_blind_to_gain_and_offset(self) -> None:
        torch.manual_seed(0)
        maps = torch.randn(2, 8, 8, 8)
        sizes = [(64, 64)] * 2
        student = PyramidMaps("s", FeaturePyramid([maps], (8,)), sizes)
        teacher = PyramidMaps("t", FeaturePyramid([3 * maps + 7], (8,)), sizes)
        (row,) = pair_numbers(student, teacher)
        assert row["r"] == pytest.approx(1.0, abs=1e-4)
        assert row["magnitude_ratio"] == pytest.approx(float((3 * maps + 7).abs().mean() / maps.abs().mean()))
        other = PyramidMaps("o", FeaturePyramid([torch.randn(2, 8, 8, 8)], (8,)), sizes)
        assert abs(pair_numbers(student, other)[0]["r"]) < 0.3

    def test_levels_by_index_or_stride(self) -> None:
        sizes = [(64, 64)]
        student = PyramidMaps("s", FeaturePyramid([torch.randn(1, 8, 8, 8), torch.randn(1, 8, 4, 4)], (8, 16)), sizes)
        teacher = PyramidMaps("t", FeaturePyramid([torch.randn(1, 4, 16, 16), torch.randn(1, 4, 8, 8)], (4, 8)), sizes)
        names = [(row["student"], row["teacher"]) for row in pair_numbers(student, teacher)]
        assert names == [("P3", "P2"), ("P4", "P3")]
        (row,) = pair_numbers(student, teacher, "stride")
        assert (row["student"], row["teacher"], row["r"]) == ("P3", "P3", None)  # 8 channels and 4


class TestLog:
    def test_a_run_under_way(self, tmp_path: Path) -> None:
        (tmp_path / "log.jsonl").write_text('{"step": 3, "log/pkd/r0": 0.5}\n{"step": 3, "epoch": 1, "AP": null}\n{"st')
        run = read_run(tmp_path)
        assert (run.name, run.epochs, run.r) == (tmp_path.name, [], [[0.5]])

    def test_no_log(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no log\.jsonl"):
            read_run(tmp_path)
        (tmp_path / "log.jsonl").write_text('{"step": 3}\nhello\n{"step": 4}\n')
        with pytest.raises(ValueError, match="line 2"):
            read_run(tmp_path)


def test_frozen_norms_stay_frozen() -> None:
    model = pkdzoo.create_detector("retina_r10w16", norm="bn").train()
    freeze(model, ["backbone"])
    modes = [module.training for module in model.modules()]
    extract_maps(model, pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)]))
    assert [module.training for module in model.modules()] == modes
    assert {module.training for module in model.backbone.modules()} == {False}
