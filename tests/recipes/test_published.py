"""Recipes: each builds and says where it comes from; every published result is repeated by exactly one."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from helpers.extras import skip_without_library
from helpers.published import GOLDEN, RECIPES, every_recipe, is_published, named, recipes_of

from pkdzoo.distill import Distiller
from pkdzoo.distill.adapters import is_of_other_library
from pkdzoo.distill.adapters.students import student_of_library
from pkdzoo.models._config import from_json
from pkdzoo.models._factory import create_detector
from pkdzoo.models._registry import Entry, entries, find
from pkdzoo.models.backbones.weights import imagenet_weights
from pkdzoo.structures import PixelNorm
from pkdzoo.training import Recipe
from pkdzoo.training.build import build_task
from pkdzoo.training.optim import build_optimizer

ALL = list(every_recipe())
ROWS: dict[str, Any] = {row["id"]: row for row in GOLDEN["recipes"]}
METRICS = {"mAP": "AP", "mask_mAP": "mask_AP", "AP50": "AP50", "AP75": "AP75", "APS": "APs", "APM": "APm", "APL": "APl"}

# What the sources call an architecture, where that is not what it is called here.
OURS = {
    "retinanet_r50_extra_on_output": "retina_r50_on_output",
    "retinanet_r18_extra_on_output": "retina_r18_on_output",
    "fcos_r50_tricks_fgd": "fcos_r50_tricks",
    "fcos_r101_tricks_fgd": "fcos_r101_tricks",
    "fcos_r50_tricks_mmdet": "fcos_r50_caffe_tricks",
    "reppoints_x101_32x4d_dconv": "reppoints_x101_dcn",
}
# Methods by the name they have in the sources.
METHODS = {
    "PKD": {"pkd"}, "MSE": {"mse"}, "fitnet": {"mse"}, "gt_mask": {"gt_mask"}, "frs_mask": {"frs"},
    "fgd_global": {"fgd"}, "Norm+KL": {"norm_kl"}, "CrossKD": {"crosskd"}, "CrossKD+PKD": {"crosskd", "pkd"},
    "FBKD": {"fbkd"}, "GlobalKnowledge": {"global_knowledge"}, "LD": {"ld"}, "MGD": {"mgd"},
}  # fmt: skip
# Printed beside the others, and without a recipe of its own.
NOT_REPEATED = {
    "global_knowledge_frcnn/ours": "global_knowledge_frcnn among the recipes",
    "global_knowledge_retina/ours": "global_knowledge_retina among the recipes",
}


def our_name(arch: str) -> str:
    return OURS.get(arch, arch.replace("retinanet_", "retina_"))


def recipe_for(row: str) -> Recipe:
    """The one recipe that repeats a published result."""
    found = [recipe for _, recipe in ALL if row in recipe.expect.get("rows", ())]
    assert len(found) == 1, f"{row}: {[recipe.name for recipe in found]}"
    return found[0]


# -- recipes ---------------------------------------------------------------------------------------------------------


@cache
def built(name: str, args: str, role: str) -> Any:
    """A detector without memory behind its tensors; teacher and student are never one object."""
    with torch.device("meta"):
        return create_detector(name, **{key: from_json(value) for key, value in json.loads(args).items()})


def task_of(recipe: Recipe) -> torch.nn.Module:
    role = "frozen student" if recipe.distill and recipe.distill.freeze else "student"
    if is_of_other_library(recipe.model):
        student = student_of_library(recipe.model, ("a", "b"), recipe.model_args)
    else:
        student = built(recipe.model, json.dumps(dict(recipe.model_args)), role)
    teacher = None
    if recipe.distill is not None and not recipe.distill.teacher.startswith("local-dir:"):  # made by another recipe
        teacher = built(recipe.distill.teacher, json.dumps(dict(recipe.distill.teacher_args)), "teacher")
    with torch.device("meta"):
        return build_task(recipe, student, teacher)


@pytest.mark.parametrize(("path", "recipe"), ALL, ids=[named(*pair) for pair in ALL])
def test_a_recipe_builds_and_survives_json(path, recipe) -> None:
    skip_without_library(recipe.model, recipe.model_args)
    content = recipe.to_dict()
    again = Recipe.from_dict(json.loads(json.dumps(content)))
    assert again.to_dict() == content and (again == recipe or recipe.data.generate)  # there a tuple became a list
    task = task_of(recipe)
    optimizer = build_optimizer(task, recipe.optim, recipe.data.batch_size)
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) > 0
    if is_published(recipe):
        assert recipe.expect["source"]
        assert isinstance(task, Distiller) == bool(recipe.distill and recipe.distill.methods)
        check_places(path, recipe)


def check_places(path, recipe: Recipe) -> None:
    """Where weights come from: each exists, or the file's head says how to make it."""
    entry, _ = find(recipe.model)
    frozen_start = recipe.distill is not None and "backbone" in recipe.distill.inherit
    if recipe.init is None:
        from_scratch = entry.args["backbone"] in (
            "cspnext_m",
            "cspnext_l",
            "cspnext_x",
        )  # no ImageNet file was published
        assert frozen_start or from_scratch, "a published detector starts from ImageNet"
    elif recipe.init.startswith("imagenet"):
        assert imagenet_file(entry, recipe)
    else:
        start, row = find(recipe.init)
        assert start.name == recipe.model and row is not None and row.has_source
    if recipe.distill is not None:
        _, row = find(recipe.distill.teacher)
        given = "--set distill.teacher_weights=runs/" in path.read_text()
        assert given or (row is not None and row.has_source and row.direct)
    if "--set distill.teacher_weights=runs/" in path.read_text():
        name = path.read_text().partition("runs/")[2].partition("/")[0]
        assert (RECIPES / "supervised" / f"{name}.py").is_file()


