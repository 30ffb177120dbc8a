"""Networks of timm as backbones, with random weights: maps, statistics, freezing, weights, licenses, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pkdzoo
from pkdzoo.checkpoints import save_safetensors
from pkdzoo.cli import main
from pkdzoo.hub.card_licenses import ForbiddenLicense
from pkdzoo.hub.card_text import render
from pkdzoo.hub.errors import DownloadError
from pkdzoo.hub.weights import InitialWeights
from pkdzoo.models._card import describe_card
from pkdzoo.models._counting import count_costs
from pkdzoo.structures import PixelNorm
from pkdzoo.training import compute
from pkdzoo.training.publish import prepare

timm = pytest.importorskip("timm")

MOBILENET = "timm:mobilenetv4_conv_small.e2400_r224_in1k"  # five maps, from stride 2
VIT = "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"  # one map, statistics of 0.5
RESIZED = "trained on images that were resized by bicubic interpolation; detectors resize bilinearly"
STARTERS = {"num_classes": 3, "width": 32}
FAMILIES = {
    "retina_r50": {}, "fcos_r50_caffe": {}, "gfl_r50": {}, "atss_r50": {}, "tood_r50": {}, "reppoints_x101_dcn": {},
    "faster_rcnn_r50": {"box_width": 32}, "mask_rcnn_r50": {"box_width": 32, "mask_width": 16},
    "cascade_mask_rcnn_x101_32x4d_dcn": {"box_width": 32, "mask_width": 16}, "rtmdet_tiny": {"width": 0.125},
}  # fmt: skip

QUICK = ("gfl_r50", "faster_rcnn_r50", "rtmdet_tiny")


def slow(*args: Any) -> Any:
    """Parameters of a case that the default run leaves out."""
    return pytest.param(*args, marks=pytest.mark.slow)


def made(name: str = "gfl_r50", backbone: str = MOBILENET, **args: Any) -> Any:
    torch.manual_seed(0)
    return pkdzoo.create_detector(name, backbone=backbone, **{**STARTERS, **args})


def batch_of(height: int = 96, width: int = 128, channels: int = 3) -> pkdzoo.Batch:
    generator = torch.Generator().manual_seed(1)
    masks = torch.ones(1, height, width, dtype=torch.bool)
    objects = pkdzoo.Instances(torch.tensor([[8.0, 8.0, 70.0, 60.0]]), torch.tensor([1]), masks=masks)
    return pkdzoo.Batch(torch.rand(1, channels, height, width, generator=generator) * 255, [(height, width)], [objects])


@torch.no_grad()
def randomize_norms(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    for layer in model.modules():
        if isinstance(getattr(layer, "running_mean", None), Tensor):
            layer.running_mean.copy_(torch.randn(layer.running_mean.shape, generator=generator) * 0.1)
            layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=generator) + 0.5)


# -- families and maps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n if n in QUICK else slow(n) for n in FAMILIES])
def test_every_family_learns_on_it(name: str) -> None:
    model = made(name, **FAMILIES[name]).train()
    losses = model(batch_of())
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert next(p for p in model.backbone.parameters() if p.requires_grad).grad.abs().max() > 0
    assert model.neck.strides[0] == (4 if model.two_stage else 8)
    # FCOS and RTMDet take BGR pixels of other statistics with their own backbones
    assert (model.channel_order, model.pixel_mean.tolist()) == ("rgb", pytest.approx([123.675, 116.28, 103.53]))


@pytest.mark.parametrize(
    "backbone", [MOBILENET, slow("timm:convnext_atto"), "timm:mambaout_femto", slow("timm:resnet10t")]
)
@torch.no_grad()
def test_its_maps_are_those_of_the_network(backbone: str) -> None:
    model = made(backbone=backbone)
    randomize_norms(model)
    plain = timm.create_model(backbone.removeprefix("timm:"), features_only=True).eval()
    state = model.backbone.network.state_dict()
    counters = plain.load_state_dict(state, strict=False)
    assert all(key.endswith("num_batches_tracked") for key in counters.missing_keys) and not counters.unexpected_keys
    image = torch.randn(1, 3, 96, 128, dtype=torch.float64)
    maps = dict(zip(plain.double().feature_info.reduction(), plain(image)))
    if backbone == "timm:mambaout_femto":
        maps = {stride: level.permute(0, 3, 1, 2) for stride, level in maps.items()}
    found = model.backbone.double()(image)
    assert [level.shape[1] for level in found] == model.backbone.channels
    for stride, level in zip((4, 8, 16, 32), found, strict=True):
        torch.testing.assert_close(level, maps[stride])


@pytest.mark.parametrize(
    "backbone", [MOBILENET, slow("timm:convnext_atto"), slow("timm:swin_tiny_patch4_window7_224"), VIT]
)
@torch.no_grad()
def test_images_of_any_size(backbone: str) -> None:
    network = made(backbone=backbone).backbone
    for height, width in ((97, 131), (64, 96)):
        maps = network(torch.randn(1, 3, height, width))
        assert [tuple(m.shape) for m in maps] == [
            (1, c, -(-height // s), -(-width // s)) for c, s in zip(network.channels, (4, 8, 16, 32))
        ]


@torch.no_grad()
def test_one_map_becomes_a_simple_pyramid() -> None:
    network = made(backbone=VIT).backbone
    image = torch.randn(1, 3, 64, 96)
    maps = network(image)
    (tokens,) = network.network(image)
    own = tokens.transpose(1, 2).reshape(1, 192, 4, 6)
    plain = timm.create_model(VIT.removeprefix("timm:"), features_only=True, dynamic_img_size=True, out_indices=(11,))
    plain.load_state_dict(network.network.state_dict())
    assert torch.equal(own, plain.eval()(image)[0])  # what timm makes of its tokens
    assert torch.equal(maps[2], own) and torch.equal(maps[3], nn.functional.max_pool2d(own, 2))
    assert network.channels == [48, 96, 192, 192]
    assert made("retina_swin_t", VIT).backbone.channels == [96, 192, 192]  # the entry leaves stride 4 out


# -- statistics, freezing and modes ----------------------------------------------------------------------------------


def test_each_network_has_its_own_statistics(tmp_path: Path) -> None:
    half = PixelNorm((127.5,) * 3, (127.5,) * 3)
    model = made(backbone="timm:vit_tiny_patch16_224")
    assert model.overrides["pixel_norm"] == half and model.overrides["backbone"] == VIT  # the tag is written out
    again = pkdzoo.from_pretrained(model.save_pretrained(tmp_path))
    assert again.pixel_std.tolist() == [127.5] * 3
    gray = made(backbone=VIT, in_chans=1)
    assert gray.pixel_mean.tolist() == [127.5] and gray(batch_of(channels=1))["loss_cls"].isfinite()
    again, gray = again.eval(), pkdzoo.from_pretrained(tmp_path, in_chans=1)
    one = torch.rand(1, 1, 64, 96) * 255  # a gray image gives what its copy in three channels gives
    maps = [
        m.extract_features(pkdzoo.Batch(x, [(64, 96)])).levels[0]
        for m, x in ((gray, one), (again, one.repeat(1, 3, 1, 1)))
    ]
    torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-4)
    own = PixelNorm((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert made(backbone=VIT, pixel_norm=own).pixel_mean.tolist() == [1.0, 2.0, 3.0]


def test_batch_norms_are_frozen_or_train() -> None:
    frozen, trained = made().train(), made(norm="bn").train()
    for model, fixed in ((frozen, True), (trained, False)):
        before = {k: v.clone() for k, v in model.backbone.state_dict().items() if "running" in k}
        model(batch_of())
        after = model.backbone.state_dict()
        assert before and all(torch.equal(after[key], value) == fixed for key, value in before.items())


@pytest.mark.parametrize(
    ("backbone", "stage"),
    [(MOBILENET, "blocks.0"), slow("timm:resnet10t", "layer1"), slow("timm:hgnetv2_b0", "stages_0")],
)
def test_frozen_stages_stay_as_they_are(backbone: str, stage: str) -> None:
    model = made(backbone=backbone, norm="bn", frozen_stages=1).train()
    network = model.backbone.network
    assert not any(p.requires_grad for p in network.get_submodule(stage).parameters())
    names = [name for name, p in network.named_parameters() if not p.requires_grad]
    rest = [name for name, p in network.named_parameters() if p.requires_grad]
    assert list(dict(network.named_parameters())) == names + rest and rest
    before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
    model(batch_of())
    same = [key for key, value in before.items() if torch.equal(network.state_dict()[key], value)]
    assert same and all(any(key.startswith(n.rpartition(".")[0]) for n in names) for key in same)
    assert len(same) < len(before)


def test_synchronized_norms_keep_their_activations() -> None:
    student = made(norm="bn")
    activations = [m.act for m in student.backbone.modules() if isinstance(m, timm.layers.BatchNormAct2d)]
    compute.synchronize_norms(student)
    kept = [m.act for m in student.backbone.modules() if isinstance(m, timm.layers.SyncBatchNormAct)]
    assert [type(act) for act in kept] == [type(act) for act in activations] and kept
    assert not any(type(m).__name__.startswith("BatchNorm") for m in student.backbone.modules())


@pytest.mark.parametrize("backbone", ["timm:convnext_atto", slow(VIT)])
def test_recomputed_activations_give_the_same_gradients(backbone: str) -> None:
    gradients = []
    for recompute in (False, True):
        model = made(backbone=backbone).train()
        compute.apply_options(model, channels_last=False, checkpoint_activations=recompute)
        sum(model(batch_of(64, 96)).values()).backward()
        gradients.append({name: p.grad for name, p in model.backbone.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value)


# -- saving, speed, cost ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_it_is_saved_counted_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = made("retina_r50", width=96)
    randomize_norms(model)
    again = pkdzoo.from_pretrained(model.save_pretrained(tmp_path))
    for one, other in zip(model.extract_features(batch_of()).levels, again.extract_features(batch_of()).levels):
        assert torch.equal(one, other)
    assert count_costs(model, (96, 128))[0] == pytest.approx(sum(p.numel() for p in model.parameters()) / 1e6, abs=1e-3)
    assert main(["info", str(tmp_path)]) == 0 and "classes      3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("backbone", "norm"),
    [
        ("timm:repvit_m0_9", "frozen_bn"), slow("timm:repvit_m0_9", "bn"), slow("timm:mobileone_s0", "frozen_bn"),
        slow("timm:mobileone_s0", "bn"), slow(MOBILENET, "frozen_bn"), (MOBILENET, "bn"),
    ],
)  # fmt: skip
@torch.no_grad()
def test_optimized_it_gives_the_same_maps(backbone: str, norm: str) -> None:
    model = made(backbone=backbone, norm=norm)
    randomize_norms(model)
    before = model.extract_features(batch_of()).levels
    modules = len(list(model.backbone.modules()))
    for _ in range(2):  # the second call changes nothing
        model.optimize()
        for one, other in zip(before, model.extract_features(batch_of()).levels):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * float(one.abs().max()))
    if backbone != MOBILENET:  # branches are merged
        assert len(list(model.backbone.modules())) < modules
    with pytest.raises(ValueError, match="is optimized"):
        model.save_pretrained("unused")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [MOBILENET, "timm:mambaout_femto", VIT])
@torch.no_grad()
def test_as_onnx_it_gives_the_same_maps(backbone: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from pkdzoo.export import export_onnx

    model = made(backbone=backbone)
    randomize_norms(model)
    path = export_onnx(model, tmp_path / "model.onnx", what="features")
    images = batch_of(160, 192).images.to(torch.uint8)
    two = torch.cat([images, images.flip(3)])[..., :96, :]
    session = onnxruntime.InferenceSession(str(path))
    pairs = []
    for part in (images, two):
        sizes = [tuple(part.shape[-2:])] * len(part)
        maps = session.run(None, {"images": part.numpy(), "sizes": torch.tensor(sizes).numpy()})
        pairs += list(zip(maps, model.extract_features(pkdzoo.Batch(part.float(), sizes)).levels, strict=True))
    for found, level in pairs:
        torch.testing.assert_close(torch.from_numpy(found), level, rtol=1e-3, atol=1e-4 * float(level.abs().max()))


# -- weights of a tag ------------------------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a file into the cache of the Hub's client, which is offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(name: str, tensors: dict[str, Tensor], file: str = "model.safetensors") -> Path:
        repository = tmp_path / f"models--timm--{name}"
        folder = repository / "snapshots" / ("a" * 40)
        folder.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("a" * 40)
        save_safetensors(tensors, folder / file)
        return tmp_path

    return put


def classifier(name: str) -> dict[str, Tensor]:
    torch.manual_seed(5)
    whole = timm.create_model(name)
    randomize_norms(whole)
    return {key: value.clone() for key, value in whole.state_dict().items()}


@pytest.mark.parametrize("backbone", [MOBILENET, slow("timm:convnext_atto.d2_in1k"), slow(VIT)])
def test_weights_of_the_tag_are_loaded(backbone: str, cached: Any, tmp_path: Path) -> None:
    name = backbone.removeprefix("timm:")
    cache = cached(name, classifier(name))
    model = pkdzoo.load_backbone(made(backbone=backbone), cache_dir=cache)
    reference = timm.create_model(name)
    reference.load_state_dict(classifier(name))
    indices = model.backbone.facts.indices
    image = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        features = timm.create_model(name, features_only=True, out_indices=indices).eval()
        own = {k.replace("stages.", "stages_").replace("stem.", "stem_"): v for k, v in reference.state_dict().items()}
        wanted = own if backbone.startswith("timm:convnext") else dict(reference.state_dict())
        wanted = {f"model.{k}": v for k, v in wanted.items()} if backbone == VIT else wanted
        features.load_state_dict({k: wanted[k] for k in features.state_dict()})
        for found, expected in zip(
            model.backbone.network.eval().double()(image), features.double()(image), strict=True
        ):
            if backbone == VIT:  # tokens
                found = found.transpose(1, 2).reshape(expected.shape)
            torch.testing.assert_close(found, expected)
    start = model.initial_weights
    assert (start.name, start.license, start.revision) == (f"timm/{name}", "apache-2.0", "a" * 40)
    assert len(start.sha256) == 64
    assert pkdzoo.from_pretrained(model.save_pretrained(tmp_path / "saved")).initial_weights == start


def test_weights_that_do_not_fit_or_are_pickled_are_refused(cached: Any, tmp_path: Path) -> None:
    state = classifier("mobilenetv4_conv_small")
    lacking = {key: value for key, value in state.items() if key != "conv_stem.weight"}
    cache = cached(MOBILENET.removeprefix("timm:"), lacking)
    model = made()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"lack 1 of its tensors, e\.g\. conv_stem\.weight"):
        pkdzoo.load_backbone(model, cache_dir=cache)
    other = {**state, "conv_stem.weight": torch.zeros(3, 3, 3, 3)}
    save_safetensors(other, next(cache.glob("**/model.safetensors")))
    with pytest.raises(ValueError, match="do not fit it"):
        pkdzoo.load_backbone(model, cache_dir=cache)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.initial_weights is None
    with pytest.raises(DownloadError, match=r"timm/convnext_atto\.d2_in1k is not in the cache"):
        pkdzoo.load_backbone(made(backbone="timm:convnext_atto"), cache_dir=tmp_path)
    with pytest.raises(ValueError, match="write 'imagenet', and the tag in the name"):
        pkdzoo.load_backbone(model, "imagenet_caffe")
    with pytest.raises(ValueError, match="take RGB"):
        pkdzoo.load_backbone(made(pixel_norm=PixelNorm(channel_order="bgr")))


def test_licenses_of_the_weights_are_on_the_card_and_decide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "convnextv2_atto.fcmae_ft_in1k"
    model = made("retina_r50", f"timm:{name}")
    facts = model.backbone.facts  # what loading the weights of the tag keeps, see test_weights_of_the_tag_are_loaded
    model.initial_weights = InitialWeights(facts.repository, facts.license, "a" * 40, "", facts.interpolation)
    saved = model.save_pretrained(tmp_path / "saved")
    assert main(["info", str(saved)]) == 0
    shown = capsys.readouterr().out
    assert f"started from timm/{name}, license cc-by-nc-4.0" in shown and RESIZED in shown
    about = {"data": "pets", "data_license": "CC0-1.0"}
    with pytest.raises(ForbiddenLicense, match=r"nothing is published under MIT.*--license cc-by-nc-4\.0"):
        prepare(str(saved), tmp_path / "out", license="MIT", **about)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
    folder = prepare(str(saved), tmp_path / "out", license="CC-BY-NC-4.0", **about)
    text = (folder / "README.md").read_text()
    assert RESIZED in text
    assert f"base_model: timm/{name}" in text and "license: cc-by-nc-4.0" in text
    assert "no commercial use; it holds for these weights, too" in text
    assert f"timm/{name}: cc-by-nc-4.0, no commercial use" in (folder / "LICENSE").read_text()
    model.initial_weights = None
    assert "training started from" not in render(describe_card(model, "MIT", "pets", "CC0-1.0"))


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "args", "words"),
    [
        ("timm:mobilenetv4_conv_smal", {}, "no network 'mobilenetv4_conv_smal'. Did you mean mobilenetv4_conv_small"),
        ("timm:hgnetv2_b0.ssld", {}, "hgnetv2_b0 has no weights 'ssld'"),
        ("timm:hf-hub:someone/net", {}, "write 'timm:NAME'"),
        ("timm:efficientvit_m0", {}, "maps of stride 16, 32, 64, and a pyramid needs"),
        ("timm:vit_tiny_patch16_224", {"frozen_stages": 1}, "has no stages"),
        ("timm:vit_small_patch14_dinov2", {}, r"should be divisible by patch size \(14\)"),
        ("timm:maxvit_rmlp_pico_rw_256", {}, "must be divisible by window"),
        slow("timm:mvitv2_tiny", {}, "does not take images of any size"),
        slow("timm:inception_v3", {}, "maps of other sizes"),
        (MOBILENET, {"norm": "gn"}, "write 'frozen_bn' or 'bn'"),
        (MOBILENET, {"frozen_stages": 5}, "4 freezes all four stages"),
        (MOBILENET, {"outputs": (3, 1)}, "in ascending order"),
        (MOBILENET, {"deformable": (2,)}, "has no argument 'deformable'"),
        ("timn:convnext_atto", {}, "or 'timm:NAME' for one of timm"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(backbone: str, args: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(backbone=backbone, **args)
