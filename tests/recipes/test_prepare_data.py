"""The data sets of the experiments, from small copies of their authors' repositories."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pkdzoo.data import CocoDataset
from recipes.experiments import prepare_data

XML = (
    "<annotation><object><name>WBC</name><bndbox><xmin>1</xmin><ymin>3</ymin><xmax>20</xmax><ymax>12</ymax></bndbox>"
    "</object><object><name>RBC</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    "</annotation>"
)


def bccd(root: Path) -> Path:
    folder = root / "BCCD"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    for split, names in (("train", ["b", "a"]), ("val", ["c"]), ("test", ["d"])):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            (folder / "Annotations" / f"{name}.xml").write_text(XML)
            Image.new("RGB", (64, 48)).save(folder / "JPEGImages" / f"{name}.jpg")
    return root


def deeppcb(root: Path) -> Path:
    folder = root / "PCBData"
    for file, name in (("trainval.txt", "20085000"), ("test.txt", "12000187")):
        group = name[:5]
        for part in (group, f"{group}_not"):
            (folder / f"group{group}" / part).mkdir(parents=True)
        line = f"group{group}/{group}/{name}.jpg group{group}/{group}_not/{name}.txt\n"
        (folder / file).write_text(line)
        (folder / f"group{group}" / f"{group}_not" / f"{name}.txt").write_text("4 5 24 15 6\n")
        Image.new("L", (64, 48)).save(folder / f"group{group}" / group / f"{name}_test.jpg")
    return root


def boxes(folder: Path, split: str) -> list[list[float]]:
    data = CocoDataset(folder / "annotations" / f"instances_{split}.json", folder / "images")
    return [data.load_instances(k).boxes.tolist() for k in range(len(data))]


def test_bccd_has_the_boxes_of_its_xml_files(tmp_path: Path) -> None:
    same = prepare_data.prepare(bccd(tmp_path / "clone"), tmp_path / "out")
    assert same == {"train": False, "val": False, "test": False}  # it is not the published data
    assert boxes(tmp_path / "out", "train") == [[[0.0, 2.0, 20.0, 12.0]]] * 2  # without the object of width 0
    content = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["c.jpg"]
    assert (content["images"][0]["id"], content["images"][0]["width"], content["images"][0]["height"]) == (3, 64, 48)
    assert [each["name"] for each in content["categories"]] == ["RBC", "WBC", "Platelets"]
    assert content["annotations"][0]["category_id"] == 2


def test_deeppcb_has_the_boxes_of_its_lines(tmp_path: Path) -> None:
    prepare_data.prepare(deeppcb(tmp_path / "clone"), tmp_path / "out")
    assert boxes(tmp_path / "out", "train") == boxes(tmp_path / "out", "val") == [[[4.0, 5.0, 24.0, 15.0]]]
    content = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())
    assert content["annotations"][0]["category_id"] == 6
    assert (tmp_path / "out/images/12000187_test.jpg").is_file()


def test_the_script_says_whether_it_is_the_published_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = deeppcb(tmp_path / "clone")
    with pytest.raises(SystemExit, match=r"train, val of .* differ from the data of the published results"):
        prepare_data.main([str(clone), "--output", str(tmp_path / "one")])
    found = {
        split: hashlib.sha256((tmp_path / "one" / "annotations" / f"instances_{split}.json").read_bytes()).hexdigest()
        for split in ("train", "val")
    }
    readers = {"PCBData/trainval.txt": (replace(prepare_data.DEEPPCB, sha256=found), prepare_data.deeppcb_images)}
    monkeypatch.setattr(prepare_data, "READERS", readers)
    prepare_data.main([str(clone), "--output", str(tmp_path / "two")])
    assert "train, val, the data of the published results" in capsys.readouterr().out


def test_other_folders_and_existing_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no clone of BCCD_Dataset or DeepPCB"):
        prepare_data.main([str(tmp_path), "--output", str(tmp_path / "out")])
    (tmp_path / "out" / "annotations").mkdir(parents=True)
    with pytest.raises(SystemExit, match="out"):
        prepare_data.main([str(bccd(tmp_path / "clone")), "--output", str(tmp_path / "out")])


def test_the_published_results_are_of_this_data() -> None:
    """The hashes in the script are those of the result files."""
    results = Path(prepare_data.__file__).parent / "results"
    for source, experiment in ((prepare_data.BCCD, "rtmdet_bccd"), (prepare_data.DEEPPCB, "rtmdet_deeppcb")):
        for file in (results / experiment).glob("*.json"):
            assert source.sha256["val"] in file.read_text(), file.name
