"""Checkpoints are whole or absent, and the newest sound one is found."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import time
import warnings
from contextlib import contextmanager

import pytest
import torch

import pkdzoo
from pkdzoo.training import checkpoint, run_folder
from pkdzoo.training.checkpoint import Progress, find_checkpoint, list_checkpoints, read_checkpoint, save_checkpoint
from pkdzoo.training.optim import build_optimizer, build_schedule
from pkdzoo.training.recipe import Optim, Recipe, Schedule
from pkdzoo.training.task import SupervisedTask
from pkdzoo.utils.files import write_json

RECIPE = Recipe("run", "retina_r18")
ABOUT = {"command": "train"}


def save(output, step: int, keep: int = 2, **fields) -> None:
    save_checkpoint(output, Progress(step=step, **fields), {"task.w": torch.full((2,), float(step))}, {"lr": 0.1}, keep)


@pytest.fixture
def output(tmp_path):
    run_folder.open_output(tmp_path / "run", RECIPE, ABOUT)
    return tmp_path / "run"


def test_round_trip_and_progress_as_data(output) -> None:
    progress = Progress(2, 7, 3, 0.1 + 0.2, 1, False, {"sums": {"loss": 1 / 3}, "counts": {"loss": 2}})
    save_checkpoint(output, progress, {"task.w": torch.arange(3.0)}, {"scheduler": {"last": 7}}, 2)
    found = find_checkpoint(output)
    assert found is not None and found[1] == progress  # floats too, to the last bit
    tensors, rest = read_checkpoint(found[0])
    assert torch.equal(tensors["task.w"], torch.arange(3.0)) and rest == {"scheduler": {"last": 7}}


def test_factors_that_regroup_the_parameters_keep_each_ones_momentum(output) -> None:
    """With a factor for biases the optimizer has two groups, in another order than the checkpoint's one."""
    task = SupervisedTask(pkdzoo.create_detector("retina_r10w16"))
    before, after = Optim(lr=0.1), Optim(lr=0.2, bias_lr_mult=2.0, weight_decay=0.5)
    optimizer = build_optimizer(task, before, 16)
    schedule = Schedule(epochs=10, milestones=(4,), warmup=None)
    for parameter in task.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    expected = {name: optimizer.state[p]["momentum_buffer"].clone() for name, p in task.named_parameters()}
    tensors, rest = checkpoint.snapshot(task, optimizer, build_schedule(optimizer, schedule, 1), None, None)
    path = save_checkpoint(output, Progress(step=5), tensors, rest, 2)
    optimizer = build_optimizer(task, after, 16)
    scheduler = build_schedule(optimizer, schedule, 1)
    checkpoint.restore(path, 5, task, optimizer, scheduler, None, None)
    assert [round(group["lr"], 9) for group in optimizer.param_groups] == [0.02, 0.04]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.5}
    for name, parameter in task.named_parameters():
        assert torch.equal(optimizer.state[parameter]["momentum_buffer"], expected[name]), name
    scheduler.step()
    assert scheduler.last_epoch == 6 and scheduler.get_last_lr() == pytest.approx([0.02, 0.04])


def test_only_the_newest_stay(output) -> None:
    for step in (1, 2, 9, 10):
        save(output, step)
    assert [path.name for path in list_checkpoints(output)] == ["step_00000010", "step_00000009"]
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["step_00000009", "step_00000010"]


def test_the_manifest_decides_and_not_the_folders_name(output) -> None:
    save(output, 5)
    save(output, 6)
    os.rename(output / "checkpoints" / "step_00000005", output / "checkpoints" / "step_99999999")
    found = find_checkpoint(output)
    assert found is not None and found[1].step == 6


@pytest.mark.parametrize("keep", [1, 2])
def test_what_was_passed_over_goes_with_the_next_save(output, keep) -> None:
    for step in (5, 8):
        save(output, step, keep=2)
    (output / "checkpoints" / "step_00000008" / "optimizer.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged"):
        assert find_checkpoint(output)[1].step == 5
    save(output, 6, keep=keep)  # the run went on from 5
    assert [path.name for path in list_checkpoints(output)] == ["step_00000006", "step_00000005"][:keep]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_flipped_byte_or_a_missing_file_is_passed_over(output, name) -> None:
    save(output, 1)
    save(output, 2)
    path = list_checkpoints(output)[0] / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="is damaged"):
        found = find_checkpoint(output)
    assert found is not None and found[1].step == 1
    path.unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        found = find_checkpoint(output)
    assert found is not None and found[1].step == 1


def test_an_unreadable_manifest_is_passed_over(output) -> None:
    save(output, 1)
    save(output, 2)
    (list_checkpoints(output)[0] / "manifest.json").write_text('{"progress": {"st')
    with pytest.warns(UserWarning, match="cannot be read"):
        found = find_checkpoint(output)
    assert found is not None and found[1].step == 1