def imagenet_file(entry: Entry, recipe: Recipe) -> str:
    """The link that a recipe's ``init`` stands for."""
    assert recipe.init is not None
    pixel_norm = entry.args.get("pixel_norm") or PixelNorm()
    return imagenet_weights(entry.args.get("backbone", "r50"), pixel_norm, recipe.init)[1].url or ""


# -- numbers ---------------------------------------------------------------------------------------------------------


def check_schedule(recipe: Recipe, key: str) -> None:
    """Every number of a published schedule."""
    expected, optim, data, schedule = GOLDEN["schedules"][key], recipe.optim, recipe.data, recipe.schedule
    assert (schedule.epochs, list(schedule.milestones), schedule.gamma, schedule.decay) == (
        expected["epochs"], expected["milestones"], expected["gamma"], "step"
    )  # fmt: skip
    assert schedule.max_steps is None and schedule.warmup is not None
    assert {
        "type": schedule.warmup.kind,
        "start_factor": schedule.warmup.factor,
        "iters": schedule.warmup.steps,
    } == expected["warmup"]
    optimizer = dict(expected["optimizer"])
    assert (optim.kind, optim.lr, optim.weight_decay) == (
        optimizer.pop("type").lower(), optimizer.pop("lr"), optimizer.pop("weight_decay")
    )  # fmt: skip
    if optim.kind == "sgd":
        assert {"momentum": optim.momentum} == optimizer and (optim.norm_decay_mult, optim.no_decay) == (1.0, ())
    else:
        assert list(optim.betas) == optimizer["betas"]
        # norms by their factor; relative_position_bias_table by our name; absolute positions do not exist here
        assert (optim.norm_decay_mult, optim.no_decay) == (0.0, ("bias_table",))
    assert (
        optim.clip == (expected["grad_clip"] or {}).get("max_norm") if "grad_clip" in expected else optim.clip is None
    )
    biases = expected.get("paramwise") or {"bias_lr_mult": 1.0, "bias_decay_mult": 1.0}
    assert {"bias_lr_mult": optim.bias_lr_mult, "bias_decay_mult": optim.bias_decay_mult} == biases
    assert (
        data.batch_size == optim.base_batch_size == expected["batch_size_total"]
        and optim.accumulate == 1
        and not optim.scale_lr
    )
    assert data.eval_size == (800, 1333) and data.flip == 0.5 and data.crop is None
    assert data.drop_empty and data.min_image_size == 32
    if "ms_crop" in expected["train"]:
        assert data.short == tuple(range(480, 801, 32)) and data.mode == "choice" and data.zoom == 0.5
        return
    shorts = [scale[1] for scale in expected["train"]["scales"]]
    assert (data.short if isinstance(data.short, tuple) else (data.short,)) == tuple(shorts) and data.zoom == 0
    assert data.long == 1333 and (len(shorts) == 1 or data.mode == expected["train"]["mode"])


