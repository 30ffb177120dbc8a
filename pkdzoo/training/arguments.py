"""The command line of a training run, for recipes/train.py, ``pkdzoo train`` and every other program that trains.

Nothing slow is imported here: ``pkdzoo --help`` reads this file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from pkdzoo.utils.option_types import gigabytes, positive_int, refuse_empty, whole_number


@dataclass(kw_only=True)
class MachineArguments(argparse.Namespace):
    """What a command line says of how a machine is used, and not of what is trained; see ``add_machine_arguments``.

    Attributes:
        cpu: train on the CPU even if there is a GPU.
        cpu_processes: CPU processes of one thread each that train together; None trains in the process of the command.
        threads: CPU threads per process; None leaves the choice to the run, see :mod:`pkdzoo.training.threads`.
        mixed_precision: ``no``, ``bf16`` or ``fp16``; None leaves the choice to Accelerate's configuration.
        cache_images: gigabytes of shared memory per training process for decoded images.
        channels_last: keep convolutions in NHWC.
        compile: compile backbone and neck.
        checkpoint_activations: recompute the backbone's activations in the backward pass.
        find_unused: let DistributedDataParallel look for parameters without a gradient.
        tracker: name of an Accelerate tracker, e.g. ``tensorboard``.
    """

    cpu: bool = False
    cpu_processes: int | None = None
    threads: int | None = None
    mixed_precision: str | None = None
    cache_images: float = 0.0
    channels_last: bool = False
    compile: bool = False
    checkpoint_activations: bool = False
    find_unused: bool = False
    tracker: str | None = None


MACHINE_OPTIONS = tuple(entry.name for entry in fields(MachineArguments))


@dataclass
class TrainArguments(MachineArguments):
    """What a command line says beside the recipe's own fields; options of the machine as in :class:`MachineArguments`.

    Attributes:
        recipe: name of a published recipe, or path of a recipe file.
        only: name of the one recipe to train, if a file holds several.
        data: folder of the data set.
        train_json: annotation file of the training split, if it is not in ``data``.
        val_json: annotation file of the validation split, if it is not in ``data``.
        images: image folder, if it is not in ``data``.
        unlabeled: folder of images without annotations, for the recipes with a distillation; None leaves it to the
            recipe.
        output: folder of the run; None means ``runs/`` and the recipe's name.
        set: ``key=value`` overrides of recipe fields.
        resume: continue the run in ``output`` from its last checkpoint.
        check_teacher: evaluate the teacher on so many images before training; None does not.
    """

    recipe: Path
    only: str | None = None
    data: Path | None = None
    train_json: Path | None = None
    val_json: Path | None = None
    images: Path | None = None
    unlabeled: Path | None = None
    output: Path | None = None
    set: list[str] = field(default_factory=list)
    resume: bool = False
    check_teacher: int | None = None


def several(text: str) -> int:
    """Parse a whole number of at least 2."""
    return whole_number(text, 2, ", or --threads 1 for one process")


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all options of a training run to a parser, whose result :class:`TrainArguments` then describes."""
    parser.add_argument(
        "recipe",
        type=Path,
        help="name of a published recipe, a .py file that defines RECIPE or RECIPES, or the recipe.json of a run",
    )
    parser.add_argument("--only", metavar="NAME", help="train this one recipe of a file that holds several")
    parser.add_argument("--data", type=Path, help="folder of the data set")
    parser.add_argument("--train-json", type=Path, help="annotation file of the training split, if not in --data")
    parser.add_argument("--val-json", type=Path, help="annotation file of the validation split, if not in --data")
    parser.add_argument("--images", type=Path, help="image folder, if not in --data")
    add_unlabeled_argument(parser)
    parser.add_argument("--output", type=Path, help="folder of the run (default: runs/ and the recipe's name)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe field, e.g. optim.lr=0.02"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --output from its last checkpoint")
    parser.add_argument(
        "--check-teacher", type=positive_int, metavar="N", help="first evaluate the teacher on N images"
    )
    add_machine_arguments(parser)


def add_unlabeled_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a folder of unlabeled images."""
    parser.add_argument(
        "--unlabeled",
        type=Path,
        metavar="DIR",
        help="folder of images without annotations, from whose features a distilled student learns, too",
    )


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a machine is used, and not what is trained."""
    group = parser.add_argument_group("machine")
    group.add_argument("--cpu", action="store_true", help="train on the CPU even if there is a GPU")
    group.add_argument(
        "--cpu-processes",
        type=several,
        metavar="N",
        help="train on the CPU with N processes, one thread each unless --threads says otherwise",
    )
    group.add_argument(
        "--threads", type=positive_int, help="CPU threads per process (default: the fastest number, measured)"
    )
    group.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"))
    group.add_argument(
        "--cache-images",
        type=gigabytes,
        default=0.0,
        metavar="GB",
        help="keep decoded images in so much shared memory per training process (default: none)",
    )
    group.add_argument("--channels-last", action="store_true", help="keep convolutions in NHWC")
    group.add_argument("--compile", action="store_true", help="compile backbone and neck")
    group.add_argument(
        "--checkpoint-activations",
        action="store_true",
        help="recompute the backbone's activations: less memory, a third more time",
    )
    group.add_argument("--find-unused", action="store_true", help="for models with parameters that a step does not use")
    group.add_argument("--tracker", help="tensorboard, wandb or another of Accelerate's trackers")


def parse_train_arguments(argv: Sequence[str] | None = None, description: str | None = None) -> TrainArguments:
    """Parse the command line of a training run.

    Args:
        argv: arguments without the program's name; None takes ``sys.argv``.
        description: text of ``--help``, printed as it is.

    Example:
        >>> from pkdzoo.training.arguments import parse_train_arguments
        >>> args = parse_train_arguments(["retina_r50_pkd_swin", "--data", "coco", "--set", "optim.lr=0.005"])
        >>> args.recipe.name, args.set, args.resume
        ('retina_r50_pkd_swin', ['optim.lr=0.005'], False)
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_train_arguments(parser)
    refuse_empty(parser, sys.argv[1:] if argv is None else argv)
    return select_arguments(parser.parse_args(argv))


def select_arguments(parsed: argparse.Namespace) -> TrainArguments:
    """Those of the parsed options that :class:`TrainArguments` has; absent ones keep their defaults."""
    names = [entry.name for entry in fields(TrainArguments) if hasattr(parsed, entry.name)]
    return TrainArguments(**{name: getattr(parsed, name) for name in names})
