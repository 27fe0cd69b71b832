"""Any image file as an upright RGB image. Training, the audit and prediction all read images here."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import jpeg_factory

from headstart.data.formats import readable_formats
from headstart.data.metadata import orientation_of, upright, without_metadata
from headstart.data.storage import read_file
from headstart.errors import UnreadableImage

# Pillow warns about odd metadata, but only the pixels matter here. Set once, because filters are not per thread.
warnings.filterwarnings("ignore", module=r"PIL\.")

JPEG_START = b"\xff\xd8\xff"
Result = TypeVar("Result")


# How many bits the samples of a 16-bit file may have.
DEPTHS = (8, 12, 16)
FULL_DEPTH = 16
# Pixels of an image that Pillow allows, unless data.max_pixels says otherwise.
USUAL_LIMIT = Image.MAX_IMAGE_PIXELS


def read_rgb(path: str | Path, depth: int = FULL_DEPTH) -> Image.Image:
    """The image at `path` in RGB, rotated upright by its EXIF orientation; the first frame of an animation.

    16-bit samples keep the upper eight of their lower `depth` bits; transparent areas become white.

    Raises:
        UnreadableImage: names the file and what is wrong with it.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read as an image: {error.strerror}") from error
    return decode(path, content, lambda image: upright_rgb(within_limit(image), depth))


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


def upright_rgb(image: Image.Image, depth: int = FULL_DEPTH) -> Image.Image:
    """An opened image, decoded, in RGB and upright."""
    image.load()
    return upright(to_rgb(image, depth), orientation_of(image))


def to_rgb(image: Image.Image, depth: int = FULL_DEPTH) -> Image.Image:
    """`image` in RGB: of 16-bit samples the upper eight of `depth` bits, transparent areas become white."""
    if is_deep(image):
        # Pillow's own conversion would clip at 255 instead of scaling.
        samples = np.asarray(image).clip(0, 2**depth - 1) >> (depth - 8)
        return Image.fromarray(samples.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def is_deep(image: Image.Image) -> bool:
    """Whether its samples have more than eight bits."""
    return image.mode.startswith("I")


def highest_sample(image: Image.Image) -> int | None:
    """Of a loaded image whose samples have more than eight bits; None: it is another one."""
    return int(np.asarray(image).max().clip(0, 2**FULL_DEPTH - 1)) if is_deep(image) else None


def depth_for(highest: int) -> int:
    """The least of DEPTHS that has the sample value `highest`."""
    return next(depth for depth in DEPTHS if highest < 2**depth)


@contextmanager
def allowed_pixels(most: int | None) -> Iterator[None]:
    """In the block, images of up to `most` pixels are read at full size; None: as many as Pillow allows."""
    before = Image.MAX_IMAGE_PIXELS
    allow_pixels(before if most is None else most)
    try:
        yield
    finally:
        allow_pixels(before)


def allow_pixels(most: int | None) -> None:
    """As `allowed_pixels`, from here on; None: there is no limit."""
    Image.MAX_IMAGE_PIXELS = most


def within_limit(image: Image.Image) -> Image.Image:
    """The opened image, a JPEG at half, a quarter or an eighth of its size if it has more pixels than are allowed.

    Raises:
        DecompressionBombError: it is too large, and of another format.
    """
    most, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
    if most is None or pixels <= most:
        return image
    factor = next((factor for factor in (2, 4, 8) if pixels <= most * factor**2), None)
    if factor is None or image.draft(None, (image.width // factor, image.height // factor)) is None:
        raise Image.DecompressionBombError(
            f"its {image.width} × {image.height} pixels are more than {most:,}, which looks like a decompression bomb; "
            f"data.max_pixels={pixels} allows them"
        )
    return image


def _open(content: bytes, use: Callable[[Image.Image], Result]) -> Result:
    with _opened(content) as image:
        return use(image)


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=readable_formats())
    except Image.DecompressionBombError as error:
        # Pillow itself opens nothing that is twice as large as is allowed.
        if content.startswith(JPEG_START):
            return jpeg_factory(io.BytesIO(content))
        raise Image.DecompressionBombError(f"{str(error).rstrip('.')}; data.max_pixels=N allows more") from None


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
