"""Detect objects with a file of ``pkdzoo export``; needs onnxruntime, numpy and PIL alone.

python recipes/onnx_infer.py retina_r50.onnx street.jpg     # one JSON line a detection, xyxy in pixels
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if len(sys.argv) != 3:
    sys.exit(__doc__)
session = onnxruntime.InferenceSession(sys.argv[1])
facts = session.get_modelmeta().custom_metadata_map
names, rule = json.loads(facts["label_names"]), json.loads(facts["resize"])
image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
scale = min(rule["long"] / max(image.size), rule["short"] / min(image.size))
width, height = (max(1, int(side * scale + 0.5)) for side in image.size)
across, down = image.width / width, image.height / height
how = (width, height), Image.Transform.AFFINE, (across, 0, 0, 0, down, 0), Image.Resampling.BILINEAR
bands = [np.asarray(band.convert("F").transform(*how)) for band in image.split()]  # without antialiasing
images = np.zeros((1, 3, *(-(-side // rule["divisor"]) * rule["divisor"] for side in (height, width))), np.uint8)
images[0, :, :height, :width] = (np.stack(bands) - 0.125).round().clip(0, 255)  # as OpenCV rounds
inputs = {"images": images, "sizes": np.array([[height, width]])}
boxes, scores, labels, counts = session.run(["boxes", "scores", "labels", "counts"], inputs)
for box, score, label in zip(boxes[0] * ([across, down] * 2), scores[0], labels[0][: counts[0]]):
    print(json.dumps({"name": names[label], "score": float(score), "box": box.tolist()}))
