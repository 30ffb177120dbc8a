"""Detectors of transformers as teachers: ``transformers:ORG/NAME``, ``transformers:ORG/NAME@REVISION`` or
``transformers:FOLDER``.

``FAMILIES`` has one row for each type of model, with the call that gives its maps. RT-DETR, RT-DETRv2, D-FINE and
DEIMv2: the maps of the encoder, mostly of stride 8, 16 and 32. RF-DETR: one map, whose stride is the size of a patch.
Images are squashed to the size in ``preprocessor_config.json`` (without the file: 640 x 640, pixels 0..1 without mean
and std, of an RF-DETR with ImageNet's). Checked with transformers 5.24.

Weights are read from ``model.safetensors`` alone, by the library's own loader; pickled weights and remote code never.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn

from pkdzoo.distill.adapters import import_library
from pkdzoo.distill.adapters.preprocessor import Preprocessor, read_preprocessor
from pkdzoo.distill.teacher import Teacher
from pkdzoo.hub.files import PREPROCESSOR, TENSORS, fetch_file, other_weights, split_repository
from pkdzoo.hub.saved_folder import CONFIG
from pkdzoo.hub.weights import InitialWeights
from pkdzoo.utils.files import sha256_of_file
from pkdzoo.utils.loggers import errors_only
from pkdzoo.utils.strict_json import read_strict_json
from pkdzoo.utils.suggest import did_you_mean

README, MAX_README = "README.md", 1 << 20
SIZE = (640, 640)
ARGS = ("input_size",)
# Fields that choose how layers are computed; a value may name a repository with a kernel, which would be run.
KERNELS = tuple(f"{start}{kind}_implementation" for start in ("", "_") for kind in ("attn", "experts"))


class Family(NamedTuple):
    """A type of model.

    Attributes:
        model: name of the class in transformers.
        config: name of its config's class.
        maps: the call that gives the maps: (model, images (B, 3, H, W)) -> a list of (B, C, h, w), finest first.
        divisor: of the sides of its images, by its config.
        strides: of the maps, by its config; None: measured.
        learns: it can be a student.
        normalizes: the library applies ImageNet's mean and std to its images unless its preprocessor says otherwise.
    """

    model: str
    config: str
    maps: Callable[[nn.Module, Tensor], list[Tensor]]
    divisor: Callable[[Any], int] = lambda config: 32
    strides: Callable[[Any], Sequence[int] | None] = lambda config: None
    learns: bool = False
    normalizes: bool = False


def hybrid_encoder_maps(net: Any, images: Tensor) -> list[Tensor]:
    """The maps that the decoder of an RT-DETR, RT-DETRv2 or D-FINE is given; the decoder does not run."""
    model = net.model
    mask = torch.ones((len(images), *images.shape[-2:]), device=images.device)
    features = [model.encoder_input_proj[i](level) for i, (level, _) in enumerate(model.backbone(images, mask))]
    return list(model.encoder(features).last_hidden_state)


def deimv2_maps(net: Any, images: Tensor) -> list[Tensor]:
    """The maps that the decoder of a DEIMv2 is given."""
    return list(net.model.encoder(net.model.conv_encoder(images)).feature_maps)


def rf_detr_maps(net: Any, images: Tensor) -> list[Tensor]:
    """The one map that the decoder of an RF-DETR is given."""
    mask = torch.ones((len(images), *images.shape[-2:]), dtype=torch.long, device=images.device)
    return [net.model.backbone(images, mask)[0]]


def patch_of(config: Any) -> int:
    """Side of a patch of a vision transformer in pixels."""
    size = config.backbone_config.patch_size
    return int(size if isinstance(size, int) else size[0])


FAMILIES = {
    "rt_detr": Family("RTDetrForObjectDetection", "RTDetrConfig", hybrid_encoder_maps, learns=True),
    "rt_detr_v2": Family("RTDetrV2ForObjectDetection", "RTDetrV2Config", hybrid_encoder_maps, learns=True),
    "d_fine": Family("DFineForObjectDetection", "DFineConfig", hybrid_encoder_maps, learns=True),
    "deimv2": Family("Deimv2ForObjectDetection", "Deimv2Config", deimv2_maps),
    "rf_detr": Family(
        "RfDetrForObjectDetection", "RfDetrConfig", rf_detr_maps,
        divisor=lambda config: patch_of(config) * int(config.backbone_config.num_windows),
        strides=lambda config: [patch_of(config)],
        normalizes=True,
    ),
}  # fmt: skip


class Files(NamedTuple):
    """The files of a saved model: its folder, which of them it has, and name and commit of its repository."""

    folder: Path
    repository: str
    commit: str


def teacher(name: str, pretrained: bool, cache_dir: str | Path | None, args: dict[str, Any]) -> Teacher:
    """A detector of transformers as a teacher, see :func:`pkdzoo.distill.adapters.teacher_of_library`."""
    check_arguments(name, args)
    library = import_library("transformers")
    files = find_files(name, pretrained, cache_dir)
    content = read_strict_json(files.folder / CONFIG)
    family = family_of(name, content)
    config = config_of(name, library, family, content)
    net = build(name, library, family, config, files if pretrained else None)
    prepared = prepare_input(name, files, args.get("input_size"), family, config)
    made = Teacher(
        net.eval(), family.maps, prepared.mean, prepared.std, scale=1, input_size=prepared.size,
        strides=family.strides(config),
    )  # fmt: skip
    if pretrained:
        made.origin = InitialWeights(
            f"transformers:{files.repository}",
            license_in(files.folder / README),
            files.commit,
            sha256_of_file(files.folder / TENSORS),
        )
    return made


def check_arguments(name: str, args: dict[str, Any]) -> None:
    """Refuse arguments that the adapter does not have."""
    for key in args:
        if key not in ARGS:
            raise ValueError(f"transformers:{name} has no argument {key!r}. {did_you_mean(key, ARGS)}")


def prepare_input(
    name: str, files: Files, size: Any, family: Family, config: Any, option: str = "teacher_args"
) -> Preprocessor:
    """How a model takes its images, see :func:`pkdzoo.distill.adapters.preprocessor.read_preprocessor`."""
    path = files.folder / PREPROCESSOR
    try:
        return read_preprocessor(path, size, SIZE, family.divisor(config), family.normalizes, option)
    except ValueError as error:
        raise ValueError(f"transformers:{name}: {error}") from error


@contextmanager
def config_errors(name: str) -> Iterator[None]:
    """Report what a config raises that cannot be used; the library has no class of error for it."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"transformers:{name}: no model can be built by its {CONFIG} ({type(error).__name__}: {reason})"
        ) from error


