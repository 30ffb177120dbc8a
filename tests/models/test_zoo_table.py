"""The table of the zoo says what the registry says, and its sizes are counted."""

from __future__ import annotations

import csv
import io

import pytest
import torch
from helpers.extras import skip_without_library
from torchvision.models import resnet50

import pkdzoo
from pkdzoo.models._counting import deform_conv_flops
from pkdzoo.models._registry import find
from pkdzoo.models._zoo_index import INDEX
from pkdzoo.models._zoo_table import METRICS, cost_of, measure

SOME = ("retina_r50", "retina_swin_t", "reppoints_r50", "faster_rcnn_r50", "mask_rcnn_swin_t")


def test_every_row_has_a_line() -> None:
    table = pkdzoo.results()
    assert [line.name for line in table] == pkdzoo.list_detectors(pretrained=True)
    for line in table:
        row = pkdzoo.get_weights(line.name)
        assert {key: getattr(line, key) for key in METRICS if getattr(line, key) is not None} == {
            key: value for key, value in row.metrics.items() if key in METRICS
        }
        assert (line.source, line.license) == (row.source, row.license)


def test_a_triple() -> None:
    (line,) = pkdzoo.results("retina_r50_pkd_swin")
    assert (line.teacher, line.teacher_AP, line.baseline, line.distilled) == (
        "mask_rcnn_swin_s.coco_3x",
        48.2,
        37.4,
        41.5,
    )
    assert line.gap_closed == pytest.approx(4.1 / 10.8)
    assert "mask_rcnn_swin_t" in line.note
    (plain,) = pkdzoo.results("gfl_r101")
    assert (plain.teacher, plain.baseline, plain.gap_closed) == (None, None, None)
    assert "44.9" in plain.note


def test_written_out() -> None:
    table = pkdzoo.results(family="retina")
    lines = table.to_markdown().splitlines()
    assert len(lines) == len(table) + 2
    assert len({line.count("|") for line in lines}) == 1
    assert "| retina_r50_pkd_swin.coco_2x | 38.0 | 250.5 | 41.5 |" in table.to_markdown()
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [row["name"] for row in rows] == [line.name for line in table]
    assert rows[0]["teacher"] == ""


@pytest.mark.parametrize("name", [e for e in pkdzoo.list_detectors() if e not in pkdzoo.list_pairs()])
def test_parameters_are_counted(name: str) -> None:
    """With the classes of the default weights, which are those that a user loads."""
    skip_without_library(name)
    row = find(name)[0].default
    with torch.device("meta"):
        model = pkdzoo.create_detector(name, label_names=None if row is None else row.labels)
    assert INDEX[name].params == round(sum(p.numel() for p in model.parameters()) / 1e6, 3)


@pytest.mark.parametrize("name", SOME)
def test_operations_are_counted(name: str) -> None:
    assert measure(name) == (INDEX[name].params, INDEX[name].gflops)


def test_counts_against_others() -> None:
    # torchvision's own figures for its ResNet-50 at 224 x 224: 4.089 GFLOPs, of which 0.002 are the classifier's
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        backbone = pkdzoo.create_detector("retina_r50").backbone
        image = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(image)
    assert counter.get_total_flops() / 2e9 == pytest.approx(4.089 - 0.002, abs=0.001)
    # and its parameters, but for the classifier's
    with torch.device("meta"):
        original = resnet50(weights=None)
        original.fc = torch.nn.Identity()
    assert sum(p.numel() for p in backbone.parameters()) == sum(p.numel() for p in original.parameters())


def test_deformable_convolutions_count_like_ordinary_ones() -> None:
    assert deform_conv_flops((1, 8, 10, 10), (16, 8, 3, 3), out_shape=(1, 16, 10, 10)) == 2 * 1600 * 72


def test_pairs_cost_what_their_students_cost() -> None:
    from pkdzoo.models._registry import find

    for name in pkdzoo.list_pairs():
        entry, _ = find(name)
        assert entry.distilled is not None
        if find(entry.distilled.student)[0].args == entry.args:
            student = INDEX[entry.distilled.student]
            assert cost_of(entry) == (student.params, student.gflops)