def check_numbers(expect: Any, row: Any) -> None:
    for key, value in row.get("ap", {}).items():
        assert expect[METRICS[key]] == value, key
    for key, name in (("teacher_ap", "teacher"), ("plain_ap", "plain")):
        if key in row:
            assert expect[name] == row[key]["mAP"], name


@pytest.mark.parametrize("row", ROWS)
def test_a_published_result_has_its_recipe(row) -> None:
    expected, recipe = ROWS[row], recipe_for(row)
    assert recipe.model == our_name(expected["student"]) and not recipe.model_args
    assert recipe.distill is not None
    teacher, weights = find(recipe.distill.teacher)
    assert teacher.name == our_name(expected["teacher"])
    if expected["teacher_weights"]:
        published = GOLDEN["checkpoints"][expected["teacher_weights"]]
        assert weights is not None and weights.sha256 == (published["sha256"] or "")
        assert weights.metrics["AP"] == published["AP"]
    else:
        assert weights is None
    check_schedule(recipe, expected["schedule"])
    check_numbers(recipe.expect, expected)
    check_start(recipe, expected)
    check_methods(recipe, expected)


def check_start(recipe: Recipe, expected: Any) -> None:
    """Trained weights, ImageNet's of the right file, and what is inherited."""
    assert recipe.distill is not None and recipe.distill.freeze == ()
    if expected.get("trained_start"):
        _, row = find(recipe.init or "")
        published = GOLDEN["checkpoints"][expected["plain_weights"]]
        assert row is not None and row.sha256 == published["sha256"]
    else:
        check_imagenet(recipe, expected["student"])
    student, teacher = (family_of(expected[who]) for who in ("student", "teacher"))
    # The paper's appendix A.2: equal heads are inherited; what mmrazor and CrossKD trained inherits nothing.
    by_paper = expected["id"].startswith("pkd_t") and student == teacher
    inherits = expected.get("inherits", by_paper)
    assert inherits == by_paper or expected["method"] == "MGD"
    assert recipe.distill.inherit == (("neck", "head") if inherits else ())


def family_of(arch: str) -> str:
    return find(our_name(arch))[0].family


def check_imagenet(recipe: Recipe, arch: str) -> None:
    init, link = GOLDEN["backbones"][arch], imagenet_file(find(recipe.model)[0], recipe)
    files = {
        "torchvision://": "/models/{}-",
        "open-mmlab://detectron/": "/{}-788b5fa3" if "50" in init else "/{}-3ad79236",
        "open-mmlab://detectron2/": "/resnet50_msra-",
        "open-mmlab://": "/{}-",
        "https://": "https://{}",
    }
    prefix = next(prefix for prefix in files if init.startswith(prefix))
    assert files[prefix].format(init.removeprefix(prefix)) in link, (init, link)


def check_methods(recipe: Recipe, expected: Any) -> None:
    """The settings that the built methods ended up with, whether the recipe or a default says them."""
    method = expected["method"].removesuffix("+pkd_norm")
    assert recipe.distill is not None and set(recipe.distill.methods) == METHODS[method]
    task, settings = task_of(recipe), expected["settings"]
    assert isinstance(task, Distiller)
    made: Any = dict(task.methods.items())
    assert all(schedule == "constant" for name, schedule in task.schedules.items() if name != "frs")
    CHECKS[next(name for name in CHECKS if name in made)](made, settings)
    if "normalize_features_first" in settings:
        (only,) = made.values()
        assert only.normalize == settings["normalize_features_first"]


