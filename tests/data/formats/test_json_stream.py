"""The record-by-record reader says what json.load says, wherever its buffer ends."""

from __future__ import annotations

import io
import json
import math
import time

import numpy as np
import pytest
from helpers.tiny_coco import annotation, content, write

from pkdzoo.data.formats.coco import POLYGONS, read_columns
from pkdzoo.data.formats.json_stream import JsonStream


def walk(text: str | bytes, chunk: int) -> dict[str, list]:
    """Members of an object whose values are all lists."""
    data = text.encode() if isinstance(text, str) else text
    stream = JsonStream(io.BytesIO(data), "x.json", chunk=chunk)
    return {key: list(stream.elements()) for key in stream.members()}


NESTED = {
    "a": [
        {"x": [1.5, -2e-7, 12345678901234567890], "y": {"z": [[], {}, None]}},
        12345,
        'text \\ " ] } é 漢 \U0001f600',
    ],
    "empty": [],
    "é": [True, False, None, [[[1]]], "", 0.25],
}


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 0, 3])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_any_chunk_reads_the_same(chunk, indent, ascii_only):
    assert walk(json.dumps(NESTED, indent=indent, ensure_ascii=ascii_only), chunk) == NESTED


def test_space_anywhere_and_a_byte_order_mark():
    text = ' \n{ "a" :\t[ 1 ,\r\n 2 ] , "b":[ ] }\n'
    assert walk(b"\xef\xbb\xbf" + text.encode(), 1) == {"a": [1, 2], "b": []}


def test_nothing_in_it():
    assert walk("{}", 1) == {}


@pytest.mark.parametrize(
    "text",
    ["", "   ", "{", '{"a"', '{"a": [', '{"a": [1', '{"a": [1 2]}', '{"a": [1,]}', '{"a" [1]}', "{a: [1]}", "nonsense"],
)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_broken_text_is_refused(text, chunk):
    with pytest.raises(ValueError, match=r"x\.json is not a JSON file: .*near byte"):
        walk(text, chunk)


def test_bytes_that_are_no_text():
    with pytest.raises(ValueError, match="not UTF-8"):
        walk(b'{"a": ["\xff\xfe"]}', 4)


def columns_equal(first, second):
    for name, value in vars(first).items():
        other = vars(second)[name]
        assert np.array_equal(value, other) if isinstance(value, np.ndarray) else value == other, name


def test_cutting_polygons_changes_nothing_else(tmp_path):
    data = content()
    data["images"][0]["file_name"] = 'a "segmentation": [[1, 2]] b'  # a trap: the key inside a string
    data["annotations"] += [
        annotation(5, 4, [1, 1, 2, 2], segmentation={"size": [60, 40], "counts": [0, 2400]}),
        annotation(6, 4, [1, 1, 2, 2], segmentation=[]),
        annotation(7, 4, [1, 1, 2, 2], segmentation=[[1, 2.5, -3e4, 4, 5, 6], [], [7, 8, 9, 1, 2, 3]]),
        annotation(8, 4, [1, 1, 2, 2], segmentation=None),
        {"segmentation": [[1, 2]], **annotation(9, 4, [3, 3, 2, 2])},
    ]
    for indent in (None, 1):
        file, _ = write(tmp_path, json.dumps(data, indent=indent))
        cut, kept = read_columns(file), read_columns(file, segmentations=True)
        assert cut.segments is None
        assert len(kept.segments) == 9
        kept.segments = None
        columns_equal(cut, kept)
        assert b'a "segmentation": [[1, 2]] b' in cut.names


@pytest.mark.parametrize("chunk", [1, 5, 50])
def test_a_polygon_over_the_end_of_the_buffer(chunk):
    rows = [annotation(k, 1, [k, 1, 2, 3], segmentation=[[0.5] * 8, [1.5] * 6]) for k in range(4)]
    text = json.dumps({"annotations": rows})
    stream = JsonStream(io.BytesIO(text.encode()), "x", cut=POLYGONS, chunk=chunk)
    found = [row for _ in stream.members() for row in stream.elements()]
    assert [row["bbox"] for row in found] == [row["bbox"] for row in rows]


def test_order_of_the_sections_does_not_matter(tmp_path):
    data = content()
    first = read_columns(write(tmp_path, data, with_images=False)[0])
    for keys in (list(reversed(data)), sorted(data)):
        again = read_columns(write(tmp_path, {key: data[key] for key in keys}, with_images=False)[0])
        columns_equal(first, again)


def test_columns_say_what_the_file_says(tmp_path):
    data = content()
    found = read_columns(write(tmp_path, data, with_images=False)[0])
    assert found.image_ids.tolist() == [10, 4, 7]
    assert found.sizes.tolist() == [[40, 60], [60, 40], [40, 60]]
    assert found.categories == [(3, "cat"), (7, "dog")]
    assert found.boxes.tolist() == [row["bbox"] for row in data["annotations"]]
    assert found.flags.tolist() == [0, 0, 0, 1]


