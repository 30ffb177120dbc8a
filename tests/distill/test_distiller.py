"""The Distiller: what is trained, what is saved, what runs, and how a method comes in from outside."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers.kd_reference import tiny_batch, tiny_detector
from torch import Tensor, nn

import pkdzoo
from pkdzoo.distill import METHODS, DistillMethod, FrozenTeacher, Progress, register_method
from pkdzoo.distill.base import require_same_classes, schedule_factor
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import HeadTrace, Trace


class Toy(DistillMethod):
    """Pulls the finest level toward the teacher's through a connector."""

    def __init__(self, student: Detector, teacher: Detector, weight: float = 1.0, depth: Any = "features") -> None:
        super().__init__()
        self.weight = weight
        self.teacher_depth = depth
        self.connector = nn.Conv2d(64, 64, 1)
        self.epochs: list[int] = []

    def on_epoch_start(self, epoch: int, student: Detector, teacher: Detector, loader: Any) -> None:
        self.epochs.append(epoch)

    def forward(self, student: Trace[Detector], teacher: Trace[Detector], batch: pkdzoo.Batch) -> dict[str, Tensor]:
        self.logs = {"depth": torch.tensor(float(isinstance(teacher, HeadTrace)))}
        difference = self.connector(student.features.levels[0]) - teacher.features.levels[0]
        return {"loss_toy": self.weight * difference.square().mean()}


@pytest.fixture
def toy() -> Iterator[None]:
    register_method("toy", Toy)
    yield
    del METHODS["toy"]


def distiller_of(**methods: Any) -> pkdzoo.Distiller:
    return pkdzoo.Distiller(tiny_detector(), tiny_detector(seed=1), methods or {"pkd": {}})


def test_losses_are_the_students_own_plus_the_methods() -> None:
    distiller, batch = distiller_of(), tiny_batch()
    losses, plain = distiller(batch), distiller.student(batch)
    assert set(losses) == {*plain, "loss_pkd"}
    for name, loss in plain.items():
        assert torch.equal(losses[name], loss)


def test_the_teacher_is_never_seen() -> None:
    distiller = distiller_of()
    count = sum(1 for _ in distiller.student.parameters())
    assert len(list(distiller.parameters())) == count
    assert all(key.startswith("student.") for key in distiller.state_dict())
    assert not any(module is distiller.teacher for module in distiller.modules())
    assert all(not p.requires_grad for p in distiller.teacher.parameters())
    before = copy.deepcopy(distiller.teacher.state_dict())
    distiller.train()
    assert not any(module.training for module in distiller.teacher.modules())
    assert distiller.student.training
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    sum(distiller(tiny_batch()).values()).backward()
    optimizer.step()
    assert all(torch.equal(before[key], value) for key, value in distiller.teacher.state_dict().items())
    assert all(p.grad is None for p in distiller.teacher.parameters())


def test_the_teacher_moves_along() -> None:
    distiller = distiller_of().to(torch.float64)
    assert {p.dtype for p in distiller.teacher.parameters()} == {torch.float64}
    assert distiller.teacher.pixel_mean.dtype == torch.float64
    distiller.to("meta")
    assert next(distiller.teacher.parameters()).is_meta


def test_frozen_passes_gradient() -> None:
    frozen = FrozenTeacher(tiny_detector())
    batch = tiny_batch()
    batch.images.requires_grad_()
    frozen.module.trace(batch, "features").features.levels[0].sum().backward()
    assert batch.images.grad is not None
    assert batch.images.grad.abs().sum() > 0
    assert not frozen.trace(batch, "features").features.levels[0].requires_grad


@pytest.mark.usefixtures("toy")
def test_a_method_from_outside_trains() -> None:
    assert "toy" in pkdzoo.list_methods()
    distiller = distiller_of(toy={"weight": 3.0})
    batch = tiny_batch()
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.05)
    values = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = distiller(batch)["loss_toy"]
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[0]
    assert {key.split(".")[0] for key in distiller.state_dict()} == {"student", "methods"}
    assert len(distiller.connectors()) == 2
    distiller.on_epoch_start(4, [batch])
    assert distiller.methods["toy"].epochs == [4]


@pytest.mark.usefixtures("toy")
def test_several_methods_share_one_teacher_pass_as_deep_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    distiller = distiller_of(pkd={}, toy={"depth": "head"})
    passes = []
    original = distiller.teacher.trace
    monkeypatch.setattr(distiller.teacher, "trace", lambda *args: passes.append(args[1]) or original(*args))
    losses = distiller(tiny_batch())
    assert passes == ["head"]
    assert {"loss_pkd", "loss_toy"} < set(losses)
    assert float(distiller.logs["toy/depth"]) == 1


def test_a_method_that_is_built_already() -> None:
    student, teacher = tiny_detector(), tiny_detector(seed=1)
    distiller = pkdzoo.Distiller(student, teacher, {"mine": Toy(student, teacher, weight=0.5)})
    assert "loss_toy" in distiller(tiny_batch())


@pytest.mark.usefixtures("toy")
def test_what_cannot_be_is_refused_by_name() -> None:
    student, teacher = tiny_detector(), tiny_detector(seed=1)
    with pytest.raises(ValueError, match=r"no distillation method 'pdk'.*Did you mean pkd.*All: .*pkd"):
        pkdzoo.Distiller(student, teacher, {"pdk": {}})
    with pytest.raises(ValueError, match=r"no option 'wieght'.*weight, levels, pair, resize, sync, .*schedule"):
        pkdzoo.Distiller(student, teacher, {"pkd": {"wieght": 1}})
    with pytest.raises(ValueError, match="needs a method"):
        pkdzoo.Distiller(student, teacher, {})
    for wrong in (["pkd"], {"pkd": 6.0}, {"pkd": None}):
        with pytest.raises(ValueError, match="options by name of a method"):
            pkdzoo.Distiller(student, teacher, wrong)
    with pytest.raises(ValueError, match="one object"):
        pkdzoo.Distiller(student, student, {"pkd": {}})
    with pytest.raises(ValueError, match="which exists already"):
        pkdzoo.Distiller(student, teacher, {"toy": {}, "again": Toy(student, teacher)})(tiny_batch())
    with pytest.raises(ValueError, match="a method 'toy' already"):
        register_method("toy", Toy)
    with pytest.raises(ValueError, match="letters"):
        register_method("to.y", Toy)


