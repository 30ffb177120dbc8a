"""A compiled student does not compile again for every batch, and the summary knows what bf16 brings on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pkdzoo
from pkdzoo.structures import Batch, Instances
from pkdzoo.training import compute

DENSE = ["atss_r10w16", "fcos_r10w16", "gfl_r10w16", "reppoints_r10w16", "retina_r10w16", "tood_r10w16", "rtmdet_w12"]


def batch_of(count: int, height: int, width: int, boxes: int) -> Batch:
    corners = 200 * torch.rand(boxes, 2)
    objects = Instances(torch.cat([corners, corners + 60], dim=1), torch.zeros(boxes, dtype=torch.long))
    return Batch(torch.rand(count, 3, height, width), [(height, width)] * count, [objects] * count)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DENSE, "faster_rcnn_r10w16"])
def test_other_sizes_and_numbers_of_boxes_do_not_compile_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    programs: list[Any] = []
    whole = torch.nn.Module.compile

    def backend(graph: Any, inputs: Any) -> Any:
        programs.append(graph)
        return graph

    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: whole(module, backend=backend))
    torch.compiler.reset()
    student = pkdzoo.create_detector(name).train()
    compute.compile_pyramid(student)

    def compiled(*sizes: tuple[int, int, int, int]) -> int:
        before = len(programs)
        for size in sizes:
            student(batch_of(*size))
        return len(programs) - before

    parts = 2  # backbone and neck
    assert compiled((2, 320, 384, 3)) == parts
    assert compiled((2, 384, 320, 9)) == parts
    assert compiled((2, 320, 448, 0), (2, 448, 448, 90), (2, 512, 320, 1)) == 0
    assert compiled((3, 320, 448, 2)) == parts  # the number of images may vary from here on, too
    assert compiled((5, 384, 320, 2), (2, 448, 384, 7), (4, 320, 320, 30)) == 0


def test_bf16_is_suggested_where_a_cpu_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, capable = torch.device("cpu"), {"avx2": True, "avx512_bf16": True, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable, raising=False)
    assert "--mixed-precision bf16" in str(compute.suggest_bf16(cpu, "no"))
    assert compute.suggest_bf16(cpu, "bf16") is None and compute.suggest_bf16(torch.device("cuda"), "no") is None
    capable["avx512_bf16"] = False
    assert compute.suggest_bf16(cpu, "no") is None
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert compute.suggest_bf16(cpu, "no") is None
