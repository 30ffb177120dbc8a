"""From image files, links and videos to results: reading, prediction, drawing."""

from pkdzoo.inference.result import Result
from pkdzoo.inference.sources import DecodedImage
from pkdzoo.inference.video import Frame, read_video

__all__ = ["DecodedImage", "Frame", "Result", "read_video"]
