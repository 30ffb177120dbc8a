"""Writes ``recipes/README.md``: how to launch recipes, and tables of the published ones, read from the recipe files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pkdzoo.training import Recipe, load_recipes
from pkdzoo.utils.files import write_text

FOLDERS = {
    "pkd": "PKD (arXiv:2207.02039): imitation of the teacher's feature pyramid with each channel normalised. Files "
    "that end in `_inherit` are the paper's rows: a student with the same kind of head as its teacher starts from the "
    "teacher's neck and head. Files without `_inherit` are the recipes that mmrazor released.",
    "crosskd": "CrossKD (arXiv:2306.11369), alone and with PKD: the student's features pass the teacher's head.",
    "fbkd": "FBKD (ICLR 2021): attention-guided and non-local distillation.",
    "global_knowledge": "Global Knowledge (ECCV 2022): regions are weighted by the similarity of student and teacher.",
    "baselines": "The methods that these are compared with: plain imitation, box masks, FRS, FGD, FGFI, DeFeat, GID, "
    "rank mimicking, CWD.",
    "supervised": "Teachers and plain students.",
}
COLUMNS = "| recipe | teacher | plain AP | published AP | source | checked here | measured here |"
# Detectors whose features, losses, gradients and detections equal mmdetection's in the tests (tests/golden/mmdet), and
# methods whose losses, or prototypes, equal those of the authors' code (tests/golden/kd).
EQUAL_DETECTORS = (
    *("atss_r101", "atss_r50", "faster_rcnn_r101", "faster_rcnn_r50", "fcos_r101_caffe", "fcos_r50_caffe"),
    *("fcos_r50_caffe_tricks", "fcos_x101_64x4d", "gfl_r101", "gfl_r50", "mask_rcnn_swin_s", "mask_rcnn_swin_t"),
    *("reppoints_r50", "reppoints_x101_dcn", "retina_r101", "retina_r18", "retina_r50", "retina_swin_t"),
    *("retina_x101_64x4d", "tood_r50", "tood_x101_64x4d"),
)
EQUAL_METHODS = {
    **{method: method for method in ("crosskd", "cwd", "fbkd", "fgd", "pkd")},
    "global_knowledge": "prototypes",
}
HEAD = """# Recipes

A file holds one published result, or one table of a paper, as changes to the schedules in
[schedules.py](../pkdzoo/training/schedules.py). Every file begins with its launch command:

```
accelerate launch recipes/train.py recipes/pkd/retina_r50_pkd_swin.py --data coco/
accelerate launch recipes/train.py recipes/pkd/table_6_weights.py --data coco/ --only retina_r50_pkd_fcos_x101_weight_3
```

## Launching

The script is the same for any number of processes; `data.batch_size` is the total, which is divided evenly among them.
`WORDS` stands for `recipes/train.py RECIPE.py --data DIR --output runs/NAME`.

```
python WORDS                                                  # 1 GPU, or a CPU
accelerate launch WORDS                                       # every GPU of this machine
torchrun --nproc_per_node 8 WORDS                             # 8 GPUs
accelerate launch --multi_gpu --num_processes 8 WORDS         # the same
ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 WORDS     # 2 CPU processes; accelerate launch --cpu starts only one

# 2 x 8 GPUs: on each machine, with R = 0 on HOST and R = 1 on the other; one of these two commands
torchrun --nnodes 2 --node_rank R --nproc_per_node 8 --master_addr HOST --master_port 29500 WORDS
accelerate launch --multi_gpu --num_machines 2 --num_processes 16 --machine_rank R \\
  --main_process_ip HOST --main_process_port 29500 WORDS

# SLURM, 2 x 8 GPUs; options of SLURM are in recipes/train.sbatch
sbatch recipes/train.sbatch RECIPE.py --data DIR --output runs/NAME
```

After SIGTERM or SIGINT a run finishes the current step, saves and ends; `--resume` continues it, or starts a new run if
the folder is empty. A resumed run is bitwise equal to an uninterrupted one if the operations are deterministic: always
on a CPU with `--threads 1`; with more threads or on a GPU this depends on torch's kernels. Launchers of several
processes forward the signal, wait 30 seconds and then print an error of their own. A second signal after five seconds
or more ends the run at once, without saving. A folder can be used by one run at a time: a second one ends with an error
within seconds. A killed run leaves no lock.

Before the first step a run prints its estimated cost: parameters, multiply-adds, memory, steps and time.
`--check-teacher 500` first evaluates the teacher on 500 images and compares its AP with the published one. `log.jsonl`
gets a line every `logging.log_every` steps: losses by name, learning rate, gradient norm, Pearson r of each level,
images per second, share of the time spent waiting for data, and peak memory. `--tracker tensorboard` (or another
tracker of Accelerate) logs the same.

