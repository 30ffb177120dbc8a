"""``pkdzoo convert``: somebody's checkpoint, or a run's, to a folder or a safetensors file of ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from pkdzoo.checkpoints.io import save_safetensors
from pkdzoo.cli.common import Parser, Verb, add_labels, named, show
from pkdzoo.models._factory import create_detector
from pkdzoo.models._loading import load_checkpoint
from pkdzoo.models.detector import Detector
from pkdzoo.training.evaluate import open_detector
from pkdzoo.training.publish import labels_of

FOREIGN = (".pth", ".pt", ".pt2", ".bin", ".ckpt", ".pkl", ".onnx")  # what convert does not write


def convert_arguments(parser: Parser) -> None:
    """Arguments of ``convert``."""
    told = "a checkpoint of mmdetection, mmrazor, CrossKD or ours (.pth, .safetensors); or a run's folder, or a name"
    parser.add_argument("source", help=told)
    parser.add_argument(
        "target", type=Path, help="a new folder that holds a detector; or FILE.safetensors, tensors alone"
    )
    parser.add_argument("--arch", metavar="NAME", help="of a checkpoint: which detector it is, out of 'pkdzoo list'")
    add_labels(parser, "of a checkpoint: class names")


def convert_run(args: argparse.Namespace) -> int:
    """Read strictly, write whole."""
    if args.target.suffix in FOREIGN:
        raise ValueError(f"{args.target}: only tensors are written: name a folder or FILE.safetensors")
    if args.target.suffix != ".safetensors" and args.target.is_dir() and any(args.target.iterdir()):
        raise ValueError(f"{args.target} holds something already: choose a new folder")
    if args.target.suffix == ".safetensors" and args.target.exists():
        raise ValueError(f"{args.target} is there already: choose another name")
    model = opened(args)
    state = model.state_dict()
    if args.target.suffix == ".safetensors":
        args.target.parent.mkdir(parents=True, exist_ok=True)
        save_safetensors(state, args.target)
    else:
        model.save_pretrained(args.target)
    parameters = sum(p.numel() for p in model.parameters())
    told = {
        "output": str(args.target),
        "architecture": model.name,
        "source": model.loaded_from,
        "tensors": len(state),
        "parameters": parameters,
        "label_names": list(model.label_names),
    }
    classes = f"{model.num_classes} {'class' if model.num_classes == 1 else 'classes'}"
    text = f"{args.target}: {model.name}, {classes}, {len(state)} tensors, {parameters / 1e6:.1f} M parameters"
    show(args, text, told)
    return 0


def opened(args: argparse.Namespace) -> Detector:
    """The detector of any source.

    Raises:
        ValueError: for a file without ``--arch``, ``--arch`` or ``--labels`` without a file, or what does not fit.
    """
    if not Path(args.source).is_file():
        if args.arch or args.labels:
            raise ValueError(f"{args.source} is no file; --arch and --labels belong to a checkpoint")
        return open_detector(args.source)
    if args.arch is None:
        raise ValueError(f"{args.source} does not say which detector it is: write --arch NAME ('pkdzoo list' has them)")
    labels = {"label_names": named(args.labels)} if args.labels else labels_of(args.arch)
    model: Detector = create_detector(args.arch.partition(".")[0], **labels)
    return load_checkpoint(model, args.source)


CONVERT = Verb(
    "turn a checkpoint or a run into a folder that every loader reads",
    (
        "pkdzoo convert retinanet_r50_fpn_1x_coco.pth converted --arch retina_r50",
        "pkdzoo convert epoch_12.pth converted --arch gfl_r50 --labels cat,dog",
        "pkdzoo convert runs/mine mine.safetensors",
    ),
    convert_arguments,
    convert_run,
)