def test_a_manifest_that_says_another_step_is_passed_over(output) -> None:
    for step in (1, 2):
        save(output, step)
    path = list_checkpoints(output)[0] / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = find_checkpoint(output)
        assert found is not None and found[1].step == 1, place
    path.write_bytes(whole.replace(b'"step": 2', b'"step": 3'))
    with pytest.warns(UserWarning, match="its own hash differs"):
        assert find_checkpoint(output)[1].step == 1
    path.write_bytes(whole)
    assert find_checkpoint(output)[1].step == 2


@contextmanager
def small_disk(limit: int):
    """Inside, no file grows beyond ``limit`` bytes: what a full disk says, anybody can have it said."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("tensors", "rest"), [({"task.w": torch.zeros(9000)}, {}), ({}, {"optimizer": torch.zeros(9000)})]
)
def test_a_full_disk_changes_nothing(output, tensors, rest) -> None:
    save(output, 1)
    with small_disk(20_000), pytest.raises(OSError, match=r"step 2 could not .*: File too large.*: .*step_00000001"):
        save_checkpoint(output, Progress(step=2), tensors, rest, 2)
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step_00000001"]
    save_checkpoint(output, Progress(step=2), tensors, rest, 2)
    found = find_checkpoint(output)
    assert found is not None and found[1].step == 2


def test_killed_at_any_moment_of_a_save_a_whole_checkpoint_is_there(output) -> None:
    """A process that does nothing but save, killed again and again; each step is saved twice, as at an epoch's end."""
    save(output, 0)
    tensors, rest = {"task.w": torch.arange(30_000.0)}, {"optimizer": torch.arange(30_000.0)}

    def work(first: int) -> None:
        for step in range(first, first + 1000):
            for epoch in (0, 1):
                save_checkpoint(output, Progress(step=step, epoch=epoch), tensors, rest, keep=1)

    def names() -> set[str]:
        return {path.name for path in (output / "checkpoints").iterdir()}

    rng, within, newest = random.Random(0), 0, -1
    for _ in range(12):
        process = multiprocessing.get_context("fork").Process(target=work, args=(newest + 1,))
        before, deadline = names(), time.monotonic() + 60
        process.start()
        while names() == before and time.monotonic() < deadline:  # a busy machine may start the process late
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        within += any((output / "checkpoints").glob(".*"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # not one that is damaged or cut
            found = find_checkpoint(output)
        assert found is not None and found[1].step >= newest
        newest = found[1].step
        run_folder.open_output(output, RECIPE, ABOUT)
        assert len(list((output / "checkpoints").iterdir())) <= 2
    print(f"{within} of 12 kills within a save, {newest} steps saved")
    assert within >= 3 and newest >= 3


def test_the_rest_of_a_killed_save_is_cleared_away(output) -> None:
    save(output, 1)
    rest = output / "checkpoints" / ".building_00000002"
    rest.mkdir()
    (rest / "model.safetensors").write_bytes(b"half")
    (rest / ".tmpJsQbjn").write_bytes(b"half")  # safetensors writes to a name like this and renames it
    (output / "best").mkdir()
    (output / "best" / ".tmpJsQbjn").write_bytes(b"half")
    (output / "best" / ".model.ab12cd34.safetensors").write_bytes(b"half")
    run_folder.open_output(output, RECIPE, ABOUT)
    assert not list((output / "best").iterdir())
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step_00000001"]


def test_the_same_step_can_be_saved_again(output) -> None:
    save(output, 1)
    save(output, 1, best=3.0)
    found = find_checkpoint(output)
    assert found is not None and found[1].best == 3.0
    assert len(list((output / "checkpoints").iterdir())) == 1


def test_no_checkpoint(output) -> None:
    assert find_checkpoint(output) is None
    assert "start again" in checkpoint.describe_last_checkpoint(output)
    save(output, 4)
    assert checkpoint.describe_last_checkpoint(output).endswith("step_00000004")


def test_best_and_stale_evaluations() -> None:
    progress = Progress()
    assert [checkpoint.record_metric(progress, value) for value in (0.0, None, 2.0, 2.0, 1.0)] == [
        True, False, True, False, False,
    ]  # fmt: skip
    assert (progress.best, progress.stale) == (2.0, 2)
    assert not checkpoint.record_metric(progress, None)
    assert progress.stale == 2  # a metric without a value does not end a run


def test_seeds_depend_on_everything_and_on_nothing_else() -> None:
    def draw(*key: int) -> float:
        checkpoint.seed_step(*key)
        return float(torch.rand(()))

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, -1, 0)]
    first = [draw(*key) for key in keys]
    assert len(set(first)) == len(keys)
    assert [draw(*key) for key in keys] == first


def test_json_is_replaced_as_a_whole(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
