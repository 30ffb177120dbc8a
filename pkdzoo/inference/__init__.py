"""From image files, links and videos to results: reading, prediction, drawing.

Names are imported at first use, so that drawing alone runs without importing torch.
"""

from typing import TYPE_CHECKING

from pkdzoo.utils.lazy import lazy_attributes

if TYPE_CHECKING:
    from pkdzoo.inference.options import PredictOptions
    from pkdzoo.inference.result import Result
    from pkdzoo.inference.sources import DecodedImage
    from pkdzoo.inference.video import Frame, read_video

__all__ = ["DecodedImage", "Frame", "PredictOptions", "Result", "read_video"]

if not TYPE_CHECKING:  # a type checker would take every name of the package for existing
    __getattr__ = lazy_attributes(
        __name__,
        {
            "DecodedImage": "pkdzoo.inference.sources",
            "Frame": "pkdzoo.inference.video",
            "PredictOptions": "pkdzoo.inference.options",
            "Result": "pkdzoo.inference.result",
            "read_video": "pkdzoo.inference.video",
        },
    )
