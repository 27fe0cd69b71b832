"""Any picture file as an upright RGB image."""

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
    with _opened(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)


def check_readable(path: str | Path) -> None:
    """Decodes the whole file, at the smallest scale its format offers.

    Raises:
        UnreadableImage: as `read_rgb` would.
    """
    with _opened(path) as image:
        image.draft("L", (1, 1))
        image.load()


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    # Pillow's readers raise errors of many kinds for broken files: OSError, SyntaxError, struct.error, …
    except Exception as error:
        raise UnreadableImage(f"{path} cannot be read as a picture: {_reason(path, error)}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion would clip at 255 instead of scaling.
        samples = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(samples.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _reason(path: str | Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if os.path.getsize(path) == 0:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "its content is no picture format that is known here"
    return str(error) or type(error).__name__
