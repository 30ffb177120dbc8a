"""Swin Transformer: windows, shift, bias, and images of any size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pkdzoo
from pkdzoo.models.backbones import backbone_arguments, build_backbone
from pkdzoo.models.backbones.swin import (
    MASKED,
    Swin,
    SwinBlock,
    WindowAttention,
    from_windows,
    pad_to,
    relative_positions,
    shift_mask,
    to_windows,
)


def small(**overrides: object) -> Swin:
    torch.manual_seed(0)
    return Swin(depths=(1, 2, 2, 1), width=8, heads=(1, 2, 2, 4), window=3, **overrides).eval()  # type: ignore[arg-type]


def test_windows_are_tiles_and_come_back() -> None:
    x = torch.arange(2 * 4 * 6 * 5).reshape(2, 4, 6, 5).float()
    windows = to_windows(x, 2)
    assert windows.shape == (2 * 2 * 3, 4, 5)
    assert torch.equal(windows[4].reshape(2, 2, 5), x[0, 2:4, 2:4])  # second row, second column
    assert torch.equal(windows[6].reshape(2, 2, 5), x[1, 0:2, 0:2])  # the next image
    assert torch.equal(from_windows(windows, 2, 4, 6), x)


def test_padding_is_at_the_right_and_the_bottom() -> None:
    x = torch.rand(1, 4, 6, 2)
    padded = pad_to(x, 3)
    assert padded.shape == (1, 6, 6, 2)
    assert torch.equal(padded[:, :4], x) and not padded[:, 4:].any()
    assert pad_to(padded, 3) is padded


def test_bias_belongs_to_an_offset() -> None:
    size = 3
    index = relative_positions(size).reshape(9, 9)
    offsets: dict[tuple[int, int], int] = {}
    for p in range(9):
        for q in range(9):
            offset = (p // size - q // size, p % size - q % size)
            assert offsets.setdefault(offset, int(index[p, q])) == index[p, q]
    assert sorted(offsets.values()) == list(range(25))  # one entry for every offset
    assert offsets[(-2, -2)] == 0 and offsets[(0, 0)] == 12 and offsets[(1, -2)] == 15  # rows first, as in the files


@pytest.mark.parametrize(("h", "w"), [(6, 9), (3, 3), (3, 6)])
def test_shift_keeps_apart_what_was_far(h: int, w: int) -> None:
    """Two locations of a shifted window attend to each other only if they are as far apart in the image as in it."""
    size, shift = 3, 1
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    place = torch.stack([y, x], dim=-1)[None]
    window_position = to_windows(place, size)  # position of a location after rolling
    image_position = to_windows(place.roll((-shift, -shift), (1, 2)), size)  # and before it
    moved = image_position - window_position
    together = (moved[:, :, None] == moved[:, None, :]).all(dim=-1)
    assert torch.equal(shift_mask(h, w, size, shift), torch.where(together, 0.0, MASKED))


def naive_attention(layer: WindowAttention, x: Tensor, window: int, shift: int) -> Tensor:
    """Reference: the attention of one image (h, w, C), computed location by location."""
    h, w, channels = x.shape
    q, k, v = layer.qkv(x).reshape(h, w, 3, layer.heads, -1).unbind(2)
    out = torch.zeros(h, w, layer.heads, channels // layer.heads)
    cells = [(i, j) for i in range(h) for j in range(w)]

    def window_of(cell: tuple[int, int]) -> list[tuple[int, bool]]:
        # windows start at `shift`; the rest before the first and after the last whole window is a separate window
        return [((c - shift) // window, c < shift) for c in cell]

    for i, j in cells:
        partners = [other for other in cells if window_of(other) == window_of((i, j))]
        logits = torch.stack([
            (q[i, j] * k[a, b]).sum(-1) * (channels // layer.heads) ** -0.5
            + layer.bias_table[(i - a + window - 1) * (2 * window - 1) + j - b + window - 1]
            for a, b in partners
        ])  # fmt: skip
        weights = logits.softmax(dim=0)  # (partners, heads)
        out[i, j] = sum(weight[:, None] * v[a, b] for weight, (a, b) in zip(weights, partners))
    return layer.proj(out.flatten(2))


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(("h", "w"), [(6, 6), (3, 6)])
def test_block_attends_within_shifted_windows(shift: int, h: int, w: int) -> None:
    torch.manual_seed(0)
    block = SwinBlock(8, heads=2, window=3, shift=shift)
    torch.nn.init.normal_(block.attn.bias_table)
    x = torch.randn(2, h, w, 8)
    found = block._attend(x, shift_mask(h, w, 3, 1))
    expected = torch.stack([naive_attention(block.attn, image, 3, shift) for image in x])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(97, 203), (32, 32), (64, 96), (1, 5)])
def test_any_size(size: tuple[int, int]) -> None:
    model = small()
    maps = model(torch.randn(2, 3, *size))
    assert [m.shape[1] for m in maps] == model.channels == [8, 16, 32, 64]
    for level, stride in zip(maps, model.strides):
        assert tuple(level.shape[-2:]) == tuple(-(-side // stride) for side in size)
        assert level.isfinite().all()


def test_images_of_a_batch_do_not_meet() -> None:
    model = small()
    x = torch.randn(2, 3, 50, 70)
    alone = model(x[1:])
    for both, one in zip(model(x), alone):
        torch.testing.assert_close(both[1:], one)


def test_outputs_choose_maps() -> None:
    model = small(outputs=(1, 2))
    assert model.channels == [16, 32] and model.strides == (8, 16)
    assert len(model.stages) == 3 and not any("norm0" in key or "norm3" in key for key in model.state_dict())
    whole = small()
    whole.load_state_dict({**whole.state_dict(), **model.state_dict()})
    x = torch.randn(1, 3, 40, 40)
    for found, expected in zip(model(x), whole(x)[1:3]):
        assert torch.equal(found, expected)


def test_branches_are_dropped_only_while_training() -> None:
    model = small(drop_path=0.9)
    x = torch.randn(4, 3, 32, 32)
    first = model(x)
    assert all(torch.equal(a, b) for a, b in zip(first, model(x)))
    model.train()
    assert not torch.equal(model(x)[-1], model(x)[-1])
    drops = [block.drop_path for stage in model.stages for block in stage.blocks]
    assert drops == pytest.approx([0.0, 0.18, 0.36, 0.54, 0.72, 0.9])


def test_frozen_stages() -> None:
    assert all(p.requires_grad for p in small().parameters())
    model = small(frozen_stages=2, drop_path=0.9).train()
    frozen = {key.split(".")[0] + key.split(".")[1] * key.startswith("stages")
              for key, p in model.named_parameters() if not p.requires_grad}  # fmt: skip
    assert frozen == {"patch_embed", "stages0", "stages1", "norm0", "norm1"}
    x = torch.randn(4, 3, 32, 32)
    first, second = model(x), model(x)
    assert torch.equal(first[1], second[1]) and not torch.equal(first[3], second[3])


def test_every_parameter_learns() -> None:
    model = small()
    sum(m.square().sum() for m in model(torch.randn(1, 3, 40, 56))).backward()
    # a constant added to all keys of a window does not change the attention: the keys' bias may have gradient 0
    assert all(p.grad is not None and (p.grad.any() or "bias" in name) for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"outputs": (2, 1)}, "ascending"), ({"outputs": ()}, "ascending"), ({"outputs": (4,)}, "0 to 3"),
     ({"frozen_stages": 5}, "frozen_stages=5")],
)  # fmt: skip
def test_wrong_arguments(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        small(**wrong)


def test_arguments_that_only_a_resnet_has() -> None:
    assert "norm" in backbone_arguments("r50") and "norm" not in backbone_arguments("swin_t")
    assert build_backbone("r18", norm=None, frozen_stages=None).frozen_stages == 1  # None: the default of the backbone
    assert build_backbone("swin_t", norm=None, frozen_stages=None).frozen_stages == 0
    with pytest.raises(ValueError, match=r"'swin_t' has no argument 'norm'; its arguments are .*drop_path"):
        pkdzoo.create_detector("retina_swin_t", norm="gn")
    with pytest.raises(ValueError, match="no argument 'drop_path'"):
        pkdzoo.create_detector("retina_r50", drop_path=0.1)
