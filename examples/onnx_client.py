"""Classifies images by ONNX Runtime and Pillow alone: python onnx_client.py RUN/model.onnx IMAGE IMAGE …"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, TiffImagePlugin

# How an image with this EXIF orientation is turned upright.
TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow opens 16-bit TIFF files whose 0 is white only if they are little-endian.
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))
ELONGATED = 64  # times as long as wide


def read(path: str, depth: int) -> Image.Image:
    """The first frame in RGB, upright, as predict.py reads it; of 16-bit samples the upper eight of `depth` bits."""
    image = Image.open(path)
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):
        levels = from_floats(np.asarray(image)) if image.mode == "F" else from_integers(image, depth)
        # A TIFF may say that 0 is white, which Pillow heeds only up to eight bits.
        is_negative = image.format == "TIFF" and image.tag_v2.get(262) == 0
        rgb = Image.fromarray(255 - levels if is_negative else levels).convert("RGB")
    else:
        rgb = on_white(image)
    orientation = image.getexif().get(0x112, 1)
    return rgb.transpose(TURN[orientation]) if orientation in TURN else rgb


def from_integers(image: Image.Image, depth: int) -> np.ndarray:
    """Samples of more than eight bits as uint8 (H, W)."""
    samples = np.asarray(image)
    if image.mode == "I" and not 0 <= min(usual := usual_range(samples)) <= max(usual) < 2**16:
        raise ValueError("negative samples, or more than 16 bits, have no known meaning")
    levels = (samples.clip(0, 2**depth - 1) >> (depth - 8)).astype(np.uint8)
    transparent = image.info.get("transparency")
    return levels if transparent is None else np.where(samples == transparent, np.uint8(255), levels)


def from_floats(samples: np.ndarray) -> np.ndarray:
    """Samples from 0 to 1, or from 0 to 255, as uint8 (H, W)."""
    finite = samples[np.isfinite(samples)]
    low, high = usual_range(finite)
    white = 1 if high <= 1.1 else 255
    if samples.size - finite.size > rare(samples.size) or low < -0.1 * white or not (white == 1 or 16 <= high <= 280.5):
        raise ValueError("these floating-point samples have no known meaning")
    levels = np.nan_to_num(samples, nan=0, posinf=white, neginf=0).clip(0, white) * (255 / white)
    return np.rint(levels).astype(np.uint8)


def usual_range(samples: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest sample but for those of a few defective pixels."""
    ordered, few = np.sort(samples, axis=None), rare(samples.size)
    return ordered[few], ordered[-1 - few]


def rare(count: int) -> int:
    """How many of so many pixels may be defective."""
    return min(max(4, count // 1000), count // 100)


def on_white(image: Image.Image) -> Image.Image:
    """An image of eight bits in RGB, transparent areas white; alpha that would hide everything is ignored."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    if tags.get(284) == 2 and tags.get(259) == 1 and max(tags.get(258)) > 8:
        raise ValueError("channels of 16 bits that are stored one after the other have no known meaning to Pillow")
    is_signed = image.mode == "L" and tags.get(339) in (2, (2,))
    if is_signed and usual_range(np.asarray(image).view(np.int8))[0] < 0:
        raise ValueError("negative samples have no known meaning")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    *colours, (_, most) = image.getextrema()
    if most >= 32 or all(low == high for low, high in colours):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def prepare(path: str, steps: dict) -> np.ndarray:
    """The image as uint8 (3, image_size, image_size): resized, padded if the model wants it, and its center cropped."""
    image = read(path, steps.get("depth", 16))
    mode, size, crop = steps["resize_mode"], steps["resize_size"], steps["image_size"]
    short, long = sorted(image.size)
    if mode == "crop" and long > ELONGATED * short:
        length = ELONGATED * short + (long - ELONGATED * short) % 2
        image = centered(image, *(length if edge == long else edge for edge in image.size))
    part = {"crop": min(image.size), "pad": max(image.size), "squash": None}[mode]
    edges = [max(1, int(size * edge / (part or edge))) for edge in image.size]
    image = image.resize(edges, Image.Resampling[steps["interpolation"].upper()])
    if mode == "pad":
        fill = tuple(min(255, max(0, round(255 * value))) for value in steps["mean"])
        square = Image.new("RGB", (size, size), fill)
        square.paste(image, ((size - edges[0]) // 2, (size - edges[1]) // 2))
        image = square
    return np.asarray(centered(image, crop, crop)).transpose(2, 0, 1)


def centered(image: Image.Image, width: int, height: int) -> Image.Image:
    """The middle of the image; black where it is smaller."""
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def main(model: str, *paths: str) -> None:
    """Prints the most probable class of each image."""
    session = onnxruntime.InferenceSession(model)
    about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    images = np.stack([prepare(path, about["preprocessing"]) for path in paths])
    probabilities, familiarity = session.run(None, {"images": images})
    for path, row, score in zip(paths, probabilities, familiarity, strict=True):
        threshold = about["familiarity_threshold"]
        doubt = "(unusual)" if threshold is not None and score < threshold else ""
        print(path, about["classes"][row.argmax()], f"{row.max():.1%}", doubt)


if __name__ == "__main__":
    main(*sys.argv[1:])
