"""The recipes as a page: what each repeats, from whom, and what was published, read from the recipe files themselves.

``python -m pkdzoo.maintain recipes`` writes recipes/README.md anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pkdzoo.training import Recipe, load_recipes

FOLDERS = {
    "pkd": "PKD (arXiv:2207.02039): imitation of the teacher's pyramid, each channel normalised. Files that end in "
    "`_inherit` are the paper's rows, in which a student with its teacher's kind of head starts from the teacher's "
    "neck and head; those of the same name without it are mmrazor's released ones.",
    "crosskd": "CrossKD (arXiv:2306.11369), alone and with PKD: the student's maps go through the teacher's head.",
    "fbkd": "FBKD (ICLR 2021): attention-guided and non-local distillation.",
    "global_knowledge": "Global Knowledge (ECCV 2022): regions weighed by how alike student and teacher see them.",
    "baselines": "What these were compared with: plain imitation, masks of boxes, FRS, FGD, FGFI, DeFeat, GID, rank "
    "mimicking, CWD.",
    "supervised": "Teachers and plain students.",
}
COLUMNS = "| recipe | teacher | plain AP | published AP | source | checked here | measured here |"
# Detectors whose maps, losses, gradients and detections equal mmdetection's in the tests (tests/golden/mmdet), and
# methods of which losses (of one the prototypes) equal their authors' (tests/golden/kd).
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

One file is one published result, or one table of a paper; it holds what differs from the schedules in
[schedules.py](../pkdzoo/training/schedules.py). Every file opens with the line that starts it:

```
accelerate launch recipes/train.py recipes/pkd/retina_r50_pkd_swin.py --data coco/
accelerate launch recipes/train.py recipes/pkd/table_6_weights.py --data coco/ --only retina_r50_pkd_fcos_x101_weight_3
```

## Launching

The same script on any number of processes; `data.batch_size` is the total, shared out evenly. `WORDS` stands for
`recipes/train.py RECIPE.py --data DIR --output runs/NAME`.

```
python WORDS                                                  # 1 GPU, or a CPU
accelerate launch WORDS                                       # every GPU of this machine
torchrun --nproc_per_node 8 WORDS                             # 8 GPUs
accelerate launch --multi_gpu --num_processes 8 WORDS         # the same
ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 WORDS     # 2 CPU processes; accelerate launch --cpu starts only one

# 2 x 8 GPUs: on each machine, R = 0 on HOST and R = 1 on the other; either of the two
torchrun --nnodes 2 --node_rank R --nproc_per_node 8 --master_addr HOST --master_port 29500 WORDS
accelerate launch --multi_gpu --num_machines 2 --num_processes 16 --machine_rank R \\
  --main_process_ip HOST --main_process_port 29500 WORDS

# SLURM, 2 x 8 GPUs; the script's own options may be changed in recipes/train.sbatch
sbatch recipes/train.sbatch RECIPE.py --data DIR --output runs/NAME
```

SIGTERM and SIGINT save and end, at the end of the step under way; `--resume` goes on from there, and starts anew where
nothing is. A resumed run equals one that was never stopped to the last bit wherever the same step computes the same
bits twice: with `--threads 1` on a CPU always, with more threads or on a GPU as far as torch's own kernels do.
Launchers of several processes pass the signal on and wait 30 seconds, then report it with an error of their own. Asked
again after five seconds the run ends at once, without saving. A folder is one run's at a time: a second start ends
with a sentence within seconds, and what was killed leaves nothing locked.

Before its first step a run says what it will cost: parameters, multiply-adds, memory, steps, time. `--check-teacher
500` measures the teacher on so many images first, beside what its row says. `log.jsonl` holds a line every
`logging.log_every` steps: losses by name, rate, norm of the gradient, Pearson r of each level, images a second, share
of the time that was spent waiting for data, peak memory; `--tracker tensorboard` (or another that Accelerate knows)
holds the same.

These go together: `--mixed-precision bf16` or `fp16`, `--channels-last`, `--checkpoint-activations`, and of the recipe
`optim.accumulate`, `optim.ema`, `logging.best`, `logging.patience`. `--compile` needs minutes before the first step;
it is tested with bf16, `--channels-last` and `optim.ema`, not with recomputed activations. Losses are divided by the
number of objects of a pass, over all processes: accumulated passes are one large batch but for that.

## Fields

16 images a step, on however many GPUs. Any field can be changed from the command line, e.g. `--set data.batch_size=8
--set optim.scale_lr=true` for half the batch at half the rate. Teachers and starting weights are fetched by name.

AP is COCO val2017 box AP in percent, as the source printed it; so are the teacher's and the plain student's. "Measured
here" is empty where nobody has trained the recipe to its end with this code yet. "Checked here" names what equals
figures of the original programs in the tests: the student's and the teacher's maps, losses and detections
(mmdetection's), the method's loss or prototypes (its authors'). Of every recipe the numbers are compared with its
source, and two steps are taken on small images. What a source leaves open and what was chosen stands in a recipe's
`note`. mmrazor's, mmdetection's and torchvision's words for things: [MIGRATING.md](MIGRATING.md). This page is
generated: `python -m pkdzoo.maintain recipes`.
"""