def test_numbers_written_as_floats_are_taken_as_whole(tmp_path):
    data = content()
    data["annotations"][0].update(id=1.0, image_id=10.0, category_id=3.0)
    found = read_columns(write(tmp_path, data, with_images=False)[0])
    assert (found.ids[0], found.owners[0], found.labels[0]) == (1, 10, 3)
    assert found.boxes.tolist() == [row["bbox"] for row in data["annotations"]]


def test_what_may_be_missing(tmp_path):
    data = content()
    for row in data["annotations"]:
        for key in ("id", "area", "iscrowd", "segmentation"):
            del row[key]
    found = read_columns(write(tmp_path, data, with_images=False)[0])
    assert found.ids.tolist() == [-1] * 4
    assert np.isnan(found.areas).all()
    assert not found.flags.any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": [1]} {"b": [2]}', "found '{' behind its end"),
        ('{"a": [{"x": 1, "y": 2, "x": 3}]}', "the key 'x' occurs twice in one object"),
        ('{"a": [{"x": 1, "segmentation": [[1]], "segmentation": [[2]]}]}', "the key 'segmentation' occurs twice"),
        ('{"a": [' + "[" * 100_000 + "]" * 100_000 + "]}", "nested too deeply"),
        ('{"a": [' + "9" * 5000 + "]}", r"Exceeds the limit \(4300 digits\)"),
        ('{"a": ["' + "x" * 5000 + '"]}', "one of its values is longer than"),
    ],
)
def test_text_that_readers_disagree_about_or_that_takes_everything_is_refused(text, message):
    stream = JsonStream(
        io.BytesIO(text.encode()), "x.json", cut=POLYGONS, chunk=64, limit=1000 if "xxx" in text else 1 << 20
    )

    def read() -> None:
        for _ in stream.members():
            list(stream.elements())
        stream.end()

    with pytest.raises(ValueError, match=rf"x\.json is not a JSON file: .*{message}"):
        read()


@pytest.mark.parametrize("between", ["", " ", "  ", " , ", ",  "])
def test_polygons_are_searched_in_linear_time(between):
    """White space between the lists can be matched in one way only."""
    text = '{"annotations": [{"segmentation": [' + f"[1]{between}" * 20_000 + "x"
    begin = time.perf_counter()
    assert POLYGONS.search(text) is None
    assert time.perf_counter() - begin < 1.0


@pytest.mark.parametrize(
    ("value", "crowd"), [("0", 0), ("1", 1), (0.0, 0), (1.0, 1), (False, 0), (True, 1), (None, 0), ("false", 0)]
)
def test_flags_in_any_spelling(tmp_path, value, crowd):
    data = content()
    data["annotations"][0].update(iscrowd=value, difficult=value)
    flags = read_columns(write(tmp_path, data, with_images=False)[0]).flags.tolist()
    assert flags == [crowd * 3, 0, 0, 1]


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("annotations", {"iscrowd": "maybe"}, r"annotations\[1\] has 'iscrowd' = 'maybe'; write 0 or 1"),
        ("annotations", {"iscrowd": []}, r"annotations\[1\] has 'iscrowd' = \[\]; write 0 or 1"),
        ("annotations", {"ignore": 0.5}, r"annotations\[1\] has 'ignore' = 0.5; write 0 or 1"),
        ("annotations", {"bbox": [1, 2, 3, 10**400]}, r"annotations\[1\] has bbox"),
        ("images", {"height": 2**32 + 60}, r"images\[1\] has 'height' = 4294967356; it must be at most 1000000"),
        ("images", {"height": math.inf}, r"images\[1\] has 'height' = inf, which is not a whole number"),
        ("images", {"file_name": "\ud800.png"}, r"images\[1\] has file_name = .*, which is not a text"),
        ("categories", {"name": ["cat"]}, r"categories\[1\] has name = \['cat'\]; it is a text"),
    ],
)
def test_values_that_no_detector_can_use_are_named(tmp_path, section, change, message):
    data = content()
    data[section][1].update(change)
    with pytest.raises(ValueError, match=message):
        read_columns(write(tmp_path, data, with_images=False)[0])


def test_an_area_that_is_no_number_is_that_of_the_box(tmp_path):
    data = content()
    for row, area in zip(data["annotations"], ("12", 10**400, math.inf, None)):
        row["area"] = area
    assert np.isnan(read_columns(write(tmp_path, data, with_images=False)[0]).areas).all()


def test_names_that_are_no_utf8_are_kept(tmp_path):
    data = content()
    data["images"][0]["file_name"] = "\udcff.png"
    assert read_columns(write(tmp_path, data, with_images=False)[0]).file_name(0) == "\udcff.png"
