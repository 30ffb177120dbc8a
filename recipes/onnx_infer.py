"""Detect objects with an ONNX file of ``pkdzoo export``; needs only onnxruntime, numpy and PIL.

It is launched with a file and an image:

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
channels = session.get_inputs()[0].shape[1]
if metadata["outputs"] != "detections" or channels != 3:
    sys.exit(f"{sys.argv[1]} gives {metadata['outputs']} of {channels} channels: this script is for detections in RGB")
label_names, resize = json.loads(metadata["label_names"]), json.loads(metadata["resize"])
canvas, batch = resize.get("canvas"), int(metadata.get("batch", 1))  # of a file for images of one size
image = ImageOps.exif_transpose(Image.open(sys.argv[2]))
if image.mode.startswith("I"):  # 16 bits: the high byte, as in OpenCV
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
image = image.convert("RGB")
letterbox = resize.get("letterbox")  # RTMDet: the image lies on a gray canvas
scale = min(resize["long"] / max(image.size), resize["short"] / min(image.size))
if canvas:
    scale = min(canvas[0] / image.height, canvas[1] / image.width)
rounding = 0.0 if letterbox and letterbox["rounding"] == "down" else 0.5
width, height = (max(1, int(side * scale + rounding)) for side in image.size)
scale_x, scale_y = image.width / width, image.height / height
transform = (width, height), Image.Transform.AFFINE, (scale_x, 0, 0, 0, scale_y, 0), Image.Resampling.BILINEAR
bands = [np.asarray(band.convert("F").transform(*transform)) for band in image.split()]  # without antialiasing
if letterbox and letterbox["shrink"] == "area" and scale < 1:
    bands = [np.asarray(band) for band in image.resize((width, height), Image.Resampling.BOX).split()]
    bands = [band + 0.125 for band in bands]
padded, left, top = canvas or [-(-side // resize["divisor"]) * resize["divisor"] for side in (height, width)], 0, 0
if letterbox:
    padded = [resize["long"]] * 2
    if letterbox["canvas"] == "stride":
        padded = [int(np.ceil(side / max(image.size) * resize["long"] / 32 + 0.5)) * 32 for side in image.size[::-1]]
    if letterbox["place"] == "center":
        top, left = (padded[0] - height) // 2, (padded[1] - width) // 2
images = np.full((1, 3, *padded), letterbox["fill"] if letterbox else 0, np.uint8)
# rounded as in OpenCV
images[0, :, top : top + height, left : left + width] = (np.stack(bands) - 0.125).round().clip(0, 255)
sizes = np.array([padded if letterbox else [height, width]])
inputs = {"images": images.repeat(batch, 0), "sizes": sizes.repeat(batch, 0)}  # a batch of the same image
boxes, scores, labels, counts = session.run(["boxes", "scores", "labels", "counts"], inputs)
found = (boxes[0] - [left, top] * 2) * ([scale_x, scale_y] * 2)
if letterbox and letterbox["clip"] == "image":
    found = found.clip(0, [*image.size] * 2)
for box, score, label in zip(found, scores[0], labels[0][: counts[0]]):
    if score > threshold:
        print(json.dumps({"name": label_names[label], "score": float(score), "box": box.tolist()}))