def config_of(name: str, library: Any, family: Family, content: dict[str, Any]) -> Any:
    """The library's config of a model; building the model from it downloads nothing.

    Raises:
        ValueError: for a type of model that the installed version does not have, and values that it refuses.
    """
    if not hasattr(library, family.model):
        raise ValueError(f"transformers {library.__version__} has no {family.model}: pip install -U transformers")
    content = deepcopy(content)
    for part in parts_of(content):
        for key in KERNELS:
            part.pop(key, None)
        if "use_pretrained_backbone" in part:  # would download weights that the file replaces
            part["use_pretrained_backbone"] = False
    with config_errors(name):
        config = getattr(library, family.config).from_dict(content)
    if hasattr(config, "use_pretrained_backbone"):
        config.use_pretrained_backbone = False
    return config


def parts_of(content: Any) -> Iterator[dict[str, Any]]:
    """A config and every object inside it."""
    if isinstance(content, dict):
        yield content
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    for value in values:
        yield from parts_of(value)


def build(name: str, library: Any, family: Family, config: Any, files: Files | None) -> nn.Module:
    """The model of a config, with the tensors of its files; without files, with random weights."""
    if files is not None:
        return load(library, family, config, files)
    with config_errors(name):
        net: nn.Module = getattr(library, family.model)(config)
    return net