def test_schedules() -> None:
    assert schedule_factor("constant", Progress(3, 10)) == 1
    assert [schedule_factor("warmup:500", Progress(step)) for step in (0, 250, 500, 900)] == [0, 0.5, 1, 1]
    assert [schedule_factor("decay", Progress(step, 10)) for step in (0, 5, 10)] == [1, 0.5, 0]
    assert schedule_factor("epoch_decay", Progress(900, 1000, 6, 24)) == 0.75
    assert [schedule_factor("delay:400", Progress(step)) for step in (0, 399, 400)] == [0, 0, 1]
    for wrong in ("warmup", "warmup:0", "warmup:x", "linear", "decay:3", ""):
        with pytest.raises(ValueError, match="'warmup:500'"):
            schedule_factor(wrong, Progress())


def test_a_schedule_scales_one_method_only() -> None:
    distiller = distiller_of(pkd={"schedule": "warmup:10"})
    batch = tiny_batch()
    full = float(distiller_of()(batch)["loss_pkd"].detach())
    plain = distiller.student(batch)
    for step, factor in ((0, 0.0), (5, 0.5), (20, 1.0)):
        distiller.set_progress(step, 100)
        losses = distiller(batch)
        assert float(losses["loss_pkd"].detach()) == pytest.approx(factor * full, rel=1e-6)
        assert torch.equal(losses["loss_cls"], plain["loss_cls"])
    assert not any("factor" in key for key in distiller.state_dict())
    with pytest.raises(ValueError, match="'warmup:500'"):
        distiller_of(pkd={"schedule": "slowly"})


@pytest.mark.parametrize(
    ("schedule", "expected"), [("warmup:2", [0, 0.5, 1, 1]), ("delay:2", [0, 0, 1, 1]), ("decay", [1, 1, 1, 1])]
)
def test_schedules_of_a_loop_that_tells_no_progress(schedule: str, expected: list[float]) -> None:
    """A warmup that nobody counts would leave the method without effect."""
    distiller, batch = distiller_of(pkd={"schedule": schedule}), tiny_batch()
    full = float(distiller_of()(batch)["loss_pkd"].detach())
    distiller.eval()(batch)  # no training pass
    distiller.train()
    found = [float(distiller(batch)["loss_pkd"].detach()) for _ in expected]
    assert found == pytest.approx([factor * full for factor in expected], rel=1e-6)
    distiller.set_progress(0, 100)
    first = 1.0 if schedule == "decay" else 0.0
    assert [float(distiller(batch)["loss_pkd"].detach()) for _ in range(3)] == pytest.approx(
        [first * full] * 3, rel=1e-6
    )


@pytest.mark.parametrize("options", [{}, {"schedule": "warmup:4"}])
def test_a_compiled_distiller_is_compiled_once(options: dict[str, Any]) -> None:
    distiller, batch = distiller_of(pkd=options).train(), tiny_batch()
    expected = [float(distiller_of(pkd=options).train()(batch)["loss_pkd"].detach())]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(distiller, backend="eager")
    found, frames = [], []
    for _ in range(6):
        found.append(float(compiled(batch)["loss_pkd"].detach()))
        frames.append(torch._dynamo.utils.counters["frames"]["total"])
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert frames[1:] == [frames[1]] * 5
    ratios = [value / found[-1] for value in found]
    assert ratios == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1] if options else [1] * 6, rel=1e-4)


def test_an_optimized_student_is_refused() -> None:
    student = pkdzoo.create_detector("retina_r10w16", norm="frozen_bn").optimize()
    with pytest.raises(ValueError, match=r"retina_r10w16 is optimized .* leave out student\.optimize\(\)"):
        pkdzoo.Distiller(student, tiny_detector(seed=1), {"pkd": {}})


def test_class_maps_must_fit_where_classes_are_compared() -> None:
    student, teacher = tiny_detector(), tiny_detector(seed=1)
    require_same_classes(student, teacher, "crosskd")
    student.label_names = ("a", "b", "c")
    require_same_classes(student, teacher, "crosskd")  # the teacher's names are unknown
    teacher.label_names = ("a", "c", "b")
    with pytest.raises(ValueError, match="class 1 is 'b' in the student but 'c'"):
        require_same_classes(student, teacher, "crosskd")
    other = pkdzoo.create_detector("retina_r10w16", num_classes=4)
    with pytest.raises(ValueError, match="3 classes and the teacher 4"):
        require_same_classes(student, other, "crosskd")


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"pkd": {"weight": float("nan")}}, "pkd: weight=nan"),
        ({"fgd": {"alpha": -1.0}}, "from 0 up"),
        ({"norm_kl": {"temperature": 0}}, "above 0"),
        ({"global_knowledge": {"prototypes": 0}}, "above 0"),
    ],
)
def test_numbers_that_make_no_sense(methods: dict[str, dict[str, float]], message: str) -> None:
    student, teacher = (pkdzoo.create_detector("retina_r10w16") for _ in range(2))
    with pytest.raises(ValueError, match=message):
        pkdzoo.Distiller(student, teacher, methods)
