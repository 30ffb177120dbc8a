"""The page of the recipes: what each reproduces, its source, and what was published, read from the recipe files.

``python -m pkdzoo.maintain recipes`` writes recipes/README.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from pkdzoo.models._zoo_table import format_number
from pkdzoo.training import Recipe, load_recipes
from pkdzoo.utils.files import write_text

FOLDERS = {
    "pkd": "PKD (arXiv:2207.02039): the student imitates the teacher's pyramid, every channel normalized. The files "
    "that end in `_inherit` are the paper's rows, in which a student with its teacher's kind of head starts from the "
    "teacher's neck and head. The files of the same name without `_inherit` are what mmrazor released.",
    "crosskd": "CrossKD (arXiv:2306.11369), alone and with PKD: the student's maps go through the teacher's head.",
    "fbkd": "FBKD (ICLR 2021): attention-guided and non-local distillation.",
    "global_knowledge": "Global Knowledge (ECCV 2022): regions are weighted by how similarly student and teacher "
    "represent them.",
    "baselines": "Methods that the above are compared with: plain imitation, masks of boxes, FRS, FGD, FGFI, DeFeat, "
    "GID, rank mimicking, CWD, LD, MGD.",
    "rtmdet": "RTMDet (arXiv:2212.07784): its five sizes, and MMYOLO's students that learn from the next larger size.",
    "supervised": "Teachers and plain students.",
}
COLUMNS = "| recipe | teacher | plain AP | published AP | source | checked here |"
# Methods whose losses (of one, the prototypes) equal those of their authors' code (tests/golden/kd).
EQUAL_METHODS = {
    **{method: method for method in ("crosskd", "cwd", "fbkd", "fgd", "ld", "mgd", "norm_cwd", "pkd")},
    "global_knowledge": "prototypes",
}
HEAD = """# Recipes

Each file has the settings of one published result or of one table of a paper. It contains only what differs from the
schedules in [schedules.py](../pkdzoo/training/schedules.py), and opens with its launch line:

```
accelerate launch recipes/train.py recipes/pkd/retina_r50_pkd_swin.py --data coco/
accelerate launch recipes/train.py recipes/pkd/table_6_weights.py --data coco/ --only retina_r50_pkd_fcos_x101_weight_3
```

## Launching

The same script runs on any number of processes. `data.batch_size` is the total, divided evenly among them. Below,
`ARGS` stands for `recipes/train.py RECIPE.py --data DIR --output runs/NAME`.

```
python ARGS                                                   # 1 GPU, or a CPU
accelerate launch ARGS                                        # all GPUs of this machine
torchrun --nproc_per_node 8 ARGS                              # 8 GPUs
accelerate launch --multi_gpu --num_processes 8 ARGS          # the same
python ARGS --cpu-processes 2                                 # 2 CPU processes of one thread each

# 2 x 8 GPUs: on each machine one of these two lines, with R = 0 on HOST and R = 1 on the other machine
torchrun --nnodes 2 --node_rank R --nproc_per_node 8 --master_addr HOST --master_port 29500 ARGS
accelerate launch --multi_gpu --num_machines 2 --num_processes 16 --machine_rank R \\
  --main_process_ip HOST --main_process_port 29500 ARGS

# SLURM, 2 x 8 GPUs; change the options of the job in recipes/train.sbatch
sbatch recipes/train.sbatch RECIPE.py --data DIR --output runs/NAME
```

### Stop and resume

SIGTERM and SIGINT end the run after the current step and save it. `--resume` continues from there, or starts a new run
where there is nothing to continue. A resumed run equals an uninterrupted one to the last bit, if the same step always
computes the same bits: on a CPU with `--threads 1` this holds, with more threads or on a GPU it depends on torch's
kernels. A resumed run takes the number of threads that it began with. Launchers of several processes pass the signal
on, wait 30 seconds, and then report it with an error of their own; `--cpu-processes` waits until the step is saved. A
second signal after five seconds or more ends the run at once, without saving. A run folder can be used by one run at a
time: a second start ends with an error within seconds, and a killed run leaves no lock behind.

### What a run reports

Before its first step a run prints what it will cost: parameters, multiply-adds, memory, steps, time. `--check-teacher
500` first evaluates the teacher on 500 images and compares the result with its published AP. `log.jsonl` gets a line
every `logging.log_every` steps: losses by name, learning rate, gradient norm, Pearson's r of each level, images per
second, the share of time spent waiting for data, peak memory. `--tracker tensorboard` (or another tracker that
Accelerate supports) gets the same.

### Options that work together

`--mixed-precision bf16` or `fp16`, `--channels-last`, `--checkpoint-activations`, and the recipe's fields
`optim.accumulate`, `optim.ema`, `logging.best` and `logging.patience` can be combined. `--compile` needs minutes before
the first step, and on a CPU it gains little or nothing; it is tested with bf16, `--channels-last` and `optim.ema`, but
not with recomputed activations. Losses are divided by the number of objects of one pass, over all processes; in this
point accumulated passes differ from one large batch.

### On a CPU

