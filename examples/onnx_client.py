"""Classifies images by ONNX Runtime and Pillow alone: python onnx_client.py RUN/model.onnx IMAGE IMAGE …"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def prepare(path: str, steps: dict) -> np.ndarray:
    """The image as uint8 (3, image_size, image_size): resized, and its center cropped."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    edges = image.size if steps["resize_mode"] == "crop" else (1, 1)
    size = [int(steps["resize_size"] * edge / min(edges)) for edge in edges]
    image = image.resize(size, Image.Resampling[steps["interpolation"].upper()])
    crop = steps["image_size"]
    left, top = (round((edge - crop) / 2) for edge in size)
    return np.asarray(image.crop((left, top, left + crop, top + crop))).transpose(2, 0, 1)


session = onnxruntime.InferenceSession(sys.argv[1])
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
images = np.stack([prepare(path, about["preprocessing"]) for path in sys.argv[2:]])
probabilities, familiarity = session.run(None, {"images": images})
for path, row, score in zip(sys.argv[2:], probabilities, familiarity, strict=True):
    threshold = about["familiarity_threshold"]
    doubt = "(unlike anything trained on)" if threshold is not None and score < threshold else ""
    print(path, about["classes"][row.argmax()], f"{row.max():.1%}", doubt)
