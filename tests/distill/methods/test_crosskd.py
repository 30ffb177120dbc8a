"""CrossKD equals the authors' code as a whole: every kind of loss, and the gradient of every student parameter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.kd_reference import depths_of, gradient_error, tiny_batch, tiny_detector
from helpers.reference import GOLDEN, batch_for, checkpoint, load

import pkdzoo
from pkdzoo.distill.methods.crosskd import TINY, CrossKD
from pkdzoo.losses import distilled_quality_focal
from pkdzoo.losses.correlation import center_channels

# name in the file -> student, teacher, weight of PKD where the case has it
PAIRS = {
    "crosskd_r18_gflv1_r50_fpn_1x_coco": ("gfl_r18", "gfl_r50", 0),
    "crosskd_r18_retinanet_r50_fpn_1x_coco": ("retina_r18_on_output", "retina_r50", 0),
    "crosskd_r50_atss_r101_fpn_1x_coco": ("atss_r50", "atss_r101", 1),
    "crosskd_r50_fcos_r101-2x-ms_caffe_fpn_gn-head_2x_ms_coco": ("fcos_r50_caffe", "fcos_r101_caffe", 2),
    "crosskd_r50_gflv1_r101-2x-ms_fpn_1x_coco": ("gfl_r50", "gfl_r101", 6),
    "crosskd_r50_retinanet_r101_fpn_2x_coco": ("retina_r50_on_output", "retina_r101", 2),
    "crosskd_r50_retinanet_swint_fpn_1x_coco": ("retina_r50_on_output", "retina_swin_t", 0),
}
KINDS = {
    "loss_cls": "loss_cls",
    "loss_bbox": "loss_box",
    "loss_dfl": "loss_dfl",
    "loss_centerness": "loss_centerness",
    "loss_cls_kd": "loss_crosskd_cls",
    "loss_reg_kd": "loss_crosskd_box",
    "losses_center_kd": "loss_crosskd_centerness",
    "loss_feat_kd": "loss_pkd",
}
FILES = sorted(path.stem for path in (GOLDEN / "kd").glob("crosskd*.json"))
FAST = ("crosskd__crosskd_r18_retinanet_r50_fpn_1x_coco",)


def table_of(name: str) -> dict[str, list[int]]:
    """Shapes of a model's checkpoint in mmdetection's names."""
    if name == "gfl_r18":
        return depths_of(table_of("gfl_r50"), table_of("retina_r18"))
    if name.endswith("_on_output"):
        return {**table_of(name.removesuffix("_on_output")), "neck.fpn_convs.3.conv.weight": [256, 256, 3, 3]}
    table: dict[str, list[int]] = load(f"mmdet/{name}")["state_dict"]
    return table


def summed_over_levels(losses: dict[str, float]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for key, value in losses.items():
        kind = key.split(".")[0].rstrip("_0123456789")
        sums[KINDS[kind]] = sums.get(KINDS[kind], 0.0) + value
    return sums


@pytest.mark.parametrize("name", [f if f in FAST else pytest.param(f, marks=pytest.mark.slow) for f in FILES])
def test_equals_the_authors_code(name: str) -> None:
    case = load(f"kd/{name}")
    own, _, rest = name.partition("__")
    student_name, teacher_name, weight = PAIRS[rest.replace("crosskd_pkd_", "crosskd_")]
    student, teacher = pkdzoo.create_detector(student_name), pkdzoo.create_detector(teacher_name)
    pkdzoo.load_checkpoint(student, checkpoint(table_of(student_name), case["student_seed"]))
    pkdzoo.load_checkpoint(teacher, checkpoint(table_of(teacher_name), case["teacher_seed"]))
    methods: dict[str, Any] = {"crosskd": {}}
    if own == "crosskd_pkd":
        methods["pkd"] = {"weight": weight, "levels": 5}
    batch = batch_for(student, case)
    if name not in FAST:
        # Channels that are nearly dead on the coarsest levels multiply rounding by a million, differently for each
        # number of threads; in float64 the only rounding left is the reference's own.
        student.double(), teacher.double()
        batch.images = batch.images.double()
    losses = pkdzoo.Distiller(student, teacher, methods)(batch)

    expected = summed_over_levels(case["losses"])
    assert set(losses) == set(expected)
    for kind, value in expected.items():
        assert float(losses[kind].detach()) == pytest.approx(value, rel=1e-4, abs=1e-6), kind
    sum(losses.values()).backward()
    assert gradient_error(student, case["grad_norms"]) < 2e-3
    assert all(p.grad is None for p in teacher.parameters())


def test_quality_focal_golden_values() -> None:
    student = torch.tensor([[0.3, -1.2], [2.0, 0.1]], dtype=torch.float64)
    teacher = torch.tensor([[1.0, -2.0], [0.5, 0.0]], dtype=torch.float64)
    both, first = torch.ones(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert float(distilled_quality_focal(student, teacher, both)) == pytest.approx(0.3902780196, abs=2e-9)
    divided = float(distilled_quality_focal(student, teacher, first)) / (3 + TINY)
    assert divided == pytest.approx(0.0483587476, abs=1e-10)


@pytest.mark.parametrize("hold", ["post", "pre"])
def test_aligned_maps_have_the_teachers_statistics(hold: Any) -> None:
    student, teacher = tiny_detector("fcos_r10w16"), tiny_detector("fcos_r10w16", seed=1)
    method = CrossKD(student, teacher, hold=hold)
    batch = tiny_batch()
    traces = [model.trace(batch, "head", method.tap) for model in (student, teacher)]
    aligned = method.aligned_taps(traces[0].taps, traces[1].taps)
    taps = traces[1].taps
    assert len(aligned.cls + aligned.reg) == 10
    for ours, expected in zip(aligned.cls + aligned.reg, taps.cls + taps.reg, strict=True):
        if hold == "post":
            expected = expected.relu()
        (_, mean, std), (_, wanted_mean, wanted_std) = center_channels(ours), center_channels(expected)
        assert torch.allclose(mean, wanted_mean, atol=1e-4)
        alive = std > 0  # a channel that is constant in the student stays so
        assert alive.any()
        assert torch.allclose(std[alive], wanted_std[alive], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("family", ["retina", "fcos", "gfl", "atss"])
@pytest.mark.parametrize("block", [None, 0, 1, 2])
def test_a_twin_learns_nothing_and_a_stranger_something(family: str, block: int | None) -> None:
    name, batch = f"{family}_r10w16", tiny_batch()
    student = tiny_detector(name)
    twin = pkdzoo.Distiller(student, tiny_detector(name), {"crosskd": {"block": block}})(batch)
    stranger = pkdzoo.Distiller(student, tiny_detector(name, seed=1), {"crosskd": {"block": block}})(batch)
    kinds = [kind for kind in twin if "crosskd" in kind]
    assert ("loss_crosskd_centerness" in kinds) == (family == "atss")
    for kind in ("loss_crosskd_cls", "loss_crosskd_box"):
        assert abs(float(twin[kind].detach())) < 2e-2 * float(stranger[kind].detach()), kind


def test_gradient_ends_at_the_block_of_the_tap() -> None:
    student, teacher = tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16", seed=1)
    distiller = pkdzoo.Distiller(student, teacher, {"crosskd": {"block": 1}})
    losses = distiller(tiny_batch())
    (losses["loss_crosskd_cls"] + losses["loss_crosskd_box"]).backward()
    touched = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith("backbone.") for name in touched)
    assert any(name.startswith("head.cls_tower.blocks.0") for name in touched)
    assert any(name.startswith("head.reg_tower.blocks.0") for name in touched)
    assert not any("blocks.1" in name or name.startswith(("head.cls.", "head.box.")) for name in touched)


def test_weights_are_factors() -> None:
    student, teacher = tiny_detector("atss_r10w16"), tiny_detector("atss_r10w16", seed=1)
    batch = tiny_batch()
    plain = pkdzoo.Distiller(student, teacher, {"crosskd": {}})(batch)
    options = {"cls_weight": 2.0, "box_weight": 3.0, "quality_weight": 0.0}
    weighted = pkdzoo.Distiller(student, teacher, {"crosskd": options})(batch)
    assert torch.allclose(weighted["loss_crosskd_cls"], 2 * plain["loss_crosskd_cls"])
    assert torch.allclose(weighted["loss_crosskd_box"], 3 * plain["loss_crosskd_box"])
    assert "loss_crosskd_centerness" not in weighted


def test_the_kind_of_hold_matters() -> None:
    student, teacher = tiny_detector("fcos_r10w16"), tiny_detector("fcos_r10w16", seed=1)
    post, pre = (pkdzoo.Distiller(student, teacher, {"crosskd": {"hold": h}})(tiny_batch()) for h in ("post", "pre"))
    assert float(post["loss_crosskd_cls"].detach()) != pytest.approx(float(pre["loss_crosskd_cls"].detach()), rel=1e-3)


def test_ignored_priors_count_for_nothing() -> None:
    """Images much smaller than their batch: what the heads say on the padding must not matter to RetinaNet."""
    student, teacher = tiny_detector("retina_r10w16"), tiny_detector("retina_r10w16", seed=1)
    batch = tiny_batch((128, 128))
    batch.sizes = [(64, 64), (64, 64)]
    method = CrossKD(student, teacher)
    with torch.no_grad():
        traces = student.trace(batch, "loss", method.tap), teacher.trace(batch, "head", method.tap)
        before = method(*traces, batch)
        for level, stride in zip(traces[1].outputs.cls, traces[1].features.strides, strict=True):
            level[:, :, -(-64 // stride) :] = 50.0
        after = method(*traces, batch)
    assert torch.equal(before["loss_crosskd_cls"], after["loss_crosskd_cls"])
    assert torch.equal(before["loss_crosskd_box"], after["loss_crosskd_box"])


def test_heads_that_cannot_continue_each_other_are_refused() -> None:
    retina = tiny_detector("retina_r10w16")
    cases = [
        (tiny_detector("faster_rcnn_r10w16"), {}, "has none"),
        (tiny_detector("fcos_r10w16"), {}, "head: RetinaHead and FCOSHead"),
        (pkdzoo.create_detector("retina_r10w16", num_classes=3, depth=3), {}, "blocks per tower: 2 and 3"),
        (pkdzoo.create_detector("retina_r10w16", num_classes=3, width=32), {}, "tower width: 64 and 32"),
        (pkdzoo.create_detector("retina_r10w16", num_classes=5), {}, "3 classes and the teacher 5"),
        (tiny_detector(seed=1), {"block": 3}, "the towers have 2 blocks"),
        (tiny_detector(seed=1), {"hold": "before"}, "'post', 'pre'"),
        (tiny_detector(seed=1), {"quality_weight": 1.0}, "predicts no centerness"),
    ]
    for teacher, options, words in cases:
        with pytest.raises(ValueError, match=words):
            CrossKD(retina, teacher, **options)
    with pytest.raises(ValueError, match="the student faster_rcnn_r10w16 has none"):
        CrossKD(tiny_detector("faster_rcnn_r10w16"), retina)


@pytest.mark.parametrize("name", ["tood_r50", "reppoints_r50", "faster_rcnn_r50", "mask_rcnn_swin_t"])
def test_families_without_towers_are_refused_with_a_sentence(name: str) -> None:
    with torch.device("meta"):
        student, teacher = pkdzoo.create_detector(name), pkdzoo.create_detector(name)
    with pytest.raises(ValueError, match=f"crosskd .*{name}"):
        CrossKD(student, teacher)
