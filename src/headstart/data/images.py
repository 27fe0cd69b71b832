"""Any image file as an upright RGB image. Training, the audit and prediction all read images here."""

import io
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from headstart.data.formats import readable_formats
from headstart.data.metadata import orientation_of, upright, without_metadata
from headstart.errors import UnreadableImage

# Pillow warns about odd metadata, but only the pixels matter here. Set once, because filters are not per thread.
warnings.filterwarnings("ignore", module=r"PIL\.")

Result = TypeVar("Result")


def read_rgb(path: str | Path) -> Image.Image:
    """The image at `path` in RGB, rotated upright by its EXIF orientation; the first frame of an animation.

    16-bit samples keep their upper eight bits; transparent areas become white.

    Raises:
        UnreadableImage: names the file and what is wrong with it.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read as an image: {error.strerror}") from error
    return decode(path, content, upright_rgb)


def decode(path: str | Path, content: bytes, use: Callable[[Image.Image], Result]) -> Result:
    """`use(image)` of the image that is the `content` of `path`, opened but not yet decoded.

    Only pixels decide whether it can be read: if metadata are in the way, it is opened without them.

    Raises:
        UnreadableImage: also for errors in `use`; names the file and what is wrong with it.
    """
    try:
        return _open(content, use)
    # Pillow's readers raise errors of many kinds for broken files: OSError, SyntaxError, struct.error, …
    except Exception as error:
        fault, reason = _fault(content, error)
        if fault != "decompression bomb":
            with suppress(Exception):
                return _open(without_metadata(content) or b"", use)
        raise UnreadableImage(f"{path} cannot be read as an image: {reason}", fault) from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """An opened image, decoded, in RGB and upright."""
    image.load()
    return upright(to_rgb(image), orientation_of(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` in RGB: 16-bit samples keep their upper eight bits, transparent areas become white."""
    if image.mode.startswith("I"):
        # Pillow's own conversion would clip at 255 instead of scaling.
        samples = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(samples.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _open(content: bytes, use: Callable[[Image.Image], Result]) -> Result:
    with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
        _check_size(image)
        return use(image)


def _check_size(image: Image.Image) -> None:
    # Pillow itself only warns about images this large, and rejects those twice as large.
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(
            f"its {image.width} × {image.height} pixels are more than {Image.MAX_IMAGE_PIXELS:,}, which looks like a "
            "decompression bomb"
        )


def _fault(content: bytes, error: Exception) -> tuple[str, str]:
    """The kind of fault, one of UnreadableImage.FAULTS, and the reason in words."""
    if isinstance(error, Image.DecompressionBombError):
        return "decompression bomb", str(error)
    if not content:
        return "empty file", "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not an image", "its content is not a known image format"
    reason = str(error) or type(error).__name__
    return "truncated" if "truncated" in reason.lower() else "unreadable", reason
