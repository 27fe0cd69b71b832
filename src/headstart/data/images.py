"""Any picture file as an upright RGB image."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from headstart.errors import UnreadableImage

# Pillow warns of oddities in metadata; the pixels decide here. Once for all, because it is no thread's own.
warnings.filterwarnings("ignore", module=r"PIL\.")
# torchvision's IMG_EXTENSIONS, and GIF.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether the name says that this is a picture. Hidden files (also macOS's "._x.jpg") are none."""
    name = os.path.basename(path)
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def read_rgb(path: str | Path) -> Image.Image:
    """The picture at `path`, in RGB, turned upright by its EXIF orientation; the first frame of several.

    16-bit samples keep their upper eight bits; what is transparent becomes white.

    Raises:
        UnreadableImage: names the file and what is wrong with it.
    """
    with opened(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)


@contextmanager
def opened(path: str | Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """The picture at `path`, or of its `content`, opened but not yet decoded.

    Raises:
        UnreadableImage: also for what goes wrong in the block: names the file and what is wrong with it.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            _check_size(image)
            yield image
    # Pillow's readers raise errors of many kinds for broken files: OSError, SyntaxError, struct.error, …
    except Exception as error:
        fault, reason = _fault(path, error)
        raise UnreadableImage(f"{path} cannot be read as a picture: {reason}", fault) from error


def _check_size(image: Image.Image) -> None:
    # Pillow itself only warns of pictures this large, and refuses those twice as large.
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(
            f"its {image.width} × {image.height} pixels are more than {Image.MAX_IMAGE_PIXELS:,}, which looks like a "
            "decompression bomb"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """16-bit samples keep their upper eight bits; what is transparent becomes white."""
    if image.mode.startswith("I"):
        # Pillow's own conversion would clip at 255 instead of scaling.
        samples = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(samples.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _fault(path: str | Path, error: Exception) -> tuple[str, str]:
    """The kind of fault, one of UnreadableImage.FAULTS, and the reason in words."""
    if isinstance(error, Image.DecompressionBombError):
        return "decompression bomb", str(error)
    if isinstance(error, OSError) and error.strerror:
        return "unreadable", error.strerror
    if os.path.getsize(path) == 0:
        return "empty file", "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture", "its content is no picture format that is known here"
    reason = str(error) or type(error).__name__
    return "truncated" if "truncated" in reason.lower() else "unreadable", reason