EXPERIMENTS = """
## Experiments

What was trained here, on data sets that two CPU cores can learn in minutes; AP in percent, ± over seeds, differences to
the plain student with their 95 % interval. [experiments/](experiments/README.md) has every arm, the paper's claims
against them, and how to run it all again.

"""
# What recipes/experiments/report.py writes between, this page and README.md show, too.
BEGIN, END = "<!-- short:begin -->\n", "<!-- short:end -->\n"


def experiments(folder: Path) -> str:
    """The short table of ``folder/experiments/README.md``; nothing without that file."""
    path = folder / "experiments" / "README.md"
    return path.read_text().partition(BEGIN)[2].partition(END)[0] if path.is_file() else ""


def published(folder: Path) -> Iterator[tuple[Path, list[Recipe]]]:
    """The recipe files below ``folder`` that say what to expect and who printed it."""
    for name in FOLDERS:
        for path in sorted((folder / name).glob("*.py")):
            recipes = load_recipes(path)
            if all(recipe.expect.get("source") for recipe in recipes):
                yield path, recipes


def page(folder: Path) -> str:
    """The text of README.md for a folder of recipes."""
    shown = experiments(folder)
    lines = [f"{HEAD}{EXPERIMENTS}{shown.rstrip()}" if shown else HEAD]
    section = ""
    for path, recipes in published(folder):
        if path.parent.name != section:
            section = path.parent.name
            lines += [f"\n## {section}\n\n{FOLDERS[section]}\n", COLUMNS, "|---|---|---|---|---|---|---|"]
        lines += [row(path, recipe, several=len(recipes) > 1) for recipe in recipes]
    return "\n".join(lines) + "\n"


def row(path: Path, recipe: Recipe, several: bool) -> str:
    """One line of a table; ``several`` recipes of one file are told apart by name."""
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
    """What of a recipe equals the original programs' figures."""
    parts = ["student"] if recipe.model in EQUAL_DETECTORS and not recipe.model_args else []
    if recipe.distill is not None:
        parts += ["teacher"] if recipe.distill.teacher.partition(".")[0] in EQUAL_DETECTORS else []
        for method, options in recipe.distill.methods.items():
            changed = options.get("normalize") or options.get("target", "features") != "features"  # ours, not theirs
            parts += [EQUAL_METHODS[method]] if method in EQUAL_METHODS and not changed else []
    return ", ".join(parts)


def number(value: float | None) -> str:
    """An AP as papers print it."""
    return "" if value is None else f"{value:.1f}"


def write_recipes_page(folder: Path = Path("recipes")) -> None:
    """Write ``README.md`` of the recipes' folder."""
    (folder / "README.md").write_text(page(folder), encoding="utf-8")