def check_crosskd(made: Any, settings: Any) -> None:
    method, found = made["crosskd"], made["crosskd"].settings
    box, center, feat = (settings[f"loss_{name}_kd"] for name in ("reg", "center", "feat"))
    assert method.tap == settings["reused_teacher_head_idx"] and method.hold == "post"
    assert found.cls == settings["loss_cls_kd"]["weight"] and found.box == box["weight"]
    kinds = {"GIoULoss": "giou", "KLDiv": "distribution", "IoULoss(log)": "iou_log"}
    assert found.box_loss == kinds[box["type"]]
    assert found.quality == (center["weight"] if center else None)
    assert ("pkd" in made) == (feat is not None)
    if feat is not None:
        assert made["pkd"].weight == feat["weight"] and made["pkd"].pairs.levels == [(i, i) for i in range(5)]


def check_pkd(made: Any, settings: Any) -> None:
    assert made["pkd"].weight == settings["alpha_per_level"] and settings["levels"] == "idx0-3"
    assert made["pkd"].pairs.levels == [(i, i) for i in range(4)] and not made["pkd"].sync


def check_norm_kl(made: Any, settings: Any) -> None:
    method = made["norm_kl"]
    assert (method.weight, method.temperature) == (settings["alpha_per_level"], settings["T"])
    assert method.pairs.levels == [(i, i) for i in range(4)]


def check_mse(made: Any, settings: Any) -> None:
    if "weight" in settings:
        assert made["mse"].weight == settings["weight"] and not made["mse"].normalize
    assert made["mse"].pairs.levels == [(i, i) for i in range(4)]


def check_fbkd(made: Any, settings: Any) -> None:
    method, weights = made["fbkd"], settings["weights"]
    assert method.weights == {
        "feat": weights["feat"], "channel": weights["channel"],
        "spatial": weights["spatial"], "non_local": weights["nonlocal_"],
    }  # fmt: skip
    assert len(method.levels) == 4
    for level, pool in zip(method.levels, settings["effective_pool_mmrazor"], strict=True):
        assert level.temperature == settings["T_spatial"]
        assert level.student_non_local.pool == level.teacher_non_local.pool == pool


def check_ld(made: Any, settings: Any) -> None:
    method = made["ld"]
    assert (method.weight, method.temperature) == (settings["weight"], settings["T"])
    assert method.cls_weight == method.region_weight == method.feat_weight == 0


def check_mgd(made: Any, settings: Any) -> None:
    method = made["mgd"]
    assert (method.weight, method.masked) == (settings["alpha"], settings["lambda"])
    assert method.pairs.levels == [(i, i) for i in range(settings["levels"])]
    assert method.before_norm and not method.mask_channels and method.draws is None


def check_global_knowledge(made: Any, settings: Any) -> None:
    method, search = made["global_knowledge"], settings["pgm"]
    assert (method.object_weight, method.background_weight) == (settings["fg"], settings["bg"])
    assert (method.temperature, method.soft_weight) == (settings["soft_label"]["T"], settings["soft_label"]["weight"])
    assert method.relation_weight == 0 and not settings["relation_active_in_release"]
    assert (method.num_images, method.smallest, method.alpha) == (
        search["max_images_per_class"], search["min_box"][0], search["alpha"]
    )  # fmt: skip
    assert method.student_prototypes.shape[2] == search["prototypes_per_class_per_level"]


def check_masks(made: Any, settings: Any) -> None:
    """Table 4 prints no weights; what is there to see is the switch, checked for all."""
    assert "normalize_features_first" in settings
    if "fgd" in made:
        assert made["fgd"].parts == "global"


