"""Every layout in which data sets are published is read: by check, convert, preview, eval and training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import trees
from helpers.commands import fails, run
from helpers.scripts import ROOT, launch

from pkdzoo.data import check_headers, find_split, open_dataset
from pkdzoo.data.formats.base import split_of
from pkdzoo.data.formats.labelme import to_coco
from pkdzoo.data.formats.read import TABLE, find_format, splits_of
from pkdzoo.training import Data
from pkdzoo.training.build import find_data

XYXY = {name: [float(v) for v in box] for name, box in trees.BOXES.items()}


def meaning(root: Path, split: str) -> dict[str, list[tuple[str, list[float]]]]:
    """Class and box of each object by image, and the order of the classes."""
    dataset = open_dataset(root, split)
    assert dataset.label_names == ["green", "red"]
    assert check_headers(dataset) == []
    found = {}
    for k in range(len(dataset)):
        sample = dataset[k]
        labels = [dataset.label_names[label] for label in sample.instances.labels.tolist()]
        assert sample.size == (trees.HEIGHT, trees.WIDTH)
        found[Path(dataset.file_name(k)).stem] = sorted(zip(labels, sample.instances.boxes.tolist()))
    return found


def expected(split: str) -> dict[str, list[tuple[str, list[float]]]]:
    return {name: sorted(XYXY.items()) for name in trees.NAMES[split]}


@pytest.mark.parametrize("name", trees.TREES)
def test_every_layout_is_read_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    root = trees.write(name, tmp_path / "data")
    assert find_format(root) == trees.TREES[name][0]
    assert splits_of(root) == ["train", "val"]
    for split in ("train", "val"):
        assert meaning(root, split) == expected(split)
        assert find_split(root, "valid") == find_split(root, "validation") == find_split(root, "val")
    paths = find_data(Data(), root)
    assert (paths.train, paths.val) == (find_split(root, "train"), find_split(root, "val"))
    code, out, _ = run(capsys, "data", "check", root, "--json")
    report = json.loads(out)
    assert code == 0 and report["errors"] == 0 and report["format"] == trees.TREES[name][0]
    assert [part["images"] for part in report["splits"]] == [3, 2]
    assert [finding["what"] for part in [report, *report["splits"]] for finding in part["findings"]] == []
    target = "yolo" if report["format"] == "coco" else "coco"
    assert run(capsys, "data", "convert", root, tmp_path / "out", "--to", target)[0] == 0
    for split in ("train", "val"):
        assert meaning(tmp_path / "out", split) == expected(split)
    assert run(capsys, "data", "preview", root, "--split", "val", "--output", tmp_path / "sheet.png")[0] == 0


def test_the_table_has_a_layout_of_each_format() -> None:
    assert {kind for kind, _ in trees.TREES.values()} == set(TABLE)


def test_the_manual_lists_the_table() -> None:
    lines = (ROOT / "docs" / "own_data.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("| `")] == [
        f"| `{name}` | {row.tree} |" for name, row in TABLE.items()
    ]


@pytest.mark.parametrize("kind", ["xml", "json", "root_xml", "csv"])
def test_an_undivided_set_is_train(tmp_path: Path, kind: str) -> None:
    for name in trees.NAMES["train"]:
        trees.image(tmp_path if kind == "root_xml" else tmp_path / "images", name)
        if kind == "xml":
            trees.xml(tmp_path / "annotations" / f"{name}.xml", name)
        elif kind == "root_xml":
            trees.xml(tmp_path / f"{name}.xml", name)
        elif kind == "json":
            trees.labelme_json(tmp_path / "images" / f"{name}.json", name)
    if kind == "csv":
        trees.text(tmp_path / "my_boxes.csv", trees.csv_of(trees.NAMES["train"]))
    assert splits_of(tmp_path) == ["train"]
    assert meaning(tmp_path, "train") == expected("train")
    with pytest.raises(ValueError, match=r"no annotations for the val split: .* has train\. .*--hold-out"):
        find_split(tmp_path, "val")


@pytest.mark.parametrize(("name", "suffix"), [("xml_apart", ".xml"), ("csv_beside", ".csv"), ("yolo", ".txt")])
def test_utf_16_is_read(tmp_path: Path, name: str, suffix: str) -> None:
    root = trees.write(name, tmp_path)
    for path in root.rglob(f"*{suffix}"):
        path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))
    assert meaning(root, "val") == expected("val")


def test_names_with_backslashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = trees.write("coco", tmp_path / "coco")
    (root / "images/val").rename(root / "images/sub")
    (root / "images/val").mkdir()
    (root / "images/sub").rename(root / "images/val/sub")
    file = root / "annotations/instances_val.json"
    file.write_text(file.read_text().replace('"file_name": "', '"file_name": "sub\\\\'))
    assert meaning(root, "val") == expected("val")
    assert run(capsys, "data", "convert", root, tmp_path / "out", "--to", "yolo")[0] == 0
    assert meaning(tmp_path / "out", "val") == expected("val")
    yolo = trees.write("yolo", tmp_path / "yolo")
    trees.text(yolo / "train.txt", "".join(f".\\images\\train\\{name}.png\r\n" for name in trees.NAMES["train"]))
    trees.text(yolo / "data.yaml", "train: train.txt\nval: images\\val\nnames: [green, red]\n")
    assert meaning(yolo, "train") == expected("train") and meaning(yolo, "val") == expected("val")


def test_names_of_splits() -> None:
    assert [split_of(name) for name in ("Train", "valid", "VALIDATION", "dev", "testing", "minival")] == [
        "train", "val", "val", "val", "test", "minival",
    ]  # fmt: skip


def test_nothing_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pictures").mkdir()
    message = fails(capsys, "data", "check", tmp_path)
    assert "holds pictures/" in message
    for row in TABLE.values():
        assert row.tree in message


def test_a_second_file_of_a_split_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.coco(tmp_path)
    for name in ("valid", "minival"):
        trees.text(tmp_path / f"annotations/instances_{name}.json", json.dumps(trees.coco_content(("p101",))))
    out = run(capsys, "data", "check", tmp_path)[1]
    assert "instances_minival.json" in out and "instances_valid.json" in out
    assert find_split(tmp_path, "val")[0].name == "instances_val.json"
    assert find_split(tmp_path, "minival")[0].name == "instances_minival.json"


def test_two_formats_in_one_folder(tmp_path: Path) -> None:
    trees.write("labelme", tmp_path)
    trees.per_image(tmp_path, trees.xml, ".xml", "{split}", "{split}", "dev")
    with pytest.raises(
        ValueError, match=r"holds both XML and labelme annotations: choose one, .*\*\.xml or .*\*\.json"
    ):
        find_format(tmp_path)
    assert find_split(tmp_path, "train", json=tmp_path / "train" / "*.json")[1] == tmp_path / "train"
    trees.coco(tmp_path)
    assert find_format(tmp_path) == "coco"


class TestClassOrder:
    def test_files_decide(self, tmp_path: Path) -> None:
        for name, lines in (("labels.txt", "__ignore__\n_background_\nred\ngreen\n"), ("classes.txt", "red\ngreen\n")):
            for tree in ("labelme", "xml_beside", "csv_beside"):
                root = trees.write(tree, tmp_path / name / tree)
                trees.text(root / name, lines)
                assert open_dataset(root, "val").label_names == ["red", "green"]

    @pytest.mark.parametrize("tree", ["labelme", "xml_beside", "csv_beside"])
    def test_alphabetical_over_all_splits(self, tmp_path: Path, tree: str) -> None:
        root = trees.write(tree, tmp_path)
        for path in [*(root / "train").iterdir()]:
            if path.suffix != ".png":
                path.write_text(path.read_text().replace("green", "amber"))
        assert open_dataset(root, "train").label_names == ["amber", "green", "red"]
        assert open_dataset(root, "val").label_names == ["amber", "green", "red"]


class TestLabelme:
    def write(self, root: Path, *shapes: dict, **more: object) -> Path:
        trees.image(root, "p1")
        trees.text(root / "p1.json", json.dumps({"shapes": shapes, "imagePath": "..\\old\\p1.png", **more}))
        return root

    def test_shapes(self, tmp_path: Path) -> None:
        shapes = [
            {"label": "a", "points": [[10, 12], [30, 4], [20, 40]], "shape_type": "polygon"},
            {"label": "a", "points": [[50, 30], [50, 40]], "shape_type": "circle"},
            {"label": "b", "points": [[3, 3]], "shape_type": "point"},
        ]
        root = self.write(tmp_path, *shapes)
        dataset = open_dataset(root, "train", with_masks=False)
        assert dataset[0].instances.boxes.tolist() == [[10, 4, 30, 40], [40, 20, 60, 40]]
        assert dataset.label_names == ["a"]

    def test_shapes_of_one_group_are_parts_of_one_object(self, tmp_path: Path) -> None:
        part = {"label": "a", "shape_type": "polygon", "group_id": 1}
        shapes = [
            {**part, "points": [[10, 12], [30, 4], [20, 40]]},
            {**part, "label": "b", "points": [[1, 1], [9, 1], [9, 9]]},
            {**part, "points": [[50, 20], [58, 20], [58, 30], [50, 30]]},
            {**part, "group_id": None, "points": [[2, 30], [9, 30], [9, 38]]},
            {**part, "group_id": None, "points": [[12, 2], [19, 2], [19, 8]]},
        ]
        dataset = open_dataset(self.write(tmp_path, *shapes), "train", with_masks=True)
        objects = dataset[0].instances
        assert objects.boxes.tolist() == [[10, 4, 58, 40], [1, 1, 9, 9], [2, 30, 9, 38], [12, 2, 19, 8]]
        assert objects.labels.tolist() == [0, 1, 0, 0]
        assert bool(objects.masks[0, 15, 20]) and bool(objects.masks[0, 25, 54]) and not bool(objects.masks[0, 25, 40])
        area = to_coco(tmp_path / "*.json")["annotations"][0]["area"]
        assert area == 320 + 80

    def test_shapes_with_an_empty_group_are_objects_of_their_own(self, tmp_path: Path) -> None:
        shapes = [
            {"label": "a", "group_id": "", "shape_type": "rectangle", "points": points}
            for points in ([[1, 1], [9, 9]], [[20, 20], [40, 40]])
        ]
        objects = open_dataset(self.write(tmp_path, *shapes), "train")[0].instances
        assert objects.boxes.tolist() == [[1, 1, 9, 9], [20, 20, 40, 40]]

    def images(self, root: Path, annotations: dict[str, str], files: list[str], apart: str = "") -> dict[str, str]:
        """Image files by annotation, for the ``imagePath`` of each annotation and the files there are."""
        shape = {"label": "a", "shape_type": "rectangle", "points": [[1, 1], [9, 9]]}
        size = {"imageHeight": 64, "imageWidth": 96}
        for name, stated in annotations.items():
            trees.text(root / apart / f"{name}.json", json.dumps({"shapes": [shape], "imagePath": stated, **size}))
        for file in files:
            place = root / ("images" if apart else "") / file
            trees.image(place.parent, place.stem)
            if place.suffix != ".png":
                place.with_suffix(".png").rename(place)
        dataset = open_dataset(root, "train")
        return dict(zip(sorted(annotations), (dataset.file_name(k) for k in range(len(dataset)))))

    def test_images_of_one_name_in_several_folders_stay_apart(self, tmp_path: Path) -> None:
        found = self.images(tmp_path, {"p1": "p1.png", "b/p1": "p1.png", "c/p1": "p1.png"}, ["p1.png", "c/p1.png"])
        assert found == {"p1": "p1.png", "b/p1": "b/p1.png", "c/p1": "c/p1.png"}  # b/p1.png is missing: no other image
        assert open_dataset(tmp_path, "train").check_files() == ["b/p1.png"]

    def test_the_suffix_of_the_image_is_the_stated_one(self, tmp_path: Path) -> None:
        found = self.images(tmp_path, {"p1": "p1.png", "p2": "p2.jpg"}, ["p1.jpg", "p2.jpg", "p2.png", "p1.png"])
        assert found == {"p1": "p1.png", "p2": "p2.jpg"}

    def test_the_stated_folder_decides_among_images_of_one_name(self, tmp_path: Path) -> None:
        stated = {"one": "..\\images\\cam1\\p1.png", "two": "../images/cam2/p1.png", "p3": "old.png", "p4": "p4.png"}
        files = ["cam1/p1.png", "cam2/p1.png", "cam2/p3.png", "cam1/p4.png", "cam2/p4.png"]
        found = self.images(tmp_path, stated, files, apart="annotations")
        assert found == {"one": "cam1/p1.png", "two": "cam2/p1.png", "p3": "cam2/p3.png", "p4": "p4.png"}
        assert open_dataset(tmp_path, "train").check_files() == ["p4.png"]  # of two images none can be chosen

    def test_two_annotations_never_stand_for_one_image(self, tmp_path: Path) -> None:
        found = self.images(tmp_path, {"a/p1": "p1.png", "b/p1": "p1.png"}, ["p1.png", "p2.png"], apart="annotations")
        assert found == {"a/p1": "a/p1.png", "b/p1": "b/p1.png"}

    def test_what_is_left_out_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        box = {"label": "a", "points": [[10, 12], [30, 20]], "shape_type": "rectangle"}
        point = {"label": "b", "points": [[3, 3]], "shape_type": "point"}
        root = self.write(tmp_path / "data", box, point)
        assert "shapes without a box or a class, left out (points, lines, __ignore__): 1" in run(
            capsys, "data", "check", root
        )[1]  # fmt: skip
        assert "not converted: 1 shapes without a box" in run(
            capsys, "data", "convert", root, tmp_path / "out", "--to", "coco"
        )[1]  # fmt: skip

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ({"label": "a", "points": [[1, 2], [3, "4"]], "shape_type": "rectangle"}, "no usable 'points'"),
            ({"label": "a", "points": [[1, 2], [3, 1e999]], "shape_type": "rectangle"}, "Infinity is not a number"),
            ({"points": [[1, 2], [3, 4]], "shape_type": "rectangle"}, "label = None; it is the name of the class"),
        ],
    )
    def test_damaged_shapes_are_named(self, tmp_path: Path, shape: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            open_dataset(self.write(tmp_path, shape), "train")
        assert "p1.json" in str(caught.value)


class TestCsv:
    def write(self, root: Path, content: str) -> Path:
        trees.image(root / "images", "p1")
        trees.text(root / "boxes.csv", content)
        return root

    def boxes(self, root: Path) -> list[list[float]]:
        boxes: list[list[float]] = open_dataset(root, "train")[0].instances.boxes.tolist()
        return boxes

    @pytest.mark.parametrize(
        "content",
        [
            "image;label;x1;y1;x2;y2\np1.png;red;10;12;40;32\n",
            "\ufeffImage_ID,Label,XMin,XMax,YMin,YMax\np1,red,10,40,12,32\n",
            "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\n"
            "red,10,12,30,20,p1.png,96,64\n",
            'path,class,xmin,ymin,xmax,ymax\n"C:\\data\\p1.png",red,10,12,40,32\n',
        ],
    )
    def test_columns(self, tmp_path: Path, content: str) -> None:
        assert self.boxes(self.write(tmp_path, content)) == [[10, 12, 40, 32]]

    def test_names_from_elsewhere_stand_for_one_file_or_none(self, tmp_path: Path) -> None:
        lines = "".join(f"{name},red,10,12,40,32\n" for name in ("p1.png", "/x/cam1/p2.png", "p3.png", "cam2/p3.png"))
        root = self.write(tmp_path, f"filename,class,xmin,ymin,xmax,ymax\n{lines}")
        for folder, name in (("cam1", "p2"), ("cam2", "p2"), ("cam1", "p3"), ("cam2", "p3"), ("cam3", "p3")):
            trees.image(root / "images" / folder, name)
        dataset = open_dataset(root, "train")
        assert [dataset.file_name(k) for k in range(4)] == ["p1.png", "cam1/p2.png", "p3.png", "cam2/p3.png"]
        assert dataset.check_files() == ["p3.png"]  # of three images of this name, none can be chosen

    def test_two_names_never_stand_for_one_file(self, tmp_path: Path) -> None:
        names = ("cam1/p2.png", "cam2/p2.png", "cam2/p3.png", "/x/cam3/p4.png", "cam4/p4.png")
        lines = "".join(f"{name},red,10,12,40,32\n" for name in ("p1.png", *names, "./cam1/p2.png"))
        root = self.write(tmp_path, f"filename,class,xmin,ymin,xmax,ymax\n{lines}")
        for name in ("p2", "p3"):
            trees.image(root / "images" / "cam1", name)
        trees.image(root / "images", "p4")
        dataset = open_dataset(root, "train")
        found = [dataset.file_name(k) for k in range(len(dataset))]
        assert found == ["p1.png", "cam1/p2.png", "cam2/p2.png", "cam1/p3.png", "x/cam3/p4.png", "cam4/p4.png"]
        assert dataset.check_files() == ["cam2/p2.png", "x/cam3/p4.png", "cam4/p4.png"]
        assert len(dataset.load_instances(1)) == 2

    def test_an_image_without_objects(self, tmp_path: Path) -> None:
        root = self.write(tmp_path, "filename,class,xmin,ymin,xmax,ymax\np1.png,red,10,12,40,32\np2.png,,,,,\n")
        trees.image(root / "images", "p2")
        assert open_dataset(root, "train").report.empty_images == 1

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                "filename,class,xmin,ymin,xmax,ymax\np1.png,red,0.1,0.2,0.3,0.4\n",
                "all corners are at most 1, fractions",
            ),
            ("filename,class,xmin,ymin,xmax,ymax\np1.png,red,10,x,40,32\n", r"boxes\.csv, line 2: 'x' is no number"),
            ("filename,class,xmin,ymin,xmax,ymax\np1.png,,10,12,40,32\n", "line 2 has a box but no class"),
            ("filename,class,xmin,ymin,xmax,ymax\nother.png,red,10,12,40,32\n", "none of its first 1 image "),
        ],
    )
    def test_refusals(self, tmp_path: Path, content: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            open_dataset(self.write(tmp_path, content), "train")

    def test_a_header_that_does_not_name_a_box(self, tmp_path: Path) -> None:
        root = self.write(tmp_path, "filename,class,x,y,width,height\np1.png,red,10,12,40,32\n")
        assert find_format(root) is None
        with pytest.raises(ValueError, match="it needs xmin, ymin, xmax, ymax; rename its columns"):
            open_dataset(root / "boxes.csv", "train")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roboflow", "xml_apart", "xml_with_csv", "labelme", "csv_beside", "coco_valid"])
def test_every_layout_trains_and_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    root = trees.write(name, tmp_path / "data")
    trees.text(
        tmp_path / "tiny.py",
        "from pkdzoo.training import Data, Optim, Recipe, Schedule\n"
        "RECIPE = Recipe('tiny', 'retina_r10w16', "
        "data=Data(short=64, long=96, batch_size=2, workers=0, min_image_size=0),"
        " optim=Optim(lr=0.001, base_batch_size=2, clip=10.0), schedule=Schedule(epochs=1, max_steps=2, milestones=(), "
        "warmup=None))\n",
    )
    run_folder = tmp_path / "run"
    launch(ROOT / "recipes" / "train.py", tmp_path / "tiny.py", "--data", root, "--output", run_folder, "--cpu")
    expected = json.loads((run_folder / "metrics.json").read_text())
    words = ("--data", root, "--split", "valid", "--cpu", "--workers", "0", "--output", tmp_path / "metrics.json")
    code, _, err = run(capsys, "eval", run_folder, *words)
    assert code == 0, err
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["images"] == 2 and list(found["per_class"]) == ["green", "red"]
    assert found["AP"] == expected["AP"]
