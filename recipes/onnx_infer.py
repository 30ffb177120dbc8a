"""Detect objects with a file of ``pkdzoo export``; needs onnxruntime, numpy and PIL alone.

python recipes/onnx_infer.py retina_r50.onnx street.jpg     # one JSON line a detection, xyxy in pixels
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def stretch(picture, size, axis):
    """Bilinear without antialiasing, one axis at a time."""
    last = picture.shape[axis] - 1
    place = ((np.arange(size) + 0.5) * ((last + 1) / size) - 0.5).clip(0, last)
    low, share = place.astype(int), np.expand_dims(place % 1, 1 - axis)[..., None].astype(np.float32)
    return picture.take(low, axis) * (1 - share) + picture.take(np.minimum(low + 1, last), axis) * share


if len(sys.argv) != 3:
    sys.exit(__doc__)
session = onnxruntime.InferenceSession(sys.argv[1])
facts = session.get_modelmeta().custom_metadata_map
names, rule = json.loads(facts["label_names"]), json.loads(facts["resize"])
picture = np.asarray(ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB"), np.float32)
scale = min(rule["long"] / max(picture.shape[:2]), rule["short"] / min(picture.shape[:2]))
height, width = (max(1, int(side * scale + 0.5)) for side in picture.shape[:2])
small = (stretch(stretch(picture, height, 0), width, 1) - 0.125).round().clip(0, 255)  # as OpenCV rounds
images = np.zeros((1, 3, *(-(-side // rule["divisor"]) * rule["divisor"] for side in (height, width))), np.uint8)
images[0, :, :height, :width] = small.transpose(2, 0, 1)
inputs = {"images": images, "sizes": np.array([[height, width]])}
boxes, scores, labels, counts = session.run(["boxes", "scores", "labels", "counts"], inputs)
factors = np.array([width / picture.shape[1], height / picture.shape[0]] * 2)
for box, score, label in zip(boxes[0] / factors, scores[0], labels[0][: counts[0]]):
    print(json.dumps({"name": names[label], "score": float(score), "box": box.tolist()}))
