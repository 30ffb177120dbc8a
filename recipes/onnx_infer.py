"""Detect objects with an ONNX file of ``pkdzoo export``; needs only onnxruntime, numpy and PIL.

python recipes/onnx_infer.py retina_r50.onnx street.jpg             # one JSON line per detection, xyxy in pixels
python recipes/onnx_infer.py retina_r50.onnx street.jpg 0.5         # with scores above 0.5 (default: 0.3)
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if len(sys.argv) not in (3, 4):
    sys.exit(__doc__)
threshold = float(sys.argv[3]) if len(sys.argv) == 4 else 0.3  # as pkdzoo predict
session = onnxruntime.InferenceSession(sys.argv[1])
metadata = session.get_modelmeta().custom_metadata_map
label_names, resize = json.loads(metadata["label_names"]), json.loads(metadata["resize"])
image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
scale = min(resize["long"] / max(image.size), resize["short"] / min(image.size))
width, height = (max(1, int(side * scale + 0.5)) for side in image.size)
scale_x, scale_y = image.width / width, image.height / height
transform = (width, height), Image.Transform.AFFINE, (scale_x, 0, 0, 0, scale_y, 0), Image.Resampling.BILINEAR
bands = [np.asarray(band.convert("F").transform(*transform)) for band in image.split()]  # without antialiasing
images = np.zeros((1, 3, *(-(-side // resize["divisor"]) * resize["divisor"] for side in (height, width))), np.uint8)
images[0, :, :height, :width] = (np.stack(bands) - 0.125).round().clip(0, 255)  # rounded as in OpenCV
inputs = {"images": images, "sizes": np.array([[height, width]])}
boxes, scores, labels, counts = session.run(["boxes", "scores", "labels", "counts"], inputs)
for box, score, label in zip(boxes[0] * ([scale_x, scale_y] * 2), scores[0], labels[0][: counts[0]]):
    if score > threshold:
        print(json.dumps({"name": label_names[label], "score": float(score), "box": box.tolist()}))
