"""A published folder holds what it should, and nothing that is nobody's business."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import safe_open

import pkdzoo
from pkdzoo.checkpoints import save_safetensors
from pkdzoo.hub.upload import check_private, listing, push_folder, write_repository
from pkdzoo.models._card import card_of, describe_card
from pkdzoo.models._config import describe
from pkdzoo.structures import Letterbox, PixelNorm
from pkdzoo.training.report.charts import Line, standalone
from pkdzoo.utils.private_text import strip_local_paths


@pytest.fixture
def model() -> pkdzoo.Detector:
    return pkdzoo.create_detector("retina_r10w16", label_names=["cat", "dog"])


def publish(model: pkdzoo.Detector, folder: Path, **more: object) -> Path:
    card = describe_card(model, "MIT", "pets", "CC0-1.0", **more)
    return write_repository(folder, model.state_dict(), describe(model), card)


def test_files(model: pkdzoo.Detector, tmp_path: Path) -> None:
    metrics = {"AP": 12.0, "per_class": {"cat": 20.0, "dog": 4.0}, "command": "evaluate.py /home/ann/run --data x"}
    folder = publish(model, tmp_path / "a", metrics=metrics, provenance={"seed": 3})
    names = ["LICENSE", "README.md", "config.json", "metrics.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(p.name for p in folder.rglob("*")) == names
    assert [line.split()[-1] for line in listing(folder).splitlines()] == names
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(model.state_dict())
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "dog"}
    assert "pretrained_cfg" not in config
    own = config["pkdzoo_cfg"]
    assert own["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (own["license"], own["provenance"], own["resize"]) == ("MIT", {"seed": 3}, list(model.resize))
    assert own["AP"] == 12.0
    licenses = "- these weights: MIT\n- data set pets: CC0-1.0\n"
    assert (folder / "LICENSE").read_text() == licenses and licenses in (folder / "README.md").read_text()
    assert json.loads((folder / "metrics.json").read_text())["command"] == "evaluate.py run --data x"
    again = pkdzoo.create_detector(f"local-dir:{folder}")
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    first, second = (m.predict(image, threshold=0.0) for m in (model, again))
    assert torch.equal(first.boxes, second.boxes)
    assert torch.equal(first.scores, second.scores)


def test_coco_files(tmp_path: Path) -> None:
    model = pkdzoo.create_detector("retina_r10w16", label_names="coco")
    folder = write_repository(tmp_path / "a", model.state_dict(), describe(model), card_of("retina_r50_pkd_swin"))
    assert (folder / ".eval_results" / "coco-2017.yaml").is_file()
    config = json.loads((folder / "config.json").read_text())
    assert config["label_to_coco_id"]["79"] == 90
    provenance = config["pkdzoo_cfg"]["provenance"]
    assert (provenance["teacher"], provenance["AP"]["teacher"]) == ("mask_rcnn_swin_s.coco_3x", 48.2)
    assert provenance["AP"] == {"teacher": 48.2, "plain": 37.4, "distilled": 41.5}
    assert provenance["methods"] == ["pkd"]


def test_pixels_in_the_words_of_others(tmp_path: Path) -> None:
    model = pkdzoo.create_detector("retina_r10w16", pixel_norm=PixelNorm((103.5, 116.0, 123.7), (1.0, 1.0, 1.0), "bgr"))
    content = json.loads((model.save_pretrained(tmp_path) / "preprocessor_config.json").read_text())
    assert content["do_flip_channel_order"] is True
    assert "image_processor_type" not in content
    # (x / 255 - mean) / std of theirs is our (x - mean) / std
    x = 200.0
    theirs = (x * content["rescale_factor"] - content["image_mean"][0]) / content["image_std"][0]
    assert theirs == pytest.approx(x - 103.5)
    rgb = pkdzoo.create_detector("retina_r10w16").save_pretrained(tmp_path / "rgb")
    content = json.loads((rgb / "preprocessor_config.json").read_text())
    assert content["size"] == {"shortest_edge": 800, "longest_edge": 1333}
    assert content["image_mean"] == pytest.approx([0.485, 0.456, 0.406])


def test_a_letterbox_in_the_words_of_others(tmp_path: Path) -> None:
    square = pkdzoo.create_detector("rtmdet_w12", num_classes=2, resize=(320, 320)).save_pretrained(tmp_path / "a")
    content = json.loads((square / "preprocessor_config.json").read_text())
    assert content["size"] == {"max_height": 320, "max_width": 320}
    assert content["pad_size"] == {"height": 320, "width": 320} and "size_divisor" not in content
    assert content["letterbox"]["fill"] == 114
    assert "image_processor_type" not in content  # none of other libraries pads with gray
    of_strides = pkdzoo.create_detector(
        "rtmdet_w12", num_classes=2, resize=(320, 320), letterbox=Letterbox(canvas="stride")
    )
    content = json.loads((of_strides.save_pretrained(tmp_path / "b") / "preprocessor_config.json").read_text())
    assert "pad_size" not in content and content["size_divisor"] == 32


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"map": 37.0}, r"metrics has 'map': write the names of pkdzoo eval\. .*mask_AP"),
        ({"AP": 0.374, "AP50": 0.567}, r"in percent: write 100 times as much, e\.g\. 56\.7 for 0\.567"),
        ({"AP": 101.0}, "AP is 101.0 in its metrics and should be in percent"),
        ({"AP": -1.0, "AP50": 3.0}, "AP is -1.0 in its metrics and should be in percent"),
        ({"AP": 3.0, "AP50": True}, "AP50 is True in its metrics and should be a number"),
        ({"AP": 37.0, "weights_sha256": "0" * 64}, "were measured with other weights.*: evaluate these"),
    ],
)
def test_metrics_that_callers_state_are_checked(model: pkdzoo.Detector, metrics: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.push_to_hub("org/pets", "MIT", "pets", "CC0-1.0", metrics=metrics)


def test_unknown_licenses_write_nothing(model: pkdzoo.Detector, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"licenses of the weights and of the data set .* are unknown"):
        write_repository(tmp_path / "a", model.state_dict(), describe(model), describe_card(model, "unknown", "pets"))
    assert not (tmp_path / "a").exists()


def test_full_folders_are_refused(model: pkdzoo.Detector, tmp_path: Path) -> None:
    (tmp_path / "optimizer.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="is not empty"):
        publish(model, tmp_path)


LEAKS = {
    "/home/ann/data": "a local path",
    "see /data/coco/val": "a local path",
    "--data=/mnt/big/coco": "a local path",
    "~/runs/a": "a local path",
    "../../secret/a": "a local path",
    "C:\\\\Users\\\\ann": "a local path",
    "key hf_abcdefghijklmnopqrstuv": "a token",
    "https://ann:pass@host/x": "a token",
    "local-dir:/home/ann/runs/big/best": "a local path",
    "file:///data/zoo/x.pth": "a local path",
    "C:/Users/ann/runs": "a local path",
    "on /my disk/coco/train": "a local path",
    "//server/share/coco": "a local path",
    "\\\\server\\share\\coco": "a local path",
    "$HOME/runs/a": "a local path",
    "${DATA}/coco": "a local path",
    "%USERPROFILE%\\runs": "a local path",
    "D:\\my data\\coco": "a local path",
    "~ann/runs": "a local path",
    "\\/home\\/ann\\/x": "a local path",
    **dict.fromkeys(
        (
            "file://192.168.1.5/share/coco",
            "file://server/share",
            "smb://10.0.0.5/coco",
            "//192.168.1.5/share/coco",
            "//[fe80::1]/share/coco",
            "192.168.1.5:/export/coco",
            "[fe80::1]:/export/coco",
            "nas2:/export/coco",
            "ann@10.0.0.5:data/coco",
            "\\\\192.168.1.5\\share\\coco",
            "\\\\?\\UNC\\server\\share",
        ),
        "a local path",
    ),
    **dict.fromkeys(
        (
            "ghs_" + "a1" * 18,
            "ghp\\_" + "a1" * 18,
            "github_pat_" + "a1" * 20,
            "AKIA" + "A1" * 8,
            "npm_" + "a1" * 18,
            "xoxb-123456789012-abcdefabcdef",
            "AIza" + "a1" * 17,
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
            "https://host/x.pth?token=abcdef",
            "https://host/x.pth?a=1&access_token=abcdef",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
        ),
        "a token",
    ),
}


@pytest.mark.parametrize(("text", "kind"), LEAKS.items())
def test_leaks_are_found(model: pkdzoo.Detector, tmp_path: Path, text: str, kind: str) -> None:
    folder = publish(model, tmp_path / "a")
    with open(folder / "README.md", "a", encoding="utf-8") as file:
        file.write(f"\n{text}\n")
    with pytest.raises(ValueError, match=rf"README\.md has .*{kind}"):
        check_private(folder)
    advice = "Change it there and publish again" + (".*, and revoke the token" if kind == "a token" else "")
    with pytest.raises(ValueError, match=f"nothing is published: .*{advice}"):
        push_folder(folder, "org/name")


@pytest.mark.parametrize(
    "text",
    [
        "https://host/a/b/c",
        "and/or",
        "recipes/pkd/a.py",
        "<https://a/b/c>",
        "1/2 /x",
        "a: b",
        "https://h/x?versionId=ab1",
        "hf-hub:org/name@v1/x",
        "AP / AR / x",
        "s3://bucket/a/b",
        "km/h and m/s",
        "$x/y$",
        "http://10.0.0.5:8080/a/b",
        "ann@example.org: write to me",
        "git@github.com:org/repo.git",
        "pip install pkdzoo@git+https://github.com/org/repo",
        "https://ann@example.org:443/org/repo",
        "https://huggingface.co/org/name@main:weights/a",
        "at 12:30 and 1:2",
        "risk-taking-is-no-secret-at-all",
    ],
)
def test_harmless_words_are_not(model: pkdzoo.Detector, tmp_path: Path, text: str) -> None:
    folder = publish(model, tmp_path / "a")
    (folder / "README.md").write_text(text)
    check_private(folder)


def test_a_user_called_like_a_word_on_every_card_can_publish(
    model: pkdzoo.Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):  # where getpass looks
        monkeypatch.setenv(name, "python")
    folder = publish(model, tmp_path / "a")
    assert "```python" in (folder / "README.md").read_text()
    check_private(folder)


def test_other_files_and_heads_of_tensors(model: pkdzoo.Detector, tmp_path: Path) -> None:
    folder = publish(model, tmp_path / "a")
    save_safetensors(model.state_dict(), folder / "model.safetensors", {"from": "/home/ann/run/last"})
    with pytest.raises(ValueError, match=r"model\.safetensors has .*home/ann"):
        check_private(folder)
    publish(model, tmp_path / "b")
    (tmp_path / "b" / "rest.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"rest\.pt cannot be published"):
        check_private(tmp_path / "b")


def test_paths_are_shortened() -> None:
    for text in (
        "/my disk/coco",
        "//server/share/coco",
        "$HOME/coco",
        "C:\\data\\coco",
        "~/coco",
        "\\\\server\\share\\coco",
    ):
        assert strip_local_paths(f"--data {text} --seed 1") == "--data coco --seed 1"
    assert strip_local_paths("in /home/ann") == "in ~"
    assert (
        strip_local_paths("recipes/train.py x.py --data /data/coco/ -o=/a/b")
        == "recipes/train.py x.py --data coco -o=b"
    )
    assert strip_local_paths({"a": ["/x/y", 1, None], "b": "https://h/a/b"}) == {
        "a": ["y", 1, None],
        "b": "https://h/a/b",
    }


def with_text(path: Path) -> Path:
    """A PNG with everything that a file can hold besides its pixels."""
    info = PngInfo()
    info.add_text("Comment", "made in /home/ann by hf_abcdefghijklmnopqrstuv")
    info.add_itxt("Author", "Ann Smith", zip=True)
    exif = Image.Exif()
    exif[0x013B] = "Ann Smith"
    Image.new("RGB", (8, 6), "teal").save(path, pnginfo=info, exif=exif, icc_profile=b"Ann Smith", dpi=(9, 9))
    with open(path, "ab") as file:
        file.write(b"Ann Smith, after the end")
    return path


def test_images_are_published_as_pixels_alone(model: pkdzoo.Detector, tmp_path: Path) -> None:
    sheet = with_text(tmp_path / "sheet.png")
    card = describe_card(model, "MIT", "pets", "CC0-1.0", image="predictions.png")
    folder = write_repository(tmp_path / "a", model.state_dict(), describe(model), card, sheet)
    assert "(predictions.png)" in (folder / "README.md").read_text()
    with Image.open(folder / "predictions.png") as image:
        image.load()
        assert (image.size, image.getpixel((0, 0)), image.info) == ((8, 6), (0, 128, 128), {})
    content = (folder / "predictions.png").read_bytes()
    assert not any(word in content for word in (b"Ann", b"home", b"hf_", b"tEXt", b"eXIf", b"iCCP"))
    (folder / "predictions.png").write_bytes(sheet.read_bytes())  # put there by hand after a dry run
    with pytest.raises(ValueError, match=r"predictions\.png holds more than the pixels.*--image"):
        push_folder(folder, "org/name")


def test_no_link_is_published(model: pkdzoo.Detector, tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("private")
    link = tmp_path / "sheet.png"
    link.symlink_to(secret)
    card = describe_card(model, "MIT", "pets", "CC0-1.0", image="predictions.png")
    with pytest.raises(ValueError, match=r"sheet\.png is a symbolic link"):
        write_repository(tmp_path / "a", model.state_dict(), describe(model), card, link)
    folder = publish(model, tmp_path / "b")
    (folder / "metrics.json").symlink_to(secret)
    with pytest.raises(ValueError, match=r"metrics\.json is a symbolic link"):
        push_folder(folder, "org/name")
    (folder / "metrics.json").unlink()
    (folder / ".eval_results").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"eval_results is a symbolic link"):
        push_folder(folder, "org/name")


@pytest.mark.parametrize(
    "change",
    [
        ("<line ", '<line onload="alert(1)" '),
        ("<line ", '<image href="https://host/x.png"/><line '),
        ("<line ", "<script>alert(1)</script><line "),
        ("<line ", "<a><line "),
        ("<line ", "<!-- by Ann Smith --><line "),
        ("<svg ", '<!DOCTYPE svg [<!ENTITY a "b">]><svg '),
        ("<style>", "<style>@import 'https://host/x.css';"),
        ("<style>", "<style>text{fill:u\\72l(https://host)}"),
    ],
)
def test_plots_hold_lines_and_text_alone(model: pkdzoo.Detector, tmp_path: Path, change: tuple[str, str]) -> None:
    """A folder that was published before may be a stranger's, and its plots are published as they are."""
    drawing = standalone([Line("a & b", [(0, 1), (1, 2)], "plain"), Line("c", [(0, 3)], "teacher")], "epoch", "AP")
    folder = publish(model, tmp_path / "a")
    (folder / "ap_by_epoch.svg").write_text(drawing)
    check_private(folder)
    (folder / "ap_by_epoch.svg").write_text(drawing.replace(*change, 1))
    with pytest.raises(ValueError, match=r"ap_by_epoch\.svg is no plot as pkdzoo draws it, because it (has|is) "):
        push_folder(folder, "org/name")


@pytest.mark.parametrize("name", ["name", "a/b/c", "../..", "-a/--b", "org/a b", "org/.."])
def test_names_that_no_repository_has(model: pkdzoo.Detector, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="write ORGANIZATION/NAME"):
        push_folder(publish(model, tmp_path / "a"), name)


@pytest.mark.parametrize("license", ["MIT\n\n# Apache-2.0", " MIT", "M\u202eIT", "x" * 1001])
def test_a_license_is_one_line(model: pkdzoo.Detector, tmp_path: Path, license: str) -> None:
    """With more lines the folder was written, and could not be opened."""
    for licenses in ((license, "CC0-1.0"), ("MIT", license)):
        with pytest.raises(ValueError, match=r"write the license of the .* in one line of at most 1000 characters"):
            write_repository(
                tmp_path / "a", model.state_dict(), describe(model), describe_card(model, licenses[0], "a", licenses[1])
            )
    assert not (tmp_path / "a").exists()