CHECKS = {
    "crosskd": check_crosskd, "pkd": check_pkd, "norm_kl": check_norm_kl, "mse": check_mse, "fbkd": check_fbkd,
    "global_knowledge": check_global_knowledge, "gt_mask": check_masks, "frs": check_masks, "fgd": check_masks,
    "ld": check_ld, "mgd": check_mgd,
}  # fmt: skip


@pytest.mark.parametrize("row", GOLDEN["compared"])
def test_a_result_of_comparison_has_its_recipe_or_a_reason(row) -> None:
    if row in NOT_REPEATED:
        assert all(row not in recipe.expect.get("rows", ()) for _, recipe in ALL)
        return
    check_numbers(recipe_for(row).expect, {"ap": {"mAP": GOLDEN["compared"][row]["mAP"]}})


def test_no_recipe_names_a_result_that_nobody_printed() -> None:
    known = {*ROWS, *GOLDEN["compared"]}
    assert [row for _, recipe in ALL for row in recipe.expect.get("rows", ()) if row not in known] == []


def test_methods_are_trained_as_their_repositories_train_them() -> None:
    """FGD, DeFeat and the port of FGFI clip gradients at 35; FGD's RetinaNet learns from the 1x file."""
    clipped = [recipe for _, recipe in ALL if recipe.distill and {"defeat", "fgfi"} & set(recipe.distill.methods)]
    assert len(clipped) == 4
    clipped += [recipe_for(f"fgd_repo_readme/{name}") for name in ("RetinaNet_R50", "RepPoints_R50", "GFL_R50")]
    assert {recipe.optim.clip for recipe in clipped} == {35.0}
    fgd = recipe_for("fgd_repo_readme/RetinaNet_R50")
    arch, _, tag = fgd.distill.teacher.partition(".")
    assert [row.sha256 for row in find(arch)[0].weights if row.tag == tag] == ["366f5af1"]
    (fbkd,) = recipes_of(RECIPES / "fbkd" / "retina_r50_fbkd_r101.py")
    assert fbkd.distill.methods == {"fbkd": {"version": "one_stage"}}


@pytest.mark.parametrize("checkpoint", GOLDEN["checkpoints"])
def test_published_weights_have_a_recipe_that_trains_them(checkpoint) -> None:
    expected = GOLDEN["checkpoints"][checkpoint]
    entry = find(our_name(expected["arch"]))[0]
    (row,) = [w for w in entry.weights if w.sha256 == (expected["sha256"] or "")]
    (recipe,) = recipes_of(RECIPES / "supervised" / f"{entry.name}_{row.tag.removeprefix('coco_')}.py")
    assert recipe.model == entry.name and recipe.distill is None
    assert recipe.expect["AP"] == row.metrics["AP"] == expected["AP"] and recipe.expect["source"] in row.source
    check_schedule(recipe, expected["schedule"])
    check_imagenet(recipe, expected["arch"])
    assert recipe.data.masks == (entry.family in ("mask_rcnn", "cascade_rcnn"))


@pytest.mark.parametrize("name", [e.name for e in entries() if e.distilled and any(w.url for w in e.weights)])
def test_a_published_pair_and_its_recipe_say_the_same(name) -> None:
    entry = find(name)[0]
    assert entry.distilled is not None
    (row,) = entry.weights
    stems = (name, f"{name}_{row.tag.removeprefix('coco_')}")
    (recipe,) = [recipe for path, recipe in ALL if path.stem in stems]
    assert recipe.distill is not None
    assert recipe.model == entry.distilled.student
    assert recipe.distill.teacher == entry.distilled.teacher
    assert set(recipe.distill.methods) == set(entry.distilled.methods)
    triple = tuple(recipe.expect.get(key) for key in ("teacher", "plain", "AP"))
    assert triple == (entry.distilled.triple or (None, None, None))
    assert {key: value for key, value in recipe.expect.items() if key in row.metrics} == row.metrics
    assert entry.distilled.source in recipe.expect["source"]
