"""Images by link, by wildcard and from videos: what arrives, and what is refused."""

from __future__ import annotations

import io
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.serving import Served, cut, serving, status
from PIL import Image

from pkdzoo.data import UnreadableImage, read_image
from pkdzoo.inference import web as module
from pkdzoo.inference.sources import DecodedImage, decode, decode_ahead, is_single, iterate_images
from pkdzoo.inference.video import Frame, VideoWriter, frame_rate, read_video, writing_video
from pkdzoo.inference.web import fetch_image


def png(shade: int = 90, size: tuple[int, int] = (40, 30), **save: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 10, 200)).save(buffer, **{"format": "PNG", **save})
    return buffer.getvalue()


@pytest.fixture
def server() -> Iterator[Served]:
    with serving() as served:
        yield served


class TestLinks:
    def test_an_image(self, server: Served) -> None:
        link, _ = server.put("/a%20b.png?size=large", png())
        found = decode(link)
        assert found.error is None and found.path == link and not found.reopens
        assert found.pixels.shape == (3, 30, 40) and found.pixels[:, 0, 0].tolist() == [90, 10, 200]
        assert is_single(link) and list(iterate_images(link)) == [link]

    def test_turned_as_its_tag_says(self, server: Served) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        link, _ = server.put("/phone.jpg", png(format="JPEG", exif=exif))
        assert fetch_image(link).size == (30, 40)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"<html>no image</html>", "no image of a known format"),
            (b"", "no image of a known format"),
            (png()[:-40], "truncated"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", "no image of a known format"),
        ],
        ids=["html", "nothing", "half", "a program"],
    )
    def test_what_is_no_image(self, server: Served, content: bytes, reason: str) -> None:
        link, _ = server.put("/a.png", content)
        assert reason in decode(link).error

    def test_too_large(self, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        link, _ = server.put("/a.png", png() + bytes(5000))
        monkeypatch.setattr(module, "LIMIT", 4096)
        assert "larger than 0.00390625 MiB" in decode(link).error

        def endless(handler: BaseHTTPRequestHandler) -> None:  # does not say how much it will send
            handler.send_response(200)
            handler.end_headers()
            for _ in range(64):
                handler.wfile.write(bytes(1024))
            handler.close_connection = True

        server.faults.append(endless)
        assert "larger than" in decode(link).error

    def test_too_slow(self, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        link, _ = server.put("/a.png", png())

        def drip(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.end_headers()
            for _ in range(100):
                handler.wfile.write(b"x")
                handler.wfile.flush()
                time.sleep(0.02)

        monkeypatch.setattr(module, "TOTAL_TIMEOUT", 0.2)
        server.faults.append(drip)
        started = time.monotonic()
        assert "bytes arrived within 0.2 seconds" in decode(link).error
        server.faults.append(lambda handler: time.sleep(1.0))
        with pytest.raises(UnreadableImage, match="timed out"):
            fetch_image(link, timeout=0.1)
        assert time.monotonic() - started < 5

    def test_what_goes_wrong_on_the_way(self, server: Served) -> None:
        link, _ = server.put("/a.png", png())
        server.faults.append(status(503))
        assert "HTTP 503" in decode(link).error
        server.faults.append(cut(png()))
        assert "the connection ended after" in decode(link).error
        assert "HTTP 404" in decode(server.url + "/none.png").error
        assert "refused" in decode("http://127.0.0.1:9/a.png").error.lower()
        assert decode("http://[::1/a.png").error

    def test_blanks_and_letters_beyond_ascii(self, server: Served) -> None:
        server.put("/%C3%BCn%C3%AF%20%E6%97%A5.png?q=%C3%A4", png())
        assert decode(f"{server.url}/ünï 日.png?q=ä").error is None
        assert "ordinal" not in decode("http://ünï.invalid/a.png").error  # the host's name is what is wrong

    @pytest.mark.parametrize("place", ["ftp://127.0.0.1/a.png", "file:///etc/hostname"])
    def test_a_redirection_stays_on_the_web(self, server: Served, place: str) -> None:
        link, _ = server.put("/a.png", png())

        def elsewhere(handler: BaseHTTPRequestHandler, target: str) -> None:
            handler.send_response(302)
            handler.send_header("Location", target)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        server.faults.append(lambda handler: elsewhere(handler, place))
        error = decode(link).error
        assert "not http or https" in error or "is not allowed" in error
        server.faults.append(lambda handler: elsewhere(handler, link))
        assert decode(link).error is None
        server.faults.extend([lambda handler: elsewhere(handler, link)] * 5)
        error = decode(link).error
        assert "infinite loop" in error and "\n" not in error

    def test_a_file_link_is_a_file_name(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png())
        assert "no such file" in decode((tmp_path / "a.png").as_uri()).error


class TestWildcards:
    def test_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "more").mkdir()
        for name in ("b.png", "a.png", "more/c.png", "odd [1].png"):
            (tmp_path / name).write_bytes(png())
        monkeypatch.chdir(tmp_path)
        assert [str(p) for p in iterate_images("[ab].png")] == ["a.png", "b.png"]
        assert [str(p) for p in iterate_images(Path("**/*.png"))] == ["a.png", "b.png", "more/c.png", "odd [1].png"]
        assert is_single("odd [1].png") and not is_single("*.png")
        with pytest.raises(ValueError, match=r"no file matches '\*\.webp'"):
            iterate_images("*.webp")


class TestDecodedAhead:
    @pytest.mark.parametrize("workers", [0, 1, 3])
    def test_order_and_errors_are_those_of_a_plain_loop(self, tmp_path: Path, workers: int) -> None:
        for number in range(8):
            (tmp_path / f"{number}.png").write_bytes(png(shade=number) if number != 5 else b"no image")
        paths = sorted(tmp_path.iterdir())
        found = list(decode_ahead(iter(paths), workers))
        assert [item.path for item in found] == list(map(str, paths))
        assert [item.error is None for item in found] == [number != 5 for number in range(8)]
        assert all(int(item.pixels[0, 0, 0]) == i for i, item in enumerate(found) if item.pixels is not None)

    def test_no_more_is_taken_than_it_says_and_its_threads_end(self) -> None:
        taken: list[int] = []

        def source() -> Iterator[Path]:
            for number in range(100):
                taken.append(number)
                yield Path(f"{number}.png")

        results = decode_ahead(source(), 2, ahead=3)
        assert next(results).path == "0.png" and taken == [0, 1, 2, 3]
        assert next(results).path == "1.png" and len(taken) == 5
        before = threading.active_count()
        results.close()  # type: ignore[attr-defined]
        assert threading.active_count() < before

    @pytest.mark.parametrize("kind", ["array", "tensor", "frame", "decoded", "pil"])
    def test_a_source_may_reuse_its_memory(self, kind: str) -> None:
        """Cameras and video readers write every frame into one array; Pillow's ImageSequence gives one image."""
        memory = np.zeros((4, 4, 3), np.uint8)
        shared = torch.from_numpy(memory).permute(2, 0, 1)
        image = Image.new("RGB", (4, 4))
        same: Any = {"array": memory, "tensor": shared, "frame": Frame(shared, "a.mp4", 0, None)}
        same |= {"decoded": DecodedImage(shared), "pil": image}

        def source() -> Iterator[Any]:
            for shade in range(6):
                memory[:] = shade
                image.paste((shade,) * 3, (0, 0, 4, 4))
                yield same[kind]

        for workers, ahead in ((0, 1), (1, 1), (2, 4)):
            found = list(decode_ahead(source(), workers, ahead))
            assert [int(item.pixels.max()) for item in found] == list(range(6))

    def test_what_was_read_before_an_error_of_the_source_arrives(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png())

        def source() -> Iterator[Path]:
            yield from [tmp_path / "a.png"] * 3
            raise RuntimeError("the camera is gone")

        results = decode_ahead(source(), 2, ahead=8)
        assert all(next(results).error is None for _ in range(3))
        with pytest.raises(RuntimeError, match="the camera is gone"):
            next(results)

    def test_a_mistake_is_raised_where_its_result_would_be(self) -> None:
        results = decode_ahead(iter([png, "b"]), 1)
        with pytest.raises(TypeError, match="predict takes paths"):
            next(results)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames of 64 x 48 at 5 a second, each brighter than the one before."""
    pytest.importorskip("av")
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with writing_video(path, Fraction(5)) as file:
        for k in range(10):
            file.add(Image.new("RGB", (64, 48), (20 * k, 20 * k, 20 * k)))
    return path


class TestVideos:
    def test_frames(self, video: Path) -> None:
        frames = list(read_video(video))
        assert [f.number for f in frames] == list(range(10))
        assert [f.time for f in frames] == pytest.approx([k / 5 for k in range(10)])
        assert all(f.pixels.shape == (3, 48, 64) and f.path == str(video) for f in frames)
        assert [float(f.pixels.float().mean()) for f in frames] == pytest.approx([20.0 * k for k in range(10)], abs=6)
        for every in (4, np.int64(4)):
            assert [f.number for f in read_video(video, every=every)] == [0, 4, 8]
        assert frame_rate(video) == 5

    def test_one_at_a_time(self, video: Path) -> None:
        first = next(iterate_images([video, "never reached"]))
        assert isinstance(first, Frame) and first.number == 0
        found = decode(first)
        assert (found.frame, found.time, found.path) == (0, 0.0, str(video)) and not found.reopens
        assert not is_single(video) and is_single(first)

    def test_of_odd_size(self, tmp_path: Path, video: Path) -> None:
        with writing_video(tmp_path / "odd.mp4", Fraction(30000, 1001)) as file:
            for size in ((33, 21), (33, 21), (60, 20)):
                file.add(Image.new("RGB", size))
        assert [tuple(f.pixels.shape) for f in read_video(tmp_path / "odd.mp4")] == [(3, 20, 32)] * 3

    def test_what_is_no_video(self, tmp_path: Path, video: Path) -> None:
        (tmp_path / "text.mp4").write_text("no video")
        (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:600])
        for name, reason in (("text.mp4", "Invalid data"), ("cut.mp4", "Invalid data"), ("none.mp4", "no such file")):
            (broken,) = (decode(image) for image in iterate_images(tmp_path / name))
            assert reason in broken.error and broken.path == str(tmp_path / name)
        for every in (0, "2", 1.5):
            with pytest.raises(ValueError, match=f"every={every!r}: write 1 for all frames"):
                read_video(video, every=every)  # type: ignore[arg-type]

    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
    def test_one_that_was_cut_off_says_so(self, tmp_path: Path, suffix: str) -> None:
        """FFmpeg reads the frames that are there, and of most formats it reports no error."""
        av, noise = pytest.importorskip("av"), np.random.default_rng(0)
        whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
        with av.open(str(whole), "w", options={"movflags": "faststart"} if suffix == "mp4" else {}) as file:
            writer = VideoWriter(file, Fraction(10))
            for _ in range(60):
                writer.add(Image.fromarray(noise.integers(0, 255, (48, 64, 3), dtype=np.uint8)))
            file.mux(writer.stream.encode(None))
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
        frames = [decode(frame) for frame in iterate_images(whole)]
        assert len(frames) == 60 and frames[0].time == pytest.approx(0) and frames[-1].time == pytest.approx(5.9)
        assert all(frame.error is None for frame in frames)
        *some, last = [decode(frame) for frame in iterate_images(cut)]
        assert 20 < len(some) < 45 and all(frame.error is None for frame in some)
        if suffix != "ts":  # made for receivers that tune in and out, it does not say how long it is
            assert f"frame {some[-1].frame}" in str(last.error) and last.path == str(cut)

    @pytest.mark.parametrize("suffix", ["mp4", "mkv"])
    @pytest.mark.parametrize(
        ("first", "last"), [(20.0, 0.1), (0.0, 9.0)], ids=["time stamps from 20 s", "a long last frame"]
    )
    def test_a_whole_one_is_not_taken_for_one_that_was_cut_off(
        self, tmp_path: Path, suffix: str, first: float, last: float
    ) -> None:
        """Matroska's duration counts from 0, and the recording of a screen may show its last frame for long."""
        av = pytest.importorskip("av")
        path = tmp_path / f"whole.{suffix}"
        with av.open(str(path), "w") as file:
            stream = file.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            frames = [av.VideoFrame(64, 48, "yuv420p") for _ in range(30)]
            packets = [packet for frame in frames for packet in stream.encode(frame)] + stream.encode()
            for number, packet in enumerate(packets):
                packet.time_base = Fraction(1, 10)
                packet.pts = packet.dts = number + int(10 * first)
                packet.duration = int(10 * last) if number == len(packets) - 1 else 1
                file.mux(packet)
        assert [round(found.time or 0.0, 2) for found in read_video(path)] == [k / 10 for k in range(30)]

    def test_an_avi_with_dropped_frames_is_whole(self, tmp_path: Path) -> None:
        """A camera that dropped every second frame counts it in the header, and stores no pixels."""
        av, noise = pytest.importorskip("av"), np.random.default_rng(0)
        whole, cut = tmp_path / "whole.avi", tmp_path / "cut.avi"
        with av.open(str(whole), "w") as file:
            stream = file.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(0, 60, 2):
                image = noise.integers(0, 255, (48, 64, 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = number
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        times = [frame.time for frame in read_video(whole)]
        assert times == pytest.approx([number / 10 for number in range(0, 60, 2)])
        with writing_video(tmp_path / "annotated.mp4", frame_rate(whole)) as file:
            for time in times:
                file.add(Image.new("RGB", (64, 48)), time)
        assert [frame.time for frame in read_video(tmp_path / "annotated.mp4")] == pytest.approx(times)
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
        with pytest.raises(UnreadableImage, match=r"it ends after frame 1\d, of 5\d: the file was cut off"):
            list(read_video(cut))

    def test_time_stamps_that_start_again_go_on(self, tmp_path: Path) -> None:
        """Parts of a recording that are joined by ``cat a.ts b.ts`` all start at the same time."""
        pytest.importorskip("av")
        part, joined, annotated = (tmp_path / name for name in ("part.ts", "joined.ts", "annotated.mp4"))
        with writing_video(part, Fraction(10)) as file:
            for _ in range(5):
                file.add(Image.new("RGB", (64, 48)))
        joined.write_bytes(2 * part.read_bytes())
        times = [frame.time for frame in read_video(joined)]
        assert times == pytest.approx([k / 10 for k in range(10)])
        with writing_video(annotated, frame_rate(joined)) as file:
            for time in [0.0, 0.2, 0.2, 0.1, *times[5:]]:
                file.add(Image.new("RGB", (64, 48)), time)
        written = [frame.time for frame in read_video(annotated)]
        assert written == pytest.approx([0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])

    def test_frames_whose_size_changes_are_written_whole(self, tmp_path: Path) -> None:
        pytest.importorskip("av")
        with writing_video(tmp_path / "a.mp4", Fraction(10)) as file:
            for height in (48, 96, 24):
                image = Image.new("RGB", (64, height), "white")
                image.paste((0, 0, 0), (0, 0, 64, height // 2))
                file.add(image)
        for frame in read_video(tmp_path / "a.mp4"):
            assert frame.pixels.shape == (3, 48, 64)
            assert frame.pixels[:, :20].float().mean() < 20 and frame.pixels[:, 28:].float().mean() > 235

    def test_videos_of_a_folder_are_not_left_out_in_silence(self, video: Path, tmp_path: Path) -> None:
        shutil.copy(video, tmp_path)
        with pytest.raises(ValueError, match=r"no images; looked for .*; 1 video left out: 'clip.mp4'; '.*/\*' takes"):
            iterate_images(tmp_path)
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        with pytest.warns(UserWarning, match=r"1 video left out: 'clip.mp4'; '.*/\*' takes them, too"):
            assert len(list(iterate_images(tmp_path))) == 1
        assert len(list(iterate_images(f"{tmp_path}/*"))) == 11

    def test_without_pyav(self, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(ImportError, match=r"pip install -e .*\[video\]"):
            iterate_images(video)


def test_what_pillow_would_run_is_not_opened(tmp_path: Path) -> None:
    """Encapsulated PostScript is a program, which Pillow hands to Ghostscript."""
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    with pytest.raises(UnreadableImage, match="no image of a known format"):
        read_image(path)
