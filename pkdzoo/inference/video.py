"""Video files, one frame in memory at a time, by PyAV (the extra ``video``), whose wheel contains FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pkdzoo.data.image_files import UnreadableImage
from pkdzoo.inference.options import is_whole
from pkdzoo.utils.text import install_line

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".ogv")
ENCODERS = ("libx264", "h264", "mpeg4")  # the first one that FFmpeg has is used
TICKS = 60_000  # of a second: whole numbers at usual rates, and the MPEG-4 encoder takes at most 65,535


@dataclass(frozen=True)
class Frame:
    """One image of a video.

    Attributes:
        pixels: uint8 (3, H, W) RGB, upright.
        path: the video file.
        number: number of the frame, from 0 over all frames of the video.
        time: seconds from the first frame; None where the file has no time stamps.

    Example:
        >>> import torch
        >>> from pkdzoo.inference import Frame
        >>> frame = Frame(torch.zeros(3, 720, 1280, dtype=torch.uint8), "street.mp4", number=50, time=2.0)
        >>> frame.number / frame.time  # frames per second
        25.0
    """

    pixels: Tensor
    path: str
    number: int
    time: float | None


def is_video(path: object) -> bool:
    """Whether a path has the suffix of a video file."""
    return isinstance(path, (str, Path)) and Path(path).suffix.lower() in VIDEO_SUFFIXES


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise ImportError(f"videos need PyAV: {install_line('video')}") from None
    return av


def read_video(path: str | Path, every: int = 1) -> Iterator[Frame]:
    """Read the frames of a video file one by one.

    Args:
        path: the file; its first video stream is read.
        every: 1 for all frames, 2 for every second frame, and so on.

    Returns:
        An iterator over frames, for ``model.predict_stream``.

    Raises:
        ImportError: at once, without PyAV.
        ValueError: at once, for ``every`` below 1.
        UnreadableImage: from the iterator, where the file is missing, no video, or damaged; and after the last frame,
            where the file is shorter than it says by more than a second.

    Example:
        >>> from pkdzoo.inference import read_video
        >>> for frame in read_video("street.mp4", every=25):  # doctest: +SKIP
        ...     print(frame.number, frame.time)
    """
    if not is_whole(every) or every < 1:
        raise ValueError(f"every={every!r}: write 1 for all frames, 2 for every second frame, ...")
    return _frames(_av(), str(path), every)


def _frames(av: Any, path: str, every: int) -> Iterator[Frame]:
    if not Path(path).is_file():  # FFmpeg would also open links
        raise UnreadableImage(path, "there is no such file")
    number = -1
    time: float | None = None
    try:
        with av.open(path) as file:
            if not file.streams.video:
                raise UnreadableImage(path, "there is no video stream in it")
            file.streams.video[0].thread_type = "AUTO"
            start: float | None = None
            step = float(1 / _rate(file.streams.video[0]))
            for number, frame in enumerate(file.decode(video=0)):
                start = frame.time if start is None else start  # the first time stamp may be any
                before, time = time, None if frame.time is None or start is None else frame.time - start
                if before is not None and time is not None and time <= before:
                    time = before + step  # of files that were joined, or whose stamps are in the order of decoding
                if number % every == 0:
                    yield Frame(_upright(frame), path, number, time)
            missing = "" if number < 0 else _missing_end(file, number, frame, start)
    except av.error.FFmpegError as error:
        where = "" if number < 0 else f" after frame {number}"
        raise UnreadableImage(path, f"{error.strerror or type(error).__name__}{where}") from None
    if number < 0:
        raise UnreadableImage(path, "there is no frame in it")
    if missing:
        raise UnreadableImage(path, f"it ends after frame {number}, {missing}: the file was cut off or is damaged")


def _missing_end(file: Any, number: int, last: Any, start: float | None) -> str:
    """What a file promised beyond its last frame, of which FFmpeg itself says nothing; empty for a whole file.

    Args:
        file: that was decoded to its end.
        number: of the last frame, from 0.
        last: the last frame.
        start: time stamp of the first frame in seconds; None if unknown.
    """
    stream = file.streams.video[0]
    if file.format.name == "avi":  # FFmpeg shortens its duration to the file's length
        # Frames that the recorder dropped have no pixels, but a number: the time stamp of an AVI counts them.
        reached = number if last.pts is None else max(number, last.pts)
        return f"of {stream.frames}" if reached + 1 < 0.9 * stream.frames else ""
    if last.time is None or start is None or number < 1:
        return ""
    time = last.time - start
    if stream.duration is not None:
        promised = float(stream.duration * stream.time_base)
    elif file.duration is not None and len(file.streams) == 1:  # with sound it may be the sound's
        # a Matroska file counts from 0, although its first time stamp may be later
        promised = file.duration / _av().time_base - max(start, 0.0)
    else:
        return ""
    # The last frame may be shown for longer than the others, as in the recording of a screen; old PyAV does not tell.
    shown = float((getattr(last, "duration", None) or 0) * last.time_base)
    tolerance = 1 + max(shown, 2 * time / number)
    return f"at {time:.1f} of {promised:.1f} seconds" if time < promised - tolerance else ""


def _upright(frame: Any) -> Tensor:
    """uint8 (3, H, W) of a frame, rotated as the file's metadata tells; phones record that way."""
    pixels: Any = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise
    return torch.from_numpy(np.ascontiguousarray(np.rot90(pixels, turns))).permute(2, 0, 1)


