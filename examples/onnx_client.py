"""Classifies images by ONNX Runtime and Pillow alone: python onnx_client.py RUN/model.onnx IMAGE IMAGE …"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def prepare(path: str, steps: dict) -> np.ndarray:
    """The image as uint8 (3, image_size, image_size): resized, padded if the model wants it, and its center cropped."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    mode, size, crop = steps["resize_mode"], steps["resize_size"], steps["image_size"]
    part = {"crop": min(image.size), "pad": max(image.size), "squash": None}[mode]
    edges = [max(1, int(size * edge / (part or edge))) for edge in image.size]
    image = image.resize(edges, Image.Resampling[steps["interpolation"].upper()])
    if mode == "pad":
        square = Image.new("RGB", (size, size), tuple(round(255 * value) for value in steps["mean"]))
        square.paste(image, ((size - edges[0]) // 2, (size - edges[1]) // 2))
        image = square
    left, top = (round((edge - crop) / 2) for edge in image.size)
    return np.asarray(image.crop((left, top, left + crop, top + crop))).transpose(2, 0, 1)


session = onnxruntime.InferenceSession(sys.argv[1])
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
images = np.stack([prepare(path, about["preprocessing"]) for path in sys.argv[2:]])
probabilities, familiarity = session.run(None, {"images": images})
for path, row, score in zip(sys.argv[2:], probabilities, familiarity, strict=True):
    threshold = about["familiarity_threshold"]
    doubt = "(unlike anything trained on)" if threshold is not None and score < threshold else ""
    print(path, about["classes"][row.argmax()], f"{row.max():.1%}", doubt)
