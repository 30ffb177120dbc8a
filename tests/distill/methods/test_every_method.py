"""What must hold for every method there is; a new one is tested by existing."""

from __future__ import annotations

import copy
import inspect
import json
from typing import Any

import pytest
import torch
from helpers.drawing import poisoned_memory
from helpers.kd_reference import tiny_batch, tiny_detector

import pkdzoo
from pkdzoo.distill import METHODS, Distiller, method_options

NAMES = pkdzoo.list_methods()
WITH_LOGITS = ("crosskd", "frs", "gid", "rank_mimic", "global_knowledge")
SAME_WIDTH = ("crosskd", "cwd", "norm_kl", "pkd", "rank_mimic")  # no connectors between unequal maps
ONE_STAGE = ("crosskd", "ld", "rank_mimic")
WITH_DISTRIBUTIONS = ("ld",)  # compares priors, but no classes


def distiller_of(name: str, student: str = "gfl_r10w16", **teacher: Any) -> Distiller:
    distiller = Distiller(tiny_detector(student), tiny_detector(student, seed=1, **teacher), {name: {}})
    distiller.set_progress(step=1000, total=2000, epoch=3, epochs=12)
    return distiller


@pytest.fixture(autouse=True)
def fixed_draws() -> None:
    """MGD draws its masks from torch's global generator."""
    torch.manual_seed(0)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_option(name: str) -> None:
    student, teacher = tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16", seed=1)
    options = method_options(name)
    for option in set(options) - {"draws"}:  # tensors, which no recipe holds
        for value in ("6x", {"a": 1}, ["6x"]):
            with pytest.raises(ValueError, match=rf"^{name}: {option}=.*: write "):
                Distiller(student, teacher, {name: {option: value}})
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}  # as in JSON
    assert name in Distiller(student, teacher, {name: given}).schedules


def added_by(distiller: Distiller, losses: dict[str, torch.Tensor]) -> list[str]:
    own = {"loss_cls", "loss_box", "loss_dfl", "loss_centerness", "loss_rpn_cls", "loss_rpn_box"}
    return [name for name in losses if name not in own]


def test_the_methods_of_the_zoo() -> None:
    expected = (
        "crosskd cwd defeat fbkd fgd fgfi frs gid global_knowledge gt_mask ld mgd mse norm_cwd norm_kl pkd rank_mimic"
    )
    assert expected.split() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_options_are_plain_documented_values(name: str) -> None:
    options = method_options(name)
    json.dumps(options)
    documentation = inspect.getdoc(METHODS[name])
    assert documentation
    assert all(f"{option}:" in documentation for option in options), "an option without a word about it"


@pytest.mark.parametrize("width", [64, 48])
def test_every_connector_is_initialized(width: int) -> None:
    student, teacher = tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16", seed=1, width=width)
    for name, method in METHODS.items():
        if width == 48 and name in SAME_WIDTH:
            with pytest.raises(ValueError, match="width"):
                method(student, teacher)
            continue
        with poisoned_memory():
            connectors = method(student, teacher).state_dict()
        assert all(value.isfinite().all() for value in connectors.values()), name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("student", ["gfl_r10w16", "faster_rcnn_r10w16"])
def test_a_step(name: str, student: str) -> None:
    if student == "faster_rcnn_r10w16" and name in ONE_STAGE:
        with pytest.raises(ValueError, match=r"stage|none"):
            distiller_of(name, student)
        return
    distiller = distiller_of(name, student).train()
    teacher = copy.deepcopy(distiller.teacher.state_dict())
    losses = distiller(tiny_batch())
    added = added_by(distiller, losses)
    assert added
    assert all(key.startswith("loss_") and losses[key].ndim == 0 and losses[key].isfinite() for key in losses)
    assert all(losses[key].requires_grad for key in added)
    assert not any(value.requires_grad for value in distiller.logs.values())
    optimizer = torch.optim.SGD(distiller.parameters(), lr=1e-3)
    sum(losses.values()).backward()
    # DistributedDataParallel waits for a gradient of every parameter
    assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.parameters() if p.requires_grad)
    optimizer.step()
    assert all(torch.equal(value, teacher[key]) for key, value in distiller.teacher.state_dict().items())
    assert all(key.startswith(("student.", f"methods.{name}.")) for key in distiller.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision(name: str) -> None:
    distiller = distiller_of(name).train()
    with torch.no_grad():
        wide = distiller(tiny_batch())
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = distiller(tiny_batch())
    assert set(losses) == set(wide)
    for key in added_by(distiller, losses):
        assert losses[key].dtype == torch.float32, key
        if name != "gid":  # which instances are the most disputed is decided by the last digits
            assert float(losses[key].detach()) == pytest.approx(float(wide[key]), rel=0.1, abs=1e-3), key
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_random_but_masks_and_nothing_kept(name: str) -> None:
    """Two passes over one batch agree, and so does a copy that was saved and loaded."""
    distiller, other = distiller_of(name), distiller_of(name)
    other.load_state_dict(distiller.state_dict())
    passes = []
    for each in (distiller, distiller, other):
        if name == "mgd":  # its masks are random
            torch.manual_seed(0)
        with torch.no_grad():
            passes.append(each(tiny_batch()))
    first = passes[0]
    for losses in passes[1:]:
        assert all(torch.equal(losses[key], first[key]) for key in first)


@pytest.mark.parametrize("name", [n for n in NAMES if n in WITH_LOGITS])
def test_methods_that_compare_classes_refuse_other_classes(name: str) -> None:
    other = pkdzoo.create_detector("gfl_r10w16", num_classes=5)
    with pytest.raises(ValueError, match="3 classes and the teacher 5"):
        Distiller(tiny_detector("gfl_r10w16"), other, {name: {}})


@pytest.mark.parametrize("name", [n for n in NAMES if n not in WITH_LOGITS + WITH_DISTRIBUTIONS])
def test_methods_of_features_learn_from_any_detector(name: str) -> None:
    teacher = pkdzoo.create_detector("faster_rcnn_r10w16", num_classes=7)
    distiller = Distiller(tiny_detector("gfl_r10w16"), teacher, {name: {}})
    losses = distiller(tiny_batch())
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_all_methods_at_once_over_one_teacher_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    methods: dict[str, Any] = {name: {} for name in NAMES}
    distiller = Distiller(tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16", seed=1), methods)
    passes = []
    original = distiller.teacher.trace
    monkeypatch.setattr(distiller.teacher, "trace", lambda *args: passes.append(args[1]) or original(*args))
    losses = distiller(tiny_batch())
    assert passes == ["head"]
    alone = {key: value for name in NAMES for key, value in _alone(name).items()}
    assert set(losses) == set(alone)


def _alone(name: str) -> dict[str, torch.Tensor]:
    return distiller_of(name)(tiny_batch())
