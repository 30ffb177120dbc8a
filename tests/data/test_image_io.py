"""Every kind of image file becomes uint8 RGB, or an error that names the file."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from helpers.tiny_coco import image
from PIL import Image, PngImagePlugin, TiffImagePlugin

from pkdzoo.data.image_files import ORIENTATION, UnreadableImage, check_whole, read_size, upright
from pkdzoo.data.image_io import read_image
from pkdzoo.inference.sources import decode

RGB = image(20, 30)


def save(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_rgb_pixels_are_exact_and_channels_first(tmp_path):
    found = read_image(save(tmp_path, Image.fromarray(RGB), "a.png"))
    assert found.dtype == torch.uint8
    assert torch.equal(found, torch.from_numpy(RGB).permute(2, 0, 1))


def test_gray_fills_three_channels(tmp_path):
    gray = RGB[..., 0]
    found = read_image(save(tmp_path, Image.fromarray(gray), "a.png"))
    assert torch.equal(found, torch.from_numpy(gray).expand(3, -1, -1))


def test_palette_with_transparency_keeps_its_colors(tmp_path):
    image = Image.fromarray(RGB).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    found = read_image(save(tmp_path, image, "a.png", transparency=bytes(range(16))))
    assert np.array_equal(found.permute(1, 2, 0), expected)


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_alpha_is_dropped(tmp_path, alpha):
    rgba = np.concatenate((RGB, np.full((20, 30, 1), alpha, np.uint8)), 2)
    found = read_image(save(tmp_path, Image.fromarray(rgba), "a.png"))
    assert np.array_equal(found.permute(1, 2, 0), RGB)


def test_gray_with_alpha_and_one_bit(tmp_path):
    la = read_image(save(tmp_path, Image.fromarray(RGB[..., 0]).convert("LA"), "la.png"))
    assert torch.equal(la[0], torch.from_numpy(RGB[..., 0]))
    bit = read_image(save(tmp_path, Image.fromarray(RGB[..., 0] > 128), "bit.png"))
    assert torch.equal(bit[1], torch.from_numpy((RGB[..., 0] > 128) * np.uint8(255)))


def test_sixteen_bits_keep_their_high_byte(tmp_path):
    deep = (RGB[..., 0].astype(np.uint16) << 8) + 77
    found = read_image(save(tmp_path, Image.fromarray(deep), "a.png"))
    assert torch.equal(found[2], torch.from_numpy(RGB[..., 0]))


@pytest.mark.parametrize("highest", [256, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", ["P5", "P2"])
def test_sixteen_bits_of_a_pgm_are_scaled(tmp_path, highest, kind):
    deep = np.arange(20 * 30, dtype=np.int64).reshape(20, 30) * highest // 599
    assert deep.max() == highest
    head = f"{kind}\n30 20\n{highest}\n".encode()
    body = deep.astype(">u2").tobytes() if kind == "P5" else " ".join(map(str, deep.flatten().tolist())).encode()
    (tmp_path / "a.pgm").write_bytes(head + body)
    found = read_image(tmp_path / "a.pgm")
    assert torch.equal(
        found, torch.from_numpy((deep * 65535 / highest).round().astype(np.int64) >> 8).expand(3, -1, -1)
    )
    assert decode(Image.open(tmp_path / "a.pgm")).error is None


def test_cmyk_looks_as_it_did(tmp_path):
    flat = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    found = read_image(save(tmp_path, Image.fromarray(flat).convert("CMYK"), "a.jpg", quality=100))
    assert (found.float().mean((1, 2)) - torch.tensor([200.0, 40.0, 90.0])).abs().max() < 4


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.fromarray(np.full((8, 9, 3), value, np.uint8)) for value in (10, 240)]
    path = save(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(path).unique().tolist() == [10]


def test_one_pixel(tmp_path):
    assert read_image(save(tmp_path, Image.new("RGB", (1, 1), (1, 2, 3)), "a.png")).flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_white_are_refused_by_name(tmp_path, mode):
    path = save(tmp_path, Image.new(mode, (4, 4)), "a.tiff")
    with pytest.raises(UnreadableImage, match="save the image with 8 or 16 bits"):
        read_image(path)


def exif(turn):
    tags = Image.Exif()
    tags[ORIENTATION] = turn
    return tags


# The corner that the pixel at the top left of the stored image is shown in.
@pytest.mark.parametrize(
    ("turn", "corner"),
    [(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (4, (-1, 0)), (5, (0, 0)), (6, (0, -1)), (7, (-1, -1)), (8, (-1, 0))],
)
def test_exif_turns_the_image(tmp_path, turn, corner):
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[0, 0] = 255
    found = read_image(save(tmp_path, Image.fromarray(stored), "a.png", exif=exif(turn)))
    assert found.shape == ((3, 30, 20) if turn >= 5 else (3, 20, 30))
    assert found[0][corner] == 255
    assert found.sum() == 3 * 255


def test_boxes_drawn_on_the_stored_pixels_leave_them_stored(tmp_path):
    path = save(tmp_path, Image.fromarray(RGB), "a.png", exif=exif(6))
    assert np.array_equal(read_image(path, size=(20, 30)).permute(1, 2, 0), RGB)
    assert read_image(path, size=(30, 20)).shape == (3, 30, 20)


def test_a_square_image_is_turned_whatever_its_boxes_say(tmp_path):
    square = RGB[:20, :20]
    path = save(tmp_path, Image.fromarray(square), "a.png", exif=exif(6))
    assert np.array_equal(read_image(path, size=(20, 20)).permute(1, 2, 0), np.rot90(square, -1))


def test_another_size_than_the_boxes_were_drawn_on_is_refused(tmp_path):
    path = save(tmp_path, Image.fromarray(RGB), "a.png")
    with pytest.raises(UnreadableImage, match=r"20 x 30 pixels.*drawn on 40 x 60"):
        read_image(path, size=(40, 60))


def test_broken_files_name_themselves(tmp_path):
    whole = save(tmp_path, Image.fromarray(image(100, 100)), "a.jpg").read_bytes()
    contents = {"short.jpg": whole[: len(whole) // 2], "empty.jpg": b"", "text.jpg": b"<html>", "b.png": b"\x89PNG\r\n"}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnreadableImage, match=name) as caught:
            read_image(tmp_path / name)
        assert caught.value.path.endswith(name)
        assert caught.value.reason
    with pytest.raises(UnreadableImage, match="no such file"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(UnreadableImage, match="IsADirectoryError"):
        read_image(tmp_path)


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableImage("a.jpg", "broken")))
    assert (error.path, error.reason, str(error)) == ("a.jpg", "broken", "a.jpg: broken")


def test_a_large_image_is_read_without_a_warning(tmp_path, recwarn):
    path = save(tmp_path, Image.new("1", (12_000, 9_000)), "a.png")  # beyond the size that PIL warns of
    assert read_image(path).shape == (3, 9_000, 12_000)
    assert not recwarn.list


def test_a_bomb_is_refused_by_name(tmp_path, monkeypatch):
    path = save(tmp_path, Image.new("1", (100, 100)), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match="DecompressionBomb"):
        read_image(path)


def test_upright_serves_images_already_open():
    image = Image.fromarray(RGB)
    image.getexif()[ORIENTATION] = 3
    assert np.array_equal(np.asarray(upright(image)), RGB[::-1, ::-1])


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.tif", "a.png"])
def test_an_orientation_in_xmp_alone_turns_nothing(tmp_path, name):
    options = {"xmp": XMP}
    if name == "a.tif":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[700] = XMP
        options = {"tiffinfo": tags}
    if name == "a.png":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    path = save(tmp_path, Image.fromarray(RGB), name, **options)
    with Image.open(path) as opened:
        assert opened.getexif()[ORIENTATION] == 6  # PIL reads it
    assert read_size(path) == (20, 30)
    assert read_image(path).shape == (3, 20, 30)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_tiff_file_is_turned_once(tmp_path, turn, compression):
    stored = save(tmp_path, Image.fromarray(RGB), "a.tif", exif=exif(turn), compression=compression)
    expected = read_image(save(tmp_path, Image.fromarray(RGB), "a.png", exif=exif(turn)))
    assert torch.equal(read_image(stored), expected)
    assert read_size(stored) == tuple(expected.shape[1:])
    assert torch.equal(read_image(stored, size=read_size(stored)), expected)
    if turn >= 5:  # boxes on the stored pixels leave them stored
        assert np.array_equal(read_image(stored, size=(20, 30)).permute(1, 2, 0), RGB)


@pytest.mark.parametrize("name", ["a.tif", "a.jpg", "a.png", "a.webp"])
def test_an_image_that_pil_opened_is_turned_like_its_file(tmp_path, name):
    path = save(tmp_path, Image.fromarray(RGB), name, exif=exif(6))
    assert torch.equal(decode(Image.open(path)).pixels, read_image(path))
    path = save(tmp_path, Image.fromarray(RGB), "xmp.jpg", xmp=XMP)
    assert decode(Image.open(path)).pixels.shape == (3, 20, 30)


def test_a_damaged_tag_turns_nothing(tmp_path):
    path = save(tmp_path, Image.fromarray(RGB), "a.jpg", exif=b"Exif\0\0no tags at all")
    assert read_image(path).shape == (3, 20, 30)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.tif"])
def test_a_quick_look_finds_files_that_are_cut_off(tmp_path, name):
    path = save(tmp_path, Image.fromarray(image(64, 64)), name)
    check_whole(path)
    check_whole(path, (64, 64))
    with pytest.raises(UnreadableImage, match="drawn on 32 x 64"):
        check_whole(path, (32, 64))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UnreadableImage, match=name):
        check_whole(path)


def test_a_quick_look_does_not_mind_what_follows_the_end(tmp_path):
    path = save(tmp_path, Image.fromarray(RGB), "a.jpg")
    path.write_bytes(path.read_bytes() + b"\0" * 9000)
    check_whole(path)


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for reader in (read_image, read_size, check_whole):
        with pytest.raises(UnreadableImage, match="it is no file"):
            reader(tmp_path / "a.jpg")