On a processor that multiplies bf16 (AVX512_BF16 or AMX), `--mixed-precision bf16` took half the time of float32 in a
step of RetinaNet-R50, and the summary of a run says so; `--compile` gained 1 % at most
([figures](benchmark_results/README.md#two-versions-in-one-run)).

Without `--threads`, a run of 100 steps or more measures a step with all threads, with half of them and with one, and
takes the fewest that are about as fast as the best; the other cores load images. `pkdzoo distill` does so for each of
its detectors. Parameters, running statistics and random numbers are not touched. Two runs of one recipe equal each
other to the last bit only with the same number of threads, so write `--threads 1` where that matters. `--cpu-processes
N` trains with N processes of one thread each, which exchange gradients as GPUs do: losses and gradients are those of
one process with the same images ([what that means](../docs/several_processes.md)). Small detectors gain most. Images
per second of `rtmdet_bccd_plain` and `rtmdet_bccd_pkd` (bf16, NHWC) on two hardware threads of one core of an AMD EPYC:
19 and 13 with `--threads 1`, 24 and 18 with `--threads 2`, 30 and 23 with `--cpu-processes 2`.

### When loading is slow

`--cache-images 4` keeps decoded images in 4 GB of shared memory per training process: the first images of the training
set, then of the validation set. After the first epoch they are neither decoded nor resized again, and no pixel changes.
For photographs of several thousand pixels, `--set data.decode=fast` lets the JPEG decoder skip detail that the resize
would remove; such pixels differ from those of published training.
[The benchmark](benchmark_results/README.md) has both against torchvision's references.

## Fields

The recipes train with 16 images per step, on any number of GPUs. Every field can be changed on the command line, for
example `--set data.batch_size=8 --set optim.scale_lr=true` for half the batch size and half the learning rate. Teachers
and initial weights are downloaded by name.

- AP is COCO val2017 box AP in percent, as the source printed it, for the teacher and the plain student, too.
- "Checked here" names what equals the numbers of the original programs in the tests: maps, losses and detections of
  student and teacher (mmdetection), the loss or the prototypes of the method (its authors' code). For every recipe the
  settings are compared with the source, and two steps run on small images.
- **None of the recipes on this page has been trained to its end with pkdzoo yet.** What has been trained is on the
  pages of the [experiments](experiments/README.md) and of the [measurements](../docs/measured.md).
- A recipe's `note` says what its source leaves open and what was chosen.

[MIGRATING.md](MIGRATING.md) translates settings of mmrazor, mmdetection, torchvision and ultralytics. Students on
backbones of timm, which nobody has published, are in [timm/](timm). This page is generated by
`python -m pkdzoo.maintain recipes`.
"""

# recipes/experiments/report.py writes a short table between these; docs/measured.md repeats it.
BEGIN, END = "<!-- short:begin -->\n", "<!-- short:end -->\n"


def experiments(folder: Path) -> str:
    """The short table of ``folder/experiments/README.md``; an empty text without that file."""
    path = folder / "experiments" / "README.md"
    return path.read_text().partition(BEGIN)[2].partition(END)[0] if path.is_file() else ""


def published(folder: Path) -> Iterator[tuple[Path, list[Recipe]]]:
    """The recipe files below ``folder`` whose recipes all name an expected result and its source."""
    for name in FOLDERS:
        for path in sorted((folder / name).glob("*.py")):
            recipes = load_recipes(path)
            if all(recipe.expect.get("source") for recipe in recipes):
                yield path, recipes


def page(folder: Path) -> str:
    """The text of README.md for a folder of recipes."""
    lines = [HEAD]
    section, equal = "", reference_detectors(folder.absolute().parent)
    for path, recipes in published(folder):
        if path.parent.name != section:
            section = path.parent.name
            lines += [f"\n## {section}\n\n{FOLDERS[section]}\n", COLUMNS, "|---|---|---|---|---|---|"]
        lines += [row(path, recipe, len(recipes) > 1, equal) for recipe in recipes]
    return "\n".join(lines) + "\n"


def row(path: Path, recipe: Recipe, several: bool, equal: Collection[str]) -> str:
    """One row of a table.

    Args:
        path: of the recipe file.
        recipe: one of its recipes.
        several: the file has more recipes, which are distinguished by their names.
        equal: detectors that equal the original program's.
    """
    link = f"[{path.stem}]({path.parent.name}/{path.name})"
    expect, teacher = recipe.expect, ""
    if recipe.distill is not None:
        teacher = f"{recipe.distill.teacher} {format_number(expect.get('teacher'))}".strip()
    cells = [
        f"{link}: {recipe.name}" if several else link,
        teacher,
        format_number(expect.get("plain")),
        format_number(expect.get("AP")),
        str(expect["source"]),
        checked_parts(recipe, equal),
    ]
    return "| " + " | ".join(cells) + " |"


def reference_detectors(root: Path) -> set[str]:
    """Detectors whose maps, losses, gradients and detections equal the original program's in the tests of a clone."""
    golden = root / "tests" / "golden"
    yolo = {f"{path.stem}_yolo" for path in (golden / "mmyolo").glob("*.json")}
    return {path.stem for path in (golden / "mmdet").glob("*.json")} | yolo


def checked_parts(recipe: Recipe, equal: Collection[str]) -> str:
    """What of a recipe equals the numbers of the original programs; ``equal`` are the detectors that do."""
    parts = ["student"] if recipe.model in equal and not recipe.model_args else []
    if recipe.distill is not None:
        parts += ["teacher"] if recipe.distill.teacher.partition(".")[0] in equal else []
        for method, options in recipe.distill.methods.items():
            # variants that the authors' code does not have
            changed = options.get("normalize") or options.get("where", "neck") != "neck"
            parts += [EQUAL_METHODS[method]] if method in EQUAL_METHODS and not changed else []
    return ", ".join(parts)


def write_recipes_page(folder: Path = Path("recipes")) -> None:
    """Write ``README.md`` of the recipes' folder."""
    write_text(folder / "README.md", page(folder))
