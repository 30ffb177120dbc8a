"""Give the channels of a teacher's pyramid other magnitudes, without changing a detection.

    python recipes/experiments/rescale_channels.py runs/experiments/bccd/gfl_r18w64-0/best runs/experiments/uneven_gfl

Channel c of every level is multiplied by a gain g(c): the last convolutions of the FPN are, and what reads the pyramid
is divided by it. So the detector stays the same function, but its pyramid has a few dominant channels, as the PKD paper
shows them for published detectors. Plain imitation then follows those channels; PKD normalizes each channel and does
not see the difference. Gains are drawn from a log-normal distribution; the mean square of the pyramid stays about the
same. The script compares all detections on a random image before it writes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pkdzoo.models.detector import Detector
from pkdzoo.models.necks.fpn import FPN
from pkdzoo.training.errors import describe_error
from pkdzoo.training.evaluate import open_detector


def draw_gains(channels: int, sigma: float, seed: int = 0) -> Tensor:
    """Log-normal gains (C,) whose mean square is 1; ``sigma`` is the standard deviation of their logarithm."""
    gains = (sigma * torch.randn(channels, generator=torch.Generator().manual_seed(seed))).exp()
    return gains / gains.square().mean().sqrt()


def first_convolution(module: nn.Module) -> nn.Conv2d:
    """The convolution that reads a module's input."""
    return next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))


def fpn_of(model: Detector) -> FPN:
    """The pyramid of a detector with two towers whose FPN has no norms; ValueError for any other detector."""
    neck = model.neck
    if (
        not isinstance(neck, FPN)
        or not hasattr(model.head, "cls_tower")
        or any(
            not isinstance(layer, nn.Identity) for name, layer in neck.output.named_modules() if name.endswith("norm")
        )
    ):
        raise ValueError(f"{model.name}: write a detector with two towers and an FPN without norms, e.g. gfl_r18w64")
    return neck


@torch.no_grad()
def rescale(model: Detector, gains: Tensor) -> None:
    """Multiply the channels of the pyramid by ``gains`` (C,), in place, and divide by them in the head.

    Raises:
        ValueError: for another detector than :func:`fpn_of` takes, or for gains of another length.
    """
    neck = fpn_of(model)
    if gains.shape != (neck.width,) or not (gains > 0).all():
        raise ValueError(f"gains of shape {tuple(gains.shape)}: write {neck.width} numbers above 0")
    rows, columns = gains[:, None, None, None], gains[None, :, None, None]
    first_extra = len(neck.lateral)
    for index, block in enumerate(neck.output):
        conv = first_convolution(block)
        conv.weight *= rows
        if conv.bias is not None:
            conv.bias *= gains
        if index > first_extra or (index == first_extra and neck.extra == "on_output"):
            conv.weight /= columns  # it reads the level below
    for tower in ("head.cls_tower", "head.reg_tower"):
        first_convolution(model.get_submodule(tower)).weight /= columns


def largest_difference(before: Detector, after: Detector) -> float:
    """Largest difference of boxes (pixels) and scores on one image of noise, without a threshold."""
    image = np.random.default_rng(0).integers(0, 256, (192, 256, 3), np.uint8)
    one, other = (model.predict([image], threshold=0.0)[0] for model in (before, after))
    if len(one) != len(other):
        return float("inf")
    return float(max((one.boxes - other.boxes).abs().max(), (one.scores - other.scores).abs().max()))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", help="the folder of a run or of a saved detector")
    parser.add_argument("output", type=Path, help="folder of the detector that is written")
    parser.add_argument("--sigma", type=float, default=1.0, help="deviation of the gains' logarithm (default: 1)")
    args = parser.parse_args(argv)
    try:
        model, scaled = open_detector(args.detector), open_detector(args.detector)
        rescale(scaled, draw_gains(fpn_of(scaled).width, args.sigma))
        difference = largest_difference(model, scaled)
        if difference > 0.01:
            raise ValueError(f"detections differ by {difference:.3g}: nothing was written")
        scaled.save_pretrained(args.output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {describe_error(error)}")
    print(f"{args.output}: detections differ by at most {difference:.1e}")


if __name__ == "__main__":
    main()