def find_files(name: str, pretrained: bool, cache_dir: str | Path | None) -> Files:
    """The files of a folder, or of a repository, which are downloaded from one commit.

    Raises:
        FileNotFoundError: for a folder or a repository without config or, if they are wanted, without safetensors.
        ValueError: for a name that cannot exist.
        pkdzoo.hub.errors.DownloadError: for a repository that cannot be downloaded.
    """
    folder = Path(name)
    if folder.is_dir():
        for file in (CONFIG, TENSORS) if pretrained else (CONFIG,):
            if not (folder / file).is_file():
                note = other_weights(folder) if file == TENSORS else ""
                raise FileNotFoundError(f"transformers:{name} has no {file}{note}")
        return Files(folder, folder.resolve().name, "")
    if name.partition("@")[0].count("/") != 1 or name.startswith(("/", ".", "~")):
        raise FileNotFoundError(
            f"there is no such folder: {name}; on the Hub a name is ORGANIZATION/NAME, as in "
            "transformers:ustc-community/dfine-xlarge-coco"
        )
    repository, revision = split_repository(name)
    config = fetch_file(name, repository, CONFIG, revision or None, cache_dir, None, False)
    commit = config.parent.name
    family_of(name, read_strict_json(config))  # before its tensors are downloaded, which may be gigabytes
    if pretrained:
        fetch_file(name, repository, TENSORS, commit, cache_dir, None, False)
    for optional in (PREPROCESSOR, README):
        try:
            fetch_file(name, repository, optional, commit, cache_dir, None, False)
        except FileNotFoundError:
            continue
    return Files(config.parent, repository, commit)


def family_of(name: str, config: Any) -> Family:
    """The row of a model by its config.

    Raises:
        ValueError: for code of its own, a backbone that is elsewhere, and a type of model without a row.
    """
    if not isinstance(config, dict) or "model_type" not in config:
        raise ValueError(f"transformers:{name} has no model_type in its {CONFIG}: it is no model of transformers")
    for part in parts_of(config):
        if "auto_map" in part:
            raise ValueError(
                f"transformers:{name} runs code of its own repository, which pkdzoo never does; wrap it in "
                "pkdzoo.Teacher"
            )
        if part.get("quantization_config") is not None:
            raise ValueError(
                f"transformers:{name} is quantized: take its weights in float32 or float16, of a {CONFIG} without "
                "quantization_config"
            )
        source = part.get("backbone")
        if isinstance(source, str) and (part is config or not re.fullmatch(r"[\w.-]+", source, re.ASCII)):
            raise ValueError(
                f"transformers:{name} takes its backbone from {source[:100]!r}, which would be downloaded without a "
                f"pinned commit: save the model with backbone_config in its {CONFIG}, or wrap it in pkdzoo.Teacher"
            )
    kind = str(config["model_type"])
    if kind not in FAMILIES:
        raise ValueError(
            f"transformers:{name} is a {kind[:50]!r}, and pkdzoo knows the maps of {', '.join(FAMILIES)}. "
            f"{did_you_mean(kind, FAMILIES)}; or wrap the model in pkdzoo.Teacher"
        )
    return FAMILIES[kind]


def load(library: Any, family: Family, config: Any, files: Files) -> nn.Module:
    """The model with the tensors of its safetensors file; every tensor must come from it.

    Raises:
        ValueError: for a file that does not fit the config.
    """
    try:
        with errors_only("transformers"):  # it prints a table of all tensors that do not fit
            net, facts = getattr(library, family.model).from_pretrained(
                str(files.folder), config=config, local_files_only=True, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True, ignore_mismatched_sizes=True, dtype=torch.float32,
            )  # fmt: skip
    except Exception as error:  # every damaged file fails in its own way
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"the weights of transformers:{files.repository} do not fit its config: {first}") from error
    wrong = {str(key): "is missing" for key in facts["missing_keys"]}
    wrong |= {str(key): f"has shape {tuple(own)}, not {tuple(shape)}" for key, own, shape in facts["mismatched_keys"]}
    if wrong:
        key = min(wrong)
        raise ValueError(
            f"the weights of transformers:{files.repository} lack {len(wrong)} of its tensors, e.g. {key}, which "
            f"{wrong[key]}"
        )
    loaded: nn.Module = net
    return loaded


def license_in(readme: Path) -> str:
    """The license in the head of a model card; ``unknown`` if it states none."""
    if not readme.is_file():
        return "unknown"
    with open(readme, encoding="utf-8", errors="replace") as file:
        head = re.match(r"---\n(.*?)\n---", file.read(MAX_README), re.DOTALL)
    try:
        content = yaml.safe_load(head.group(1)) if head else None
    except yaml.YAMLError:
        return "unknown"
    license = content.get("license") if isinstance(content, dict) else None
    return license if isinstance(license, str) and re.fullmatch(r"[\w.-]{1,40}", license, re.ASCII) else "unknown"
