"""``predict`` and ``predict_stream`` of a detector: their documentation; :mod:`pkdzoo.inference` does the work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from pkdzoo.inference.options import PredictOptions
from pkdzoo.inference.predictor import DetectorLike, predict, predict_stream
from pkdzoo.inference.result import Result

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PredictionMethods:
    """Methods of :class:`pkdzoo.Detector` that find objects in images of any source."""

    def predict(self, images: Any, **options: Unpack[PredictOptions]) -> Result | list[Result]:
        """Detect objects in one image or in many.

        Args:
            images: one result is returned for a path, a link (http or https), a PIL image, a numpy array (H, W, 3)
                uint8 RGB or a tensor (3, H, W) uint8 RGB. A list is returned for a folder, a wildcard
                (``"photos/*.jpg"``), a video (one result per frame; needs the extra ``video``), and a list or
                any iterable of these.
            options: ``threshold``, ``nms_threshold``, ``max_detections``, ``classes``, ``batch_size``, ``flip``,
                ``sizes``, ``tiles``, ``overlap`` and ``workers``; :class:`pkdzoo.inference.PredictOptions` documents
                them.

        Returns:
            A Result with boxes in pixels of the original image, or a list of results. In a list, an image that cannot
            be read gives a Result whose ``error`` tells why. The results keep their images where no file holds them,
            except for the frames of a video; for many images write :meth:`predict_stream`.

        Raises:
            UnreadableImage: a single image cannot be read.
            TypeError: an unknown option; the message suggests the closest name.
            ValueError: an empty folder, an unknown class, an array that is no image, or a detector with other than
                three channels.

        Example:
            >>> import numpy as np, pkdzoo
            >>> model = pkdzoo.create_detector("retina_r10w16")
            >>> result = model.predict(np.zeros((64, 96, 3), np.uint8), threshold=0.5)
            >>> result.size, len(result)
            ((64, 96), 0)
        """
        return predict(cast(DetectorLike, self), images, options)

    def predict_stream(self, images: Any, **options: Unpack[PredictOptions]) -> Iterator[Result]:
        """Detect objects in any number of images, one by one; one batch of images is in memory at a time.

        Args:
            images: as for :meth:`predict`; a generator may be endless. Every fifth frame of a video is
                ``pkdzoo.inference.read_video("street.mp4", every=5)``.
            options: ``threshold``, ``nms_threshold``, ``max_detections``, ``classes``, ``batch_size``, ``flip``,
                ``sizes``, ``tiles``, ``overlap`` and ``workers``; :class:`pkdzoo.inference.PredictOptions` documents
                them.

        Returns:
            An iterator of results. An image that cannot be read, even a single one, gives a Result whose ``error``
            tells why.

        Raises:
            TypeError: at once, for an unknown option.
            ValueError: at once, for an empty folder, an unknown class, or a detector with other than three channels.

        Example:
            >>> import numpy as np, pkdzoo
            >>> model = pkdzoo.create_detector("retina_r10w16")
            >>> frames = (np.full((64, 96, 3), shade, np.uint8) for shade in range(3))
            >>> [len(result) for result in model.predict_stream(frames, threshold=0.5)]
            [0, 0, 0]
        """
        return predict_stream(cast(DetectorLike, self), images, options)
