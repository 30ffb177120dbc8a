"""``pkdzoo convert``: from a checkpoint or a run to a saved detector or a safetensors file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pkdzoo.cli.common import Parser, Verb, add_labels, read_labels, show
from pkdzoo.utils.files import check_target
from pkdzoo.utils.text import counted

if TYPE_CHECKING:
    from pkdzoo.models.detector import Detector

OTHER_FORMATS = (".pth", ".pt", ".pt2", ".bin", ".ckpt", ".pkl", ".onnx")  # convert does not write these


def convert_arguments(parser: Parser) -> None:
    """Add the arguments of ``convert``."""
    source = (
        "a checkpoint of mmdetection, mmrazor, CrossKD or pkdzoo (.pth, .safetensors), the folder of a run, or a name"
    )
    parser.add_argument("source", help=source)
    target = "a new folder for the detector, or FILE.safetensors for the tensors alone"
    parser.add_argument("target", type=Path, help=target)
    parser.add_argument("--arch", metavar="NAME", help="architecture of a checkpoint, from 'pkdzoo list'")
    add_labels(parser, "for a checkpoint: class names", "those in the file, else the architecture's")


def convert_run(args: argparse.Namespace) -> int:
    """Convert, and print a summary."""
    from pkdzoo.checkpoints.io import save_safetensors

    suffix = args.target.suffix.lower()
    tensors_alone = suffix == ".safetensors"
    if suffix in OTHER_FORMATS:
        raise ValueError(f"{args.target}: convert does not write this format: name a folder or FILE.safetensors")
    if not tensors_alone and args.target.is_dir() and any(args.target.iterdir()):
        raise ValueError(f"{args.target} is not empty: choose a new folder")
    if tensors_alone and args.target.exists():
        raise ValueError(f"{args.target} exists already: choose another name")
    check_target(args.target, "TARGET", folder=not tensors_alone)
    model = open_source(args)
    state = model.state_dict()
    if tensors_alone:
        args.target.parent.mkdir(parents=True, exist_ok=True)
        save_safetensors(state, args.target)
    else:
        model.save_pretrained(args.target)
    parameters = sum(p.numel() for p in model.parameters())
    summary = {
        "output": str(args.target),
        "architecture": model.name,
        "source": model.loaded_from,
        "tensors": len(state),
        "parameters": parameters,
        "label_names": list(model.label_names),
    }
    classes = counted(model.num_classes, "class")
    text = (
        f"{args.target}: {model.name}, {classes}, {counted(len(state), 'tensor')}, {parameters / 1e6:.1f} M parameters"
    )
    show(args, text, summary)
    return 0


def open_source(args: argparse.Namespace) -> Detector:
    """The detector of ``args.source``.

    Raises:
        ValueError: for a file without ``--arch``, for ``--arch`` or ``--labels`` without a file, and for weights that
            do not fit.
    """
    from pkdzoo.models._factory import create_detector
    from pkdzoo.models._loading import load_checkpoint
    from pkdzoo.training.evaluate import open_detector
    from pkdzoo.training.publish import labels_of

    if not Path(args.source).is_file():
        if args.arch or args.labels:
            raise ValueError(
                f"{args.source} is not a file: --arch and --labels belong to a checkpoint file, leave them out"
            )
        return open_detector(args.source)
    if args.arch is None:
        raise ValueError(
            f"{args.source} does not contain its architecture: write --arch NAME ('pkdzoo list' shows names)"
        )
    labels = {"label_names": read_labels(args.labels)} if args.labels is not None else labels_of(args.arch, args.source)
    model: Detector = create_detector(args.arch.partition(".")[0], **labels)
    return load_checkpoint(model, args.source)


CONVERT = Verb(
    "convert a checkpoint or a run to a saved detector",
    (
        "pkdzoo convert retinanet_r50_fpn_1x_coco.pth converted --arch retina_r50",
        "pkdzoo convert epoch_12.pth converted --arch gfl_r50 --labels cat,dog",
        "pkdzoo convert runs/mine mine.safetensors",
    ),
    convert_arguments,
    convert_run,
)