class VideoWriter:
    """Writes frames to a video file: ``with writing_video(path, rate) as video: video.add(image)``."""

    def __init__(self, file: Any, rate: Fraction) -> None:
        self.file, self.rate = file, rate
        self.stream: Any = None
        self.ticks = rate if file.format.name == "avi" else Fraction(TICKS)  # an AVI counts frames
        self.last, self.next = -1, 0  # time stamps of the last frame, and of the next one by the rate, in ticks

    def add(self, image: Image.Image, time: float | None = None) -> None:
        """Append an image; the first one determines the size of all frames.

        Args:
            image: the frame.
            time: seconds from the start of the video; None: the time after the last frame that the rate gives. Phones
                and cameras that drop frames do not keep to a rate.
        """
        av = _av()
        if self.stream is None:
            name = next(name for name in ENCODERS if name in av.codecs_available)
            # The common pixel format halves the resolution of colors, so both sides must be even.
            self.stream = self.file.add_stream(name, rate=self.rate)
            self.stream.width, self.stream.height = image.width // 2 * 2, image.height // 2 * 2
            self.stream.pix_fmt, self.stream.codec_context.time_base = "yuv420p", 1 / self.ticks
        size = (self.stream.width, self.stream.height)
        fits = all(side - own in (0, 1) for side, own in zip(image.size, size, strict=True))
        resized = image if fits else image.resize(size)
        frame = av.VideoFrame.from_image(resized.crop((0, 0, *size)))
        stamp = self.next if time is None else round(time * self.ticks)
        frame.pts, frame.time_base = stamp if stamp > self.last else self.next, 1 / self.ticks
        self.last, self.next = frame.pts, frame.pts + max(1, round(self.ticks / self.rate))
        self.file.mux(self.stream.encode(frame))


def frame_rate(path: str | Path) -> Fraction:
    """Frames per second of a video file.

    Raises:
        UnreadableImage: the file is no video.
    """
    av = _av()
    try:
        with av.open(str(path)) as file:
            return _rate(file.streams.video[0])
    except (av.error.FFmpegError, IndexError) as error:
        raise UnreadableImage(path, getattr(error, "strerror", None) or "there is no video stream in it") from None


def _rate(stream: Any) -> Fraction:
    return Fraction(stream.average_rate or 25)


@contextmanager
def writing_video(path: str | Path, rate: Fraction) -> Iterator[VideoWriter]:
    """Open a new video file with ``rate`` frames per second; it is complete when the context ends."""
    with _av().open(str(path), "w") as file:
        writer = VideoWriter(file, rate)
        yield writer
        if writer.stream is not None:
            file.mux(writer.stream.encode(None))