These options can be combined: `--mixed-precision bf16` or `fp16`, `--channels-last`, `--checkpoint-activations`, and in
the recipe `optim.accumulate`, `optim.ema`, `logging.best` and `logging.patience`. `--compile` takes minutes before the
first step; it is tested with bf16, `--channels-last` and `optim.ema`, not with `--checkpoint-activations`. Losses are
divided by the number of objects in a batch over all processes. With accumulation this is the number per accumulated
batch, the only difference to one large batch.

## Fields

The batch size is 16 images per step on any number of GPUs. The command line can change every field, e.g. `--set
data.batch_size=8 --set optim.scale_lr=true` for half the batch size and half the learning rate. Teachers and initial
weights are downloaded by name.

AP is COCO val2017 box AP in percent as published by the source, also for the teacher and the plain student. "Measured
here" is empty if the recipe has not been trained to its end with this code. "Checked here" names what equals the
original programs in the tests: features, losses and detections of student and teacher (mmdetection), and the loss or
the prototypes of the method (its authors' code). The numbers of every recipe are compared with its source, and the
tests train two steps on small images. The `note` of a recipe describes what its source leaves open and what is used
here. [MIGRATING.md](MIGRATING.md) translates the terms of mmrazor, mmdetection and torchvision. This page is generated
by `python -m pkdzoo.maintain recipes`.
"""

EXPERIMENTS = """
## Experiments

These were trained here, on data sets that take minutes on two CPU cores. AP is in percent with the standard deviation
over seeds; differences to the plain student have their 95 % interval. [experiments/](experiments/README.md) has all
runs, a comparison with the paper's claims, and the commands to repeat them.

"""
# recipes/experiments/report.py writes a table between these; this page and README.md repeat it.
BEGIN, END = "<!-- short:begin -->\n", "<!-- short:end -->\n"


def experiments(folder: Path) -> str:
    """The short table of ``folder/experiments/README.md``; empty without that file."""
    path = folder / "experiments" / "README.md"
    return path.read_text().partition(BEGIN)[2].partition(END)[0] if path.is_file() else ""


def published(folder: Path) -> Iterator[tuple[Path, list[Recipe]]]:
    """Recipe files below ``folder`` with a published result, and their recipes."""
    for name in FOLDERS:
        for path in sorted((folder / name).glob("*.py")):
            recipes = load_recipes(path)
            if all(recipe.expect.get("source") for recipe in recipes):
                yield path, recipes


def page(folder: Path) -> str:
    """The text of README.md for a folder of recipes."""
    table = experiments(folder)
    lines = [f"{HEAD}{EXPERIMENTS}{table.rstrip()}" if table else HEAD]
    section = ""
    for path, recipes in published(folder):
        if path.parent.name != section:
            section = path.parent.name
            lines += [f"\n## {section}\n\n{FOLDERS[section]}\n", COLUMNS, "|---|---|---|---|---|---|---|"]
        lines += [row(path, recipe, several=len(recipes) > 1) for recipe in recipes]
    return "\n".join(lines) + "\n"


def row(path: Path, recipe: Recipe, several: bool) -> str:
    """One line of a table; ``several``: the file has more than one recipe, so the line names it."""
    link = f"[{path.stem}]({path.parent.name}/{path.name})"
    expect, teacher = recipe.expect, ""
    if recipe.distill is not None:
        teacher = f"{recipe.distill.teacher} {number(expect.get('teacher'))}".strip()
    cells = [
        f"{link}: {recipe.name}" if several else link,
        teacher,
        number(expect.get("plain")),
        number(expect.get("AP")),
        str(expect["source"]),
        checked(recipe),
        number(expect.get("measured")),
    ]
    return "| " + " | ".join(cells) + " |"


def checked(recipe: Recipe) -> str:
    """The parts of a recipe that equal the original programs in the tests."""
    parts = ["student"] if recipe.model in EQUAL_DETECTORS and not recipe.model_args else []
    if recipe.distill is not None:
        parts += ["teacher"] if recipe.distill.teacher.partition(".")[0] in EQUAL_DETECTORS else []
        for method, options in recipe.distill.methods.items():
            changed = options.get("normalize") or options.get("target", "features") != "features"  # variants of pkdzoo
            parts += [EQUAL_METHODS[method]] if method in EQUAL_METHODS and not changed else []
    return ", ".join(parts)


def number(value: float | None) -> str:
    """An AP with one decimal; empty if it is unknown."""
    return "" if value is None else f"{value:.1f}"


def write_recipes_page(folder: Path = Path("recipes")) -> None:
    """Write ``README.md`` in the folder of the recipes."""
    write_text(folder / "README.md", page(folder))
